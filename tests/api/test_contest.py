"""compare: real tiny runs against each other, their bases, their checkpoints and a server; what is kept and refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.fake_judge import FakeJudge, between, serving
from tunesmith import api
from tunesmith.api.contest import _questions
from tunesmith.api.models import first_run, open_model
from tunesmith.config import dump_config, load_config
from tunesmith.errors import DataError, ResourceError, SettingsError
from tunesmith.evaluate import Tools
from tunesmith.generate import Engine
from tunesmith.runs import Run
from tunesmith.types import Example

FAQ = "question,answer\n" + "".join(f"What is the code of colour {n}?,The code is {n * 7}.\n" for n in range(40))
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def home(tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on one file: `a` by its own seed, `b` by another and so with another split."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "faq.csv").write_text(FAQ)
    for name, seed in (("a", 1), ("b", 2)):
        overrides = {
            **{"data.path": str(folder / "faq.csv"), "model.path": str(tiny_model_dir("llama"))},
            **{"method.name": "lora", "train.max_steps": 4, "train.save_steps": 2, "train.keep_best": False},
            **{"seed": seed, "output_dir": str(folder / "runs" / name), "data.max_length": 64},
        }
        api.train(load_config(overrides=overrides))
    return folder


@pytest.fixture(autouse=True)
def inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def test_a_run_against_its_base_and_its_own_checkpoints() -> None:
    result = api.compare(["base", "a", "a@2", "a@4"], overrides={**SHORT})
    contest = result.contest
    assert contest.names == ["base", "a", "a@2", "a@4"]
    assert len(contest.rows) == 4
    last = [(row["answers"]["a"], row["answers"]["a@4"]) for row in contest.rows]
    assert all(saved == step for saved, step in last)  # the last checkpoint is what was saved
    assert result.findings == ()
    written = json.loads((result.folder / "contest.json").read_text())
    assert written == result.to_json()
    assert written["against"] == "base"
    rows = [json.loads(line) for line in (result.folder / "rows.jsonl").read_text().splitlines()]
    assert rows[0]["answers"].keys() == {"base", "a", "a@2", "a@4"}
    assert "a@4" in (result.folder / "report.html").read_text()
    assert len(list((result.folder / "answers").glob("*.jsonl"))) == 4


def test_a_chat_is_kept_with_what_was_said_before(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    turns = [("user", "What is ink?"), ("assistant", "Colour."), ("user", "And paper?"), ("assistant", "Pulp.")]
    chat = [{"role": role, "content": text} for role, text in turns]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    models = [str(tiny_model_dir(name)) for name in ("llama", "gpt2")]
    api.compare(models, data=str(tmp_path / "chats.jsonl"), overrides={**SHORT}, folder=tmp_path / "out")
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert (row["question"], row["conversation"]) == ("And paper?", chat[:3])


def test_a_second_call_asks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = api.compare(["base", "a"], overrides={**SHORT}, folder=tmp_path)
    monkeypatch.setattr(Engine, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert api.compare(["base", "a"], overrides={**SHORT}, folder=tmp_path).contest.rows == first.contest.rows
    with pytest.raises(pytest.fail.Exception, match="asked again"):  # other settings are other answers
        api.compare(["base", "a"], overrides={"max_new_tokens": 5}, folder=tmp_path)


def test_a_second_call_opens_no_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ["base", "a", "a@2"]
    first = api.compare(names, overrides={**SHORT}, folder=tmp_path).to_json()
    opened: list[str] = []
    real = open_model
    monkeypatch.setattr(
        "tunesmith.api.asking.open_model", lambda name, settings: opened.append(name) or real(name, settings)
    )
    assert api.compare(names, overrides={**SHORT}, folder=tmp_path).to_json() == first
    assert opened == []
    api.compare(names, overrides={**SHORT, "model.dtype": "bfloat16"}, folder=tmp_path)
    assert [Path(name).name for name in opened] == names[1:2] + names[1:]  # the base is that of the first run
    weights = Path("runs/a/checkpoints/step-000002/weights.safetensors")
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 10**9))
    opened.clear()
    api.compare(names, overrides={**SHORT}, folder=tmp_path)
    assert opened == ["a@2"]


def test_settings_of_the_model_are_those_of_every_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[Any] = []
    real = open_model

    def watched(name: str, settings: Any) -> Any:
        opened.append(real(name, settings))
        return opened[-1]

    monkeypatch.setattr("tunesmith.api.asking.open_model", watched)
    api.compare(["base", "a"], overrides={**SHORT, "model.dtype": "bfloat16"}, folder=tmp_path)
    assert [str(session.loaded.dtype) for session in opened] == ["torch.bfloat16"] * 2


def test_the_base_answers_as_eval_has_it_answer(tmp_path: Path) -> None:
    measured = api.evaluate("a", overrides={**SHORT})
    compared = api.compare(["base", "a"], overrides={**SHORT}, folder=tmp_path)
    assert [row["answers"]["base"]["text"] for row in compared.contest.rows] == [
        row["prediction"] for row in measured.base.rows
    ]


def test_a_run_with_another_split_is_warned_of(tmp_path: Path) -> None:
    (finding,) = api.compare(["a", "b"], overrides={**SHORT}, folder=tmp_path).findings
    assert finding.code == "other_split"
    assert "b has other data or another split" in finding.message
    (tmp_path / "new.csv").write_text(FAQ.replace("colour", "tone"))
    result = api.compare(["a", "b"], data=str(tmp_path / "new.csv"), overrides={**SHORT, "eval.max_rows": 5})
    assert result.findings == ()
    assert len(result.contest.rows) == 5


def test_a_file_that_a_run_was_trained_on_is_warned_of(home: Path, tmp_path: Path) -> None:
    overrides = {**SHORT, "eval.max_rows": 5}
    found = api.compare(["base", "a", "a@2", "b"], data="faq.csv", overrides=overrides, folder=tmp_path).findings
    assert [one.code for one in found] == ["trained_on", "trained_on"]  # each run once
    assert found[0].message.startswith("a was trained or chosen on ")
    assert " of these 5 rows, the same or nearly" in found[0].message
    assert found[0].message in (tmp_path / "report.html").read_text()
    (tmp_path / "lost.csv").write_text(FAQ)
    config = {"model.path": load_config(stored=home / "runs/a/config.yaml").model.path, "method.name": "lora"}
    more = {"train.max_steps": 1, "output_dir": str(tmp_path / "c"), "data.max_length": 64}
    run = api.train(load_config(overrides={**config, **more, "data.path": str(tmp_path / "lost.csv")})).run
    (tmp_path / "lost.csv").unlink()
    (lost,) = api.compare(["base", str(run.path)], data="faq.csv", overrides={**SHORT, "eval.max_rows": 5}).findings
    assert lost.code == "not_checked"
    assert "whether c was trained on these rows is not known: the training rows cannot be read" in lost.message


def test_a_question_that_is_too_long_is_asked_as_eval_asks_it(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text(f"question,answer\n{'Which of them? ' * 200},The first.\nWho?,Nobody.\n")
    settings = {**SHORT, "data.max_length": 64}
    measured = api.evaluate("a", data=str(tmp_path / "long.csv"), overrides=settings)
    rows = api.compare(["base", "a"], data=str(tmp_path / "long.csv"), overrides=settings, folder=tmp_path).contest.rows
    for name, side in (("base", measured.base), ("a", measured.tuned)):
        assert [row["answers"][name]["text"] for row in rows] == [row["prediction"] for row in side.rows]
    (tmp_path / "long.yaml").write_text(f"- {'Which of them? ' * 200}\n")
    with pytest.raises(DataError, match="the model reads at most"):
        api.compare(["base", "a"], questions=str(tmp_path / "long.yaml"), overrides={**SHORT})


def test_plain_text_is_compared_by_how_likely_each_finds_it(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tales = [{"text": f"Once upon a time there were {n} presses. " * (1 + 40 * (n == 3))} for n in range(12)]
    (tmp_path / "tales.jsonl").write_text("".join(json.dumps(tale) + "\n" for tale in tales))
    bases = [str(tiny_model_dir(name)) for name in ("llama", "qwen2")]
    result = api.compare(bases, data=str(tmp_path / "tales.jsonl"), overrides={**SHORT}, folder=tmp_path / "out")
    contest = result.contest
    assert (contest.deciding, contest.row_count, contest.rows) == ("bits_per_byte", 12, [])
    match = contest.matches[bases[1]]
    assert match.wins + match.losses + match.ties == match.changes["bits_per_byte"].rows == 12
    assert json.loads((tmp_path / "out" / "contest.json").read_text())["rows"] == 12
    assert "12 rows;" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "rows.jsonl").read_text() == ""
    (tmp_path / "tales.csv").write_text("text\n" + "".join(tale["text"] + "\n" for tale in tales))
    settings = {"data.path": str(tmp_path / "tales.csv"), "model.path": bases[0], "train.max_steps": 2}
    run = str(api.train(load_config(overrides={**settings, "output_dir": str(tmp_path / "tales")})).run.path)
    measured = api.evaluate(run, data=str(tmp_path / "tales.jsonl"))
    compared = api.compare(["base", run], data=str(tmp_path / "tales.jsonl"), folder=tmp_path / "own").contest
    for name, side in (("base", measured.base), (run, measured.tuned)):
        for score, value in side.metrics.items():
            assert compared.scores[name][score].value == pytest.approx(value)
    monkeypatch.setattr("tunesmith.evaluate.likelihood.row_nll", lambda *_, **__: pytest.fail("measured again"))
    again = api.compare(["base", run], data=str(tmp_path / "tales.jsonl"), folder=tmp_path / "own").contest
    assert again.to_json() == compared.to_json()
    with pytest.raises(SettingsError, match=r"tales.jsonl is plain text, and how likely ollama:x finds it"):
        api.compare([run, "ollama:x"], data=str(tmp_path / "tales.jsonl"))


def test_a_setting_that_does_not_reach_a_server_is_told_once(tmp_path: Path) -> None:
    overrides = {**SHORT, "eval.max_rows": 2, "temperature": 0.5, "top_k": 3}
    with serving(FakeJudge(lambda text: "anything")) as owl:
        result = api.compare(["a", owl.address], overrides=overrides, folder=tmp_path)
        panel = api.open_panel(["a", owl.address], overrides={**SHORT, "top_k": 3})
    (finding,) = result.findings
    assert f"known to take it: generate.top_k (to {owl.address}); what is set there holds" in finding.message
    assert finding.message in (tmp_path / "report.html").read_text()
    assert panel.findings == []  # it takes the likeliest token
    panel.set_generation("temperature", "0.5")
    assert panel.findings == [finding]


def test_checks_are_about_the_last_model(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        """- {question: "Which?", check: {regex: ".*"}}\n- {question: "Who?", check: {contains: nobodyever}}\n"""
    )
    result = api.compare(["base", "a"], questions=str(cases), overrides={**SHORT}, folder=tmp_path / "out")
    assert [case.failed for case in result.cases] == [(), ("contains: nobodyever",)]
    assert [case.question for case in result.failed] == ["Who?"]
    assert "Failed checks" in (tmp_path / "out" / "report.html").read_text()


def test_a_judge_of_both_models_and_of_cases(tmp_path: Path) -> None:
    """Its replies are kept with the answers; without references it is its score that decides."""

    def reply(text: str) -> str:
        if "<answer_a>" in text:
            return f"BETTER: {'A' if between(text, 'answer_a') > between(text, 'answer_b') else 'B'}"
        return "VERDICT: fail" if "VERDICT" in text else f"SCORE: {1 + len(between(text, 'answer')) % 10}"

    cases = tmp_path / "cases.yaml"
    cases.write_text("- {question: 'Which?', check: {judge: pass}}\n- Who?\n")
    out = tmp_path / "out"
    with serving(FakeJudge(reply)) as owl:
        overrides = {**SHORT, "eval.judge": owl.address, "eval.metrics": ["auto", "judge_preference"]}
        result = api.compare(["base", "a"], questions=str(cases), overrides=overrides, folder=out)
        asked = len(owl.asked)
        again = api.compare(["base", "a"], questions=str(cases), overrides=overrides, folder=out)
    assert len(owl.asked) == asked
    assert again.to_json() == result.to_json()
    assert result.contest.deciding == "judge_score"
    assert set(result.contest.scores["a"]) == {"ended", "repetition", "words", "judge_score", "judge_preference"}
    assert result.failed[0].failed == ("judge: pass, the judge: VERDICT: fail",)
    assert len(list((out / "answers").glob("judge-*.jsonl"))) == 1
    page = (out / "report.html").read_text()
    assert "what can be told without" in page
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    first = rows[0]["answers"]
    assert [said["text"] for said in rows[0]["judge"]["base"]] == [f"SCORE: {1 + len(first['base']) % 10}"]
    assert [said["metric"] for said in rows[0]["judge"]["a"]] == [
        "judge_score",
        *(["judge_preference"] if first["a"] != first["base"] else []),  # the same answer twice is not asked
    ]
    assert page.count('<details class="said">') == sum(len(said) for row in rows for said in row["judge"].values())


def test_what_says_that_all_is_new_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cases.yaml").write_text("- Which?\n")

    def killed(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("tunesmith.api.contest.report_html", killed)
    with pytest.raises(KeyboardInterrupt):
        api.compare(["base", "a"], questions=str(tmp_path / "cases.yaml"), overrides={**SHORT}, folder=tmp_path / "out")
    assert (tmp_path / "out" / "rows.jsonl").exists()
    assert not (tmp_path / "out" / "contest.json").exists()


def test_what_a_judge_is_asked_without_is_told(tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text("- Which?\n")
    with serving(FakeJudge(lambda text: "SCORE: 7")) as owl:
        owl.refuses = ("temperature", "top_p")
        overrides = {**SHORT, "eval.judge": owl.address}
        measured = api.evaluate("a", overrides=overrides)
        compared = api.compare(
            ["base", "a"], questions=str(tmp_path / "cases.yaml"), overrides=overrides, folder=tmp_path / "out"
        )
    for findings in (measured.findings, compared.findings):
        (found,) = findings
        assert (found.code, found.message) == ("setting_refused", "the judge owl refuses temperature")
    assert measured.tuned.metrics["judge_score"] == 7


@pytest.mark.parametrize(
    ("names", "more", "error", "message"),
    [
        (["a"], {}, SettingsError, "nothing to compare with"),
        (["a", "a"], {}, SettingsError, "a is named twice"),
        (["a", "nope"], {}, SettingsError, "no run 'nope'"),
        (["base", "ollama:x"], {"questions": "cases.yaml"}, SettingsError, "base is the base of a run"),
        (["ollama:x", "ollama:y"], {}, SettingsError, "there are no questions"),
        (["a", "b"], {"questions": "x.yaml", "data": "y.csv"}, SettingsError, "both given"),
        (["a", "b"], {"questions": "missing.yaml"}, DataError, "cannot read"),
        (["a", "a@9"], {}, ResourceError, "no checkpoint of step 9"),
        (["a", "http://127.0.0.1:9/v1#x"], {}, ResourceError, "cannot be reached"),
        (["base", "a"], {"overrides": {"eval.metrics": ["rouge"]}}, SettingsError, "eval.metrics:"),
        (["base", "a"], {"overrides": {"eval.judge": "http://127.0.0.1:9/v1#x"}}, ResourceError, "cannot be reached"),
        (
            ["base", "a", "a@2"],
            {"overrides": {"eval.judge": "ollama:x", "eval.metrics": ["judge_preference"]}},
            *(SettingsError, "eval.metrics:"),
        ),
    ],
)
def test_what_cannot_be_compared_is_told(
    names: list[str], more: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    Path("cases.yaml").write_text("- Which?\n")
    with pytest.raises(error, match=message):
        api.compare(names, folder=tmp_path, **{**more, "overrides": {**SHORT, **more.get("overrides", {})}})


def test_a_checkpoint_that_is_damaged_is_not_asked(tmp_path: Path) -> None:
    shutil.copytree("runs/a", tmp_path / "a")
    weights = tmp_path / "a" / "checkpoints" / "step-000002" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ResourceError, match="step-000002 is damaged") as caught:
        api.compare(["base", f"{tmp_path / 'a'}@2"], overrides={**SHORT}, folder=tmp_path / "out")
    assert caught.value.cause == "weights.safetensors does not match its SHA-256"


# --- a run against its base, on its test rows and on files


def test_a_second_evaluation_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = api.evaluate("a", overrides={**SHORT})
    monkeypatch.setattr(Engine, "generate", lambda *_, **__: pytest.fail("asked again"))
    monkeypatch.setattr("tunesmith.evaluate.likelihood.row_nll", lambda *_, **__: pytest.fail("measured again"))
    second = api.evaluate("a", overrides={**SHORT})
    assert [line.change for line in second.changes] == [line.change for line in first.changes]
    assert second.tuned.rows == first.tuned.rows


def test_another_file_is_measured_beside_the_test_rows(home: Path) -> None:
    own = api.evaluate("a", overrides={**SHORT})
    card = (own.run.model_dir / "README.md").read_text()
    (home / "new.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"What is the code of {what}?", "completion": "The code is 7."}) + "\n"
            for what in ("colour 3", "rain", "snow")
        )
    )
    found = api.evaluate("a", data="new.jsonl", overrides={**SHORT})
    assert found.folder == own.run.eval_dir / "files" / "new.jsonl"
    assert [row["question"] for row in found.tuned.rows][1:] == [
        "What is the code of rain?",
        "What is the code of snow?",
    ]
    assert json.loads((found.folder / "summary.json").read_text())["rows"] == 3
    assert len((found.folder / "predictions.jsonl").read_text().splitlines()) == 3
    page = (found.folder / "report.html").read_text()
    assert "on new.jsonl" in page
    assert page.index("What was asked") < page.index("What it was trained on") < page.rindex("faq.csv")
    assert found.to_json()["data"]["rows_read"] == 3
    assert json.loads((own.run.eval_dir / "summary.json").read_text())["rows"] == own.tuned.row_count
    assert (own.run.model_dir / "README.md").read_text() == card
    (leak,) = found.leakage.leaks  # colour 3 is a training row
    assert (leak.file, leak.row, leak.kind) == ("new.jsonl", 1, "same question")
    assert (Path(leak.seen_file).name, leak.seen_row) == ("faq.csv", 5)


def test_settings_beside_a_file_are_about_how_it_is_read(tmp_path: Path) -> None:
    """What the error about its columns says to give."""
    file = tmp_path / "codes.csv"
    file.write_text("foo;bar;baz\n" + "".join(f"thing {n};part {n};kind {n}\n" for n in range(12)))
    with pytest.raises(DataError, match="cannot tell which columns"):
        api.evaluate("a", data=str(file), overrides={**SHORT})
    columns = {"data.columns.question": "baz", "data.columns.answer": "foo", "data.delimiter": ";"}
    measured = api.evaluate("a", data=str(file), overrides={**SHORT, **columns})
    assert [(row["question"], row["reference"]) for row in measured.tuned.rows][:1] == [("kind 0", "thing 0")]
    for models in (["base", "a"], [str(Path(measured.run.settings["model"]["path"])), "ollama:x"]):
        asked = _asked_of(models, file, {**SHORT, **columns})
        assert (asked[0].question, asked[0].answer) == ("kind 0", "thing 0")
    (tmp_path / "tale.txt").write_text("Once upon a time.\n\nThere was a press.\n")
    found = api.evaluate("a", data=str(tmp_path / "tale.txt"), overrides={**SHORT, "data.shape": "text"})
    assert (found.tuned.row_count, found.tuned.deciding) == (2, "perplexity")


def _asked_of(models: list[str], file: Path, overrides: dict[str, object]) -> list[Example]:
    run = first_run(models)
    config = load_config(stored=run.config_path if run else None, overrides=overrides)
    return _questions(run, config, Tools(), None, str(file)).examples


def test_cases_of_a_file_are_kept_in_the_run(home: Path) -> None:
    (home / "own.yaml").write_text('- {question: "Who?", check: {contains: nobodyever}}\n')
    result = api.evaluate_cases("a", "own.yaml", overrides={**SHORT})
    assert result.contest.names == ["base", "a"]
    assert len(result.failed) == 1
    assert (home / "runs" / "a" / "eval" / "files" / "own.yaml" / "contest.json").is_file()


def test_an_empty_test_split_says_what_to_do(home: Path) -> None:
    overrides = {"data.split.train": 0.9, "data.split.validation": 0.1, "data.split.test": 0.0}
    run = Run.open("a")
    before = run.config_path.read_text(encoding="utf-8")
    run.update_config(dump_config(load_config(stored=run.config_path, overrides=overrides)))
    try:
        with pytest.raises(DataError, match="a has no test rows") as caught:
            api.evaluate("a")
    finally:
        run.update_config(before)
    assert "--data FILE" in str(caught.value.fix)


def test_a_run_that_classifies_chooses_on_other_rows_too(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "mail.csv").write_text(
        "text,label\n" + "".join(f"message {n} of the day,{['ham', 'spam'][n % 2]}\n" for n in range(40))
    )
    overrides = {"data.path": str(tmp_path / "mail.csv"), "model.path": str(tiny_model_dir("llama"))}
    api.train(load_config(overrides={**overrides, "train.max_steps": 2, "output_dir": str(tmp_path / "mail")}))
    run = str(tmp_path / "mail")
    (tmp_path / "new.csv").write_text("text,label\none more,ham\nand one,spam\nodd,unheard\n")
    found = api.evaluate(run, data=str(tmp_path / "new.csv"))
    assert {row["prediction"] for row in found.tuned.rows} <= {"ham", "spam"}
    assert found.to_json()["labels"]["unseen"] == {"unheard": 1}
    compared = api.compare(["base", run], data=str(tmp_path / "new.csv"), folder=tmp_path / "out")
    assert compared.contest.deciding == "accuracy"
    assert {row["answers"][run]["text"] for row in compared.contest.rows} <= {"ham", "spam"}
    assert "other_labels" not in {finding.code for finding in compared.findings}
    (tmp_path / "post.csv").write_text((tmp_path / "mail.csv").read_text().replace("spam", "offer"))
    other = str(tmp_path / "post")
    api.train(
        load_config(overrides={**overrides, "data.path": f"{other}.csv", "train.max_steps": 2, "output_dir": other})
    )
    several = api.compare(["base", run, other], data=str(tmp_path / "new.csv"), folder=tmp_path / "several")
    (told,) = [finding.message for finding in several.findings if finding.code == "other_labels"]
    assert told.startswith("post chooses among the labels of mail here, and was trained on others: ")
    assert told.endswith('of mail alone "spam"; of post alone "offer"')
    (tmp_path / "none.csv").write_text("text,label\none more,unheard\n")
    with pytest.raises(DataError, match="none of the 1 test rows has a label that the run was trained on"):
        api.evaluate(run, data=str(tmp_path / "none.csv"))


# --- several models at once


def test_a_panel_answers_as_the_models_do_and_loads_a_base_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = open_model
    monkeypatch.setattr(
        "tunesmith.api.panel.open_model", lambda name, settings: opened.append(name) or real(name, settings)
    )
    panel = api.open_panel(["base", "a", "a@2"], overrides={**SHORT})
    assert opened == ["a", "a@2"]
    question = "What is the code of colour 3?"
    replies = {reply.name: reply.text for reply in panel.ask(question)}
    Path("one.yaml").write_text(f"- {question}\n")
    row = api.compare(["base", "a", "a@2"], questions="one.yaml", overrides={**SHORT}).contest.rows[0]
    assert replies == {name: answer["text"] for name, answer in row["answers"].items()}
    panel.set_generation("max_new_tokens", "1")
    assert all(reply.tokens <= 1 for reply in panel.ask(question))
    with pytest.raises(SettingsError):
        panel.set_generation("temperature", "-1")


def test_the_memory_of_the_weights_is_counted(tmp_path: Path) -> None:
    contest = api.compare(["base", "a"], overrides={**SHORT}, folder=tmp_path).contest
    assert contest.memory_bytes["a"] > contest.memory_bytes["base"] > 0  # the adapter on top
