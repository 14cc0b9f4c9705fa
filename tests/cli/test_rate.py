"""`tunesmith rate` without its page: places, rules, results, rows to train on, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith import optional, rating
from tunesmith.errors import ResourceError
from tunesmith.rating.votes import Vote
from tunesmith.runs import Run

ROWS = [{"question": f"Q{n}?", "answers": {"one": f"1 of {n}", "two": f"2 of {n}"}} for n in range(30)]


@pytest.fixture
def answers(home: Path) -> Path:
    path = home / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[rating.Session]:
    """Sessions that would have been served."""
    sessions: list[rating.Session] = []

    def serve(session, *, announce, port=None) -> None:
        sessions.append(session)
        announce(f"http://127.0.0.1:{port or 1234}/?key=k")

    monkeypatch.setattr(rating, "serve", serve)
    return sessions


def vote_all(session: rating.Session, winner: str, rater: str = "Ann", count: int = 30) -> None:
    for task in session.tasks[:count]:
        session.votes.append(Vote(task.id, rater, "left" if task.contestants[0] == winner else "right"))


def test_a_file_is_rated_in_a_folder_beside_it(cli, served, answers) -> None:
    done = cli("rate", "answers.jsonl", "--port", "99")
    assert (done.code, done.out) == (0, "open  http://127.0.0.1:99/?key=k\n")
    assert "30 comparisons of 30 questions, kept in answers.rating" in done.err
    assert "0 votes in answers.rating/votes.jsonl; tunesmith rate answers.jsonl --results" in done.err
    again = cli("rate", "answers.jsonl", "--json")
    assert json.loads(again.out)["address"] == "http://127.0.0.1:1234/?key=k"
    assert served[0] == served[1]
    assert cli("rate", "answers.rating").code == 0
    assert served[2] == served[0]


def test_a_run_is_rated_in_its_own_folder(cli, served, home, answers) -> None:
    run = Run.create("runs/faq", config_text="seed: 0\n", manifest={})
    refused = cli("rate", "faq")
    assert refused.code == 3
    assert "faq has no answers to rate" in refused.err
    assert "tunesmith eval faq" in refused.err
    run.eval_dir.mkdir()
    row = {"question": "Q", "reference": "R", "base": {"prediction": "b"}, "tuned": {"prediction": "t"}}
    (run.eval_dir / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    assert cli("rate", "faq", "--reference").code == 0
    assert served[0].folder == Path("runs/faq/eval/rating")
    assert served[0].contestants == ["base", "tuned"]
    assert served[0].show_reference


def test_it_goes_on_with_the_answers_it_began_with(cli, served, answers) -> None:
    cli("rate", "answers.jsonl", "--rows", "5")
    answers.write_text(answers.read_text().replace("1 of", "9 of"))
    again = cli("rate", "answers.jsonl")
    assert "has changed since" in again.err
    assert served[1] == served[0]
    refused = cli("rate", "answers.jsonl", "--rows", "6", "--scale", "correct")
    assert refused.code == 2
    assert "--rows 6: it has 5 questions" in refused.err
    assert "--scale correct: it is a comparison in pairs" in refused.err
    assert cli("rate", "answers.jsonl", "--scale", "correct, helpful", "--out", "other").code == 0
    assert served[-1].criteria == ("correct", "helpful")
    assert "tunesmith rate answers.jsonl --out other --results" in cli("rate", "answers.jsonl", "--out", "other").err


def test_results_as_text_and_as_json(cli, served, answers) -> None:
    cli("rate", "answers.jsonl")
    vote_all(served[0], "two")
    vote_all(served[0], "two", "Bob\x1b[31m", count=10)
    shown = cli("rate", "answers.jsonl", "--results")
    assert shown.code == 0
    assert "40 votes on 30 of 30 tasks by Ann (30), Bob␛[31m (10)" in shown.out
    assert "two over one" in shown.out
    assert "100%, 89% to 100%" in shown.out
    assert "two is preferred (hangs on 23 questions)" in " ".join(shown.out.split())
    assert "Cohen's kappa" in shown.out
    document = json.loads(cli("rate", "answers.jsonl", "--results", "--json").out)
    (pair,) = document["pairs"]
    assert (document["schema_version"], pair["preferred"], pair["tally"]["wins"]) == (1, "two", 30)


def test_results_before_any_vote(cli, served, answers) -> None:
    refused = cli("rate", "answers.jsonl", "--results")
    assert refused.code == 2
    assert "nothing of answers.jsonl has been rated" in refused.err
    cli("rate", "answers.jsonl")
    shown = cli("rate", "answers.jsonl", "--results")
    assert "0 votes on 0 of 30 tasks by nobody yet" in shown.out
    assert "not decided; about 90 more questions" in " ".join(shown.out.split())
    assert json.loads(cli("rate", "answers.jsonl", "--results", "--json").out)["pairs"][0]["share"]["value"] is None


def test_results_of_scores_and_of_three_models(cli, served, home) -> None:
    rows = [{"question": f"Q{n}", "answers": {x: f"{x} {n}" for x in ("one", "two", "three")}} for n in range(12)]
    (home / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli("rate", "a.jsonl", "--scale", "correct", "--out", "scores")
    for task in served[0].tasks:
        served[0].votes.append(
            Vote(task.id, "Ann", scores={"correct": {"one": 1, "two": 4, "three": 2}[task.contestants[0]]})
        )
    shown = cli("rate", "scores", "--results").out
    assert "change from one" in shown
    assert "two      4.00  4.00 to 4.00" in shown
    assert "+3.00" in shown
    assert "better" in shown
    cli("rate", "a.jsonl", "--out", "pairs")
    order = ["one", "two", "three"]
    for place, task in enumerate(served[1].tasks):
        best = (max if place % 3 else min)(task.contestants, key=order.index)
        served[1].votes.append(Vote(task.id, "Ann", "left" if task.contestants[0] == best else "right"))
    shown = cli("rate", "pairs", "--results").out
    assert "Bradley-Terry" in shown
    assert shown.count(" over ") == 3


def test_a_damaged_vote_is_told(cli, served, answers) -> None:
    cli("rate", "answers.jsonl")
    vote_all(served[0], "one", count=2)
    with served[0].votes.path.open("a") as file:
        file.write('{"task": "')
    for arguments in (("--results",), ()):
        told = cli("rate", "answers.jsonl", *arguments)
        assert told.code == 0
        assert "damaged, kept and not counted: line 3" in told.err


def test_preferences_are_written_and_can_be_read_as_data(cli, served, answers, home) -> None:
    cli("rate", "answers.jsonl")
    refused = cli("rate", "answers.jsonl", "--export", "p.jsonl")
    assert "vote first: tunesmith rate answers.jsonl" in refused.err
    assert (refused.code, (home / "p.jsonl").exists()) == (3, False)
    vote_all(served[0], "two")
    assert "wrote 30 preferences to p.jsonl" in cli("rate", "answers.jsonl", "--export", "p.jsonl").err
    rows = [json.loads(line) for line in (home / "p.jsonl").read_text().splitlines()]
    assert {"prompt": "Q3?", "chosen": "2 of 3", "rejected": "1 of 3"} in rows

    from tunesmith.config import load_config
    from tunesmith.data import prepare

    prepared = prepare(load_config(overrides={"data.path": str(home / "p.jsonl")}))
    trained = {(e.question, e.answer) for e in (*prepared.train, *prepared.validation, *prepared.test)}
    assert ("Q3?", "2 of 3") in trained


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 2, "there is no run 'nothing'"),
        (["answers.jsonl", "--rows", "0"], 2, "--rows 0 leaves nothing to rate"),
        (["answers.jsonl", "--scale", "a,,b"], 2, "--scale a,,b has an empty criterion, or one twice"),
        (["answers.jsonl", "--scale", "a,a"], 2, "--scale a,a has an empty criterion, or one twice"),
        (["faq.jsonl"], 3, "faq.jsonl has no answers to rate: it is empty"),
        (["d.jsonl", "--out", "x", "--results"], 2, "nothing of d.jsonl has been rated in x"),
    ],
)
def test_what_is_wrong_is_told(cli, served, answers, arguments: list[str], code: int, message: str) -> None:
    done = cli("rate", *arguments)
    assert (done.code, served) == (code, [])
    assert message in done.err


@pytest.mark.parametrize("port", ["80000", "0", "-1"])
def test_a_port_that_is_none_is_refused_before_a_rating_is_begun(cli, served, answers, port: str) -> None:
    done = cli("rate", "answers.jsonl", "--port", port)
    assert (done.code, served, Path("answers.rating").exists()) == (2, [], False)
    assert f"--port {port}: ports are 1 to 65535" in done.err


def test_a_missing_package_is_told_with_its_command(cli, answers, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.rating import server

    def missing(module: str, *, extra: str) -> None:
        raise ResourceError(f"no {module}", fix=f'pip install "tunesmith[{extra}]"')

    assert server.need is optional.need
    monkeypatch.setattr(server, "need", missing)
    done = cli("rate", "answers.jsonl")
    assert done.code == 4
    assert 'pip install "tunesmith[rate]"' in done.err
