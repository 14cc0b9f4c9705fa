"""eval, ask and chat on a run that classifies, and recipes show: what reaches the user."""

from __future__ import annotations

import io
import json
import math
from types import SimpleNamespace

import pytest

from tunesmith.cli.chat import Conversation
from tunesmith.config import load_config, read_recipe
from tunesmith.evaluate import report_labels
from tunesmith.generate import Choice


@pytest.fixture
def mail(api):
    """A run that takes texts with "win" for spam."""
    run = api.make_run(load_config(overrides={"name": "mail", "data.path": "faq.xlsx"}))
    session = api.open_session("mail", {})
    api.calls.clear()
    session.labels = {"ham": 8, "spam": 2}

    def choose(messages, *, base=False):
        shares = (0.1, 0.9) if "win" in messages[-1].content else (0.75, 0.25)
        return Choice(("ham", "spam"), tuple(map(math.log, reversed(shares) if base else shares)))

    session.choose = choose
    return run


def test_ask_prints_label_and_probability(cli, mail) -> None:
    outcome = cli("ask", "mail", "win a car")
    assert (outcome.code, outcome.out) == (0, "spam  0.900\n")
    assert outcome.err == "then ham (0.100)\n"
    assert cli("ask", "mail", "see you", "--base").out == "spam  0.750\n"


def test_ask_json_has_all_probabilities(cli, mail) -> None:
    document = json.loads(cli("ask", "mail", "see you", "--json").out)
    assert document["answer"] == "ham"
    assert document["probability"] == pytest.approx(0.75)
    assert document["probabilities"] == pytest.approx({"ham": 0.75, "spam": 0.25})


def test_chat_classifies_each_line_on_its_own(cli, mail, api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"win!\nsee you\n"), encoding="utf-8"))
    assert cli("chat", "mail").out == "spam  0.900\nham  0.750\n"
    talk = Conversation(api.session, "mail", base=False, show_both=lambda base, tuned: None)
    for text in ("win!", "see you"):
        talk.ask(text, lambda piece: None)
    assert [message.content for message in talk.turns] == ["see you", "ham"]


def test_a_correction_that_is_no_label_is_told(cli, mail, api) -> None:
    talk = Conversation(api.session, "mail", base=False, show_both=lambda base, tuned: None)
    talk.ask("win!", lambda piece: None)
    told = talk.command("/bad Ham")
    assert told is not None
    assert told.endswith("; Ham is none of the labels that the run knows: ham, spam")
    assert "none of the labels" not in str(talk.command("/bad ham"))


def test_eval_shows_labels_confusions_and_the_baseline(cli, mail, api, monkeypatch: pytest.MonkeyPatch) -> None:
    right, chosen = ["ham"] * 6 + ["spam"] * 3 + ["Spam"], ["ham"] * 5 + ["spam"] * 5
    by_label = report_labels(chosen, right)
    scores = {name: vars_of(value) for name, value in by_label.classes.items()}
    labels = {"always": {"label": "ham", "accuracy": 0.6}, "unseen": {"Spam": 1}, "base": scores, "tuned": scores}
    plain = api.evaluate

    def evaluate(*arguments, **options):
        found = plain(*arguments, **options)
        found.tuned = SimpleNamespace(
            rows=found.tuned.rows, row_count=10, by_label=by_label, tasks={}, skipped_rows=(), why=""
        )
        found.to_json = lambda: {"labels": labels}
        ends = {"low": -2.0, "high": -1.0}
        found.changes.append(
            SimpleNamespace(
                title="log loss", is_share=False, base=2.0, tuned=0.5, change=-1.5, verdict="better", **ends
            )
        )
        return found

    monkeypatch.setattr(api, "evaluate", evaluate)
    outcome = cli("eval", "mail")
    assert outcome.code == 0
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["log", "loss", "2.00", "0.50", "-1.50", "-2.00", "to", "-1.00", "better"] in lines
    assert ["spam", "3", "60.0", "100.0", "75.0", "75.0"] in lines
    assert ["ham", "spam", "1"] in lines
    assert "always giving the most frequent label, 'ham', is right in 60.0%" in outcome.out
    assert "1 test row has a label that training has not seen ('Spam')" in outcome.err


def vars_of(scores) -> dict[str, float]:
    return {name: getattr(scores, name) for name in ("precision", "recall", "f1", "support")}


# --- recipes show


def test_a_recipe_is_explained_with_its_source(cli) -> None:
    outcome = cli("recipes", "show", "gpt2-finetune")
    text = " ".join(outcome.out.split())
    assert "source Training Improvements for GPT-2 Fine-tuning" in text
    assert "train.learning_rate 1e-05 the most urgent change" in text
    document = json.loads(cli("recipes", "show", "gpt2-finetune", "--json").out)
    assert document["source"] == read_recipe("gpt2-finetune").source
    assert {"name": "method.r", "value": 16, "reason": "up from 8, for more capacity"} in document["values"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["show"], "recipes show needs the name of a recipe"),
        (["show", "quikstart"], "did you mean 'quickstart'"),
        (["quickstart", "more"], "tunesmith recipes show quickstart"),
    ],
)
def test_recipes_that_cannot_be_shown(words: list[str], part: str, cli) -> None:
    outcome = cli("recipes", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert part in outcome.err
