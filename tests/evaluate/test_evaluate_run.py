"""One measurement of a model, and two of them side by side."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.evaluate.fake_judge import FakeJudge, between, serving
from tunesmith.config import load_config
from tunesmith.data import encode
from tunesmith.errors import DataError, ResourceError, SettingsError
from tunesmith.evaluate import (
    EVALUATORS,
    AnswerLog,
    Evaluation,
    Judge,
    Rows,
    Tools,
    compare_table,
    contest,
    evaluate,
    likelihood_rows,
    mean_nll,
    predictions,
    summarise,
    with_preference,
)
from tunesmith.evaluate.material import rows_of
from tunesmith.generate import Engine
from tunesmith.prompts import check_template
from tunesmith.types import Example, Message

CONFIG = load_config(overrides={"eval.batch_size": 2, "seed": 7})
SETTINGS = CONFIG.generate
OF_REFERENCES = ["exact_match", "token_f1", "chrf"]
METRICS = ["perplexity", "bits_per_byte", *OF_REFERENCES, "ended", "repetition", "words"]


def perplexity_of(nll):
    return EVALUATORS["perplexity"].measure(Rows(nll=nll))


def pair(question, answer, row, sheet=None, context=None):
    return Example((Message("user", question, context), Message("assistant", answer)), row=row, sheet=sheet)


EXAMPLES = [
    pair("What is a press?", "A machine that prints.", 2, "FAQ"),
    pair("Where?", "Paris", 3, "FAQ", context="The press stands in Paris."),
    pair("What does a model do?", "It learns sentences.", 2, "More"),
]


class Scripted:
    """An engine that writes what it is told; model, tokenizer and template are real. answers: of the rows in order."""

    def __init__(self, engine, answers):
        self.model, self.tokenizer, self.template = engine.model, engine.tokenizer, engine.template
        self.context_tokens = engine.context_tokens
        self.answers, self.calls, self.script = answers, [], {}

    def learn(self, examples):
        self.script = dict(zip((tuple(example.prompt) for example in examples), self.answers, strict=False))

    def generate(self, conversations, settings, *, seed, batch_size, on_progress, on_answers):
        self.calls.append((list(conversations), settings, seed, batch_size))
        if on_progress:
            on_progress(len(conversations), len(conversations))
        texts = [self.script.get(tuple(asked), self.answers[0]) for asked in conversations]
        said = [SimpleNamespace(text=text, token_ids=(5, 6), finish_reason="stop") for text in texts]
        on_answers(dict(enumerate(said)))
        return said


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model_dir("llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Engine(AutoModelForCausalLM.from_pretrained(folder), tokenizer, check_template("chat", tokenizer))


def encoded(examples, engine):
    places = [replace(example, row=place) for place, example in enumerate(examples)]
    return encode(places, engine.template, engine.tokenizer, max_length=256)[0]


def measure(engine, examples=EXAMPLES, **changes):
    if isinstance(engine, Scripted):
        engine.learn(examples)
    return evaluate(engine, examples, encoded(examples, engine), **{"config": CONFIG, **changes})


def test_metrics_rows_and_what_was_asked(engine):
    scripted = Scripted(engine, ["A machine which prints.", "Paris!", "Nothing."])
    done = []
    found = measure(scripted, on_progress=lambda *counts: done.append(counts))

    assert list(found.metrics) == METRICS
    nll = mean_nll(engine.model, encoded(EXAMPLES, engine), tokens_per_batch=1)
    assert found.metrics["perplexity"] == pytest.approx(nll.perplexity, rel=1e-5)
    size = sum(len(example.answer.encode()) for example in EXAMPLES)
    assert found.metrics["bits_per_byte"] == pytest.approx(nll.nll / math.log(2) / size, rel=1e-5)
    assert (found.deciding, found.why.split(":")[0]) == (
        "token_f1",
        "answers of 3 words (median) are facts, codes or names",
    )
    for name in OF_REFERENCES:
        assert found.metrics[name] == EVALUATORS[name](scripted.answers, [example.answer for example in EXAMPLES])
    assert found.metrics["exact_match"] == pytest.approx(1 / 3)

    assert found.rows[1] == {
        "row": 3,
        "sheet": "FAQ",
        "question": "Where?\nThe press stands in Paris.",
        "reference": "Paris",
        "prediction": "Paris!",
        "finish_reason": "stop",
        "exact_match": 1.0,
        "token_f1": 1.0,
        "repetition": 0.0,
        "words": 1.0,
    }
    assert [(row["row"], row["sheet"]) for row in found.rows] == [(2, "FAQ"), (3, "FAQ"), (2, "More")]
    assert found.row_count == 3
    assert found.skipped_rows == ()
    assert found.seconds > 0
    assert found.tokens_per_second > 0
    assert done == [(3, 3)]
    # the answers themselves must not be in what the model is shown
    assert scripted.calls == [([example.prompt for example in EXAMPLES], SETTINGS, 7, 2)]


def test_a_row_of_a_chat_has_all_that_was_asked_and_so_has_a_judge(engine):
    turns = [("system", "Be short."), ("user", "What is ink?"), ("assistant", "Colour."), ("user", "And paper?")]
    chat = Example(tuple(Message(role, text) for role, text in [*turns, ("assistant", "Pressed pulp.")]), row=4)
    found = measure(Scripted(engine, ["Pulp."]), examples=[chat])
    assert found.rows[0]["question"] == "And paper?"
    assert found.rows[0]["conversation"] == [{"role": role, "content": text} for role, text in turns[1:]]
    assert rows_of([chat, EXAMPLES[1]], []).questions == [
        "user: What is ink?\n\nassistant: Colour.\n\nuser: And paper?",
        "Where?\nThe press stands in Paris.",
    ]
    (line,) = predictions(found, found)
    assert "conversation" in line
    assert "conversation" not in line["tuned"]


def test_the_real_engine_answers_the_same_whatever_the_batch(engine):
    one, three = (
        measure(engine, config=load_config(overrides={"eval.batch_size": size, "seed": 7, "max_new_tokens": 4}))
        for size in (1, 3)
    )
    assert one.rows == three.rows
    assert [row["prediction"] for row in one.rows] != ["", "", ""]
    assert one.metrics == pytest.approx(three.metrics, rel=1e-5)
    assert one.settings["max_new_tokens"] == 4
    assert one.settings["seed"] == 7


def test_of_a_conversation_the_last_answer_counts(engine):
    first, second = EXAMPLES[0], EXAMPLES[1]
    conversation = Example(first.messages + second.messages, row=9)
    found = measure(scripted := Scripted(engine, ["Paris"]), [conversation])
    assert found.rows[0]["reference"] == "Paris"
    assert scripted.calls[0][0] == [conversation.messages[:3]]


def test_plain_text_has_its_likelihood_alone(engine):
    texts = [Example(text="The quick brown fox jumps over the lazy dog.", row=4), Example(text="Hello world!", row=5)]
    found = measure(scripted := Scripted(engine, []), texts)
    assert list(found.metrics) == ["perplexity", "bits_per_byte"]
    assert found.rows == []
    assert found.row_count == 2
    assert found.tokens_per_second == 0
    assert scripted.calls == []


def test_the_pieces_of_a_long_text_are_one_row(engine):
    """They are of one draw: drawn one by one, they would make the interval too narrow."""
    texts = [Example(text="The quick brown fox jumps over the lazy dog. " * times, row=9) for times in (1, 60, 2)]
    pieces = encoded(texts, engine)
    assert len(pieces) > len(texts)
    found = measure(Scripted(engine, []), texts)
    assert found.row_count == len(found.scores["perplexity"].rows) == 3
    whole = mean_nll(engine.model, pieces)
    assert found.metrics["perplexity"] == pytest.approx(whole.perplexity, rel=1e-5)
    assert found.scores["perplexity"].rows[1].tolist() == pytest.approx(
        likelihood_rows(engine, [piece for piece in pieces if piece.row == 1])[:, :2].sum(axis=0).tolist()
    )
    whole_text, _ = encode(texts[1:2], engine.template, engine.tokenizer, max_length=10**6)
    predicted = engine.tokenizer.decode(whole_text[0].input_ids[1:].tolist(), skip_special_tokens=True)
    bits = found.scores["bits_per_byte"].rows[1]  # each byte once, though pieces share a token
    assert bits[1] == pytest.approx(len(predicted.encode()) * math.log(2))
    assert contest(found, found).row_count == 3
    assert "too few rows (3)" in contest(found, found).verdict("tuned")


def test_a_likelihood_that_decides_stands_at_its_own_question(engine):
    """Texts are measured too, and not asked; a question whose likelihood is not known has no score."""
    config = load_config(overrides={"eval.metrics": ["perplexity", "token_f1"], "seed": 7, "max_new_tokens": 2})
    examples = [Example(text="Hello world!", row=1, task="texts"), *(replace(one, task="faq") for one in EXAMPLES)]
    rows = encoded(examples, engine)[:-1]
    found = evaluate(engine, examples, rows, config=config)
    held = contest(found, found)
    assert held.deciding == "perplexity"
    scores = [row["answers"]["tuned"]["score"] for row in held.rows]
    assert scores == [*(pytest.approx(value) for value in found.scores["perplexity"].by_row[1:]), None]
    match = held.matches["tuned"]
    assert (match.ties, match.changes["perplexity"].rows) == (3, 3)
    assert [(part.name, part.rows, part.found.rows) for part in match.slices] == [
        *[("sheet FAQ", 2, 2), ("sheet More", 1, 0)]
    ]


def test_rows_that_cannot_be_asked_are_skipped_and_named(engine):
    odd = [
        Example((Message("user", "A question without an answer"),), row=11),
        pair("An answer of spaces", "  ", 12),
        Example((Message("assistant", "An answer without a question"),), row=13),
        pair("Short?", "An answer too long for the model's 256 tokens. " * 60, 14),
    ]
    fine = EXAMPLES[0]
    found = evaluate(Scripted(engine, ["x"]), [odd[0], fine, *odd[1:]], encoded([fine], engine), config=CONFIG)
    assert [row["row"] for row in found.rows] == [fine.row]
    assert found.row_count == 1
    assert found.skipped_rows == (11, 12, 13, 14)


def test_a_question_that_is_too_long_is_shortened_as_in_training(engine):
    long = pair("long " * 300, "Its answer is whole.", 14)
    scripted = Scripted(engine, ["Its answer is whole."])
    found = evaluate(scripted, [long], encoded([long], engine), config=CONFIG)
    assert found.skipped_rows == ()
    assert found.metrics["exact_match"] == 1
    assert found.rows[0]["question"] == long.question
    ((((asked,),), *_),) = scripted.calls
    assert long.question.startswith(asked.content)
    assert 0 < len(asked.content) < len(long.question)
    shortened = Example((asked, Message("assistant", long.answer)))
    assert len(encoded([shortened], engine)[0]) <= engine.context_tokens


@pytest.mark.parametrize(
    ("examples", "message"),
    [([], "the test set is empty"), ([pair("Question", "", 2)], "none of the 1 test rows can be asked")],
)
def test_nothing_to_measure_is_an_error_of_the_data(engine, examples, message):
    with pytest.raises(DataError, match=message) as caught:
        evaluate(engine, examples, [], config=CONFIG)
    assert "data.split.test" in caught.value.fix
    assert "--data FILE" in caught.value.fix


def test_compare_table_knows_that_lower_perplexity_is_better(engine):
    base = measure(Scripted(engine, ["", "", ""]))
    nll = base.scores["perplexity"].rows
    easier = {**base.scores, "perplexity": perplexity_of(nll * [0.5, 1.0])}
    many = {name: replace(score, rows=np.tile(score.rows, (9, 1))) for name, score in easier.items()}
    before = replace(base, scores={name: replace(base.scores[name], rows=score.rows) for name, score in many.items()})
    before.scores["perplexity"] = perplexity_of(np.tile(nll, (9, 1)))
    table = compare_table(before, replace(base, scores=many))
    assert [line.metric for line in table] == METRICS
    assert table[0].verdict == "better"
    assert table[0].low <= table[0].change <= table[0].high < 0
    assert table[0].change == pytest.approx(table[0].tuned - table[0].base)
    assert {line.verdict for line in table[1:]} == {"no evidence"}
    assert compare_table(replace(base, scores=many), before)[0].verdict == "worse"
    assert {line.verdict for line in compare_table(base, replace(base, scores=easier))} == {"too few rows"}


def test_summary_and_predictions(engine):
    base = measure(Scripted(engine, ["no", "nö", "\N{GRINNING FACE}"]))
    tuned = measure(Scripted(engine, [example.answer for example in EXAMPLES]))
    summary = summarise(base, tuned)
    assert list(summary)[:6] == ["schema_version", "rows", "skipped_rows", "base", "tuned", "change"]
    assert summary["schema_version"] == 1
    assert summary["rows"] == 3
    assert summary["base"] == base.metrics
    assert summary["tuned"] == tuned.metrics
    assert summary["tuned"]["exact_match"] == 1
    assert summary["settings"] == {**SETTINGS.model_dump(), "seed": 7}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary

    lines = predictions(base, tuned)
    assert len(lines) == 3
    assert lines[1] == {
        "row": 3,
        "sheet": "FAQ",
        "question": "Where?\nThe press stands in Paris.",
        "reference": "Paris",
        "base": {
            **{"prediction": "nö", "finish_reason": "stop"},
            **{"exact_match": 0, "token_f1": 0, "repetition": 0, "words": 1},
        },
        "tuned": {
            **{"prediction": "Paris", "finish_reason": "stop"},
            **{"exact_match": 1, "token_f1": 1, "repetition": 0, "words": 1},
        },
    }


def test_an_infinite_perplexity_becomes_null():
    broken = Evaluation({"perplexity": perplexity_of(np.array([[1e9, 1.0]]))}, [], 1, (), 0.0, 1.0, {})
    summary = summarise(broken, broken)
    assert summary["tuned"] == {"perplexity": None}
    assert summary["change"]["perplexity"] == {"low": None, "high": None, "verdict": "too few rows"}


def test_each_task_has_the_metrics_of_its_rows_alone(engine):
    answers = ["A machine which prints.", "Paris", "Nothing."]
    examples = [replace(example, task=task) for example, task in zip(EXAMPLES, ("faq", "maps", "faq"), strict=True)]
    base = measure(Scripted(engine, answers), examples)
    whole = measure(Scripted(engine, answers))
    assert base.metrics == pytest.approx(whole.metrics)
    assert whole.tasks == {}
    alone = measure(Scripted(engine, answers[::2]), EXAMPLES[::2])
    assert base.tasks["faq"].metrics == pytest.approx(alone.metrics)
    assert (base.tasks["faq"].row_count, base.tasks["maps"].row_count) == (2, 1)
    assert base.tasks["maps"].metrics["exact_match"] == 1.0
    summary = summarise(base, base)["tasks"]
    assert list(summary) == ["faq", "maps"]
    assert summary["maps"] == {"rows": 1, "base": base.tasks["maps"].metrics, "tuned": base.tasks["maps"].metrics}
    assert [row["task"] for row in predictions(base, base)] == ["faq", "maps", "faq"]
    assert "task" not in predictions(whole, whole)[0]


def test_evaluations_of_different_rows_are_refused(engine):
    base = measure(Scripted(engine, ["a", "b", "c"]))
    other = measure(Scripted(engine, ["a", "b", "c"]), [*EXAMPLES[:2], replace(EXAMPLES[2], row=8)])
    for join in (summarise, predictions):
        with pytest.raises(ValueError, match="same rows"):
            join(base, other)


def test_bytes_are_those_of_the_text_in_any_script(engine):
    """Not characters, not tokens, and without the stop token."""
    examples = [pair("Was?", "Öl, 油 \N{GRINNING FACE}", 1), pair("Who?", "a  b", 2)]
    found = likelihood_rows(engine, encoded(examples, engine))
    assert found[:, 2].tolist() == [len(example.answer.encode()) for example in examples]
    assert found.shape == (2, 3)


def judged(engine, config, tools):
    return measure(Scripted(engine, ["A machine that prints.", "Rome", "Nothing."]), config=config, tools=tools)


def test_a_judges_scores_and_replies_are_in_the_rows(engine, tmp_path, monkeypatch):
    """And a judge that falls silent ends the measurement as an error of resources, with its replies kept."""
    monkeypatch.setattr("tunesmith.generate.remote.WAITS_SECONDS", ())
    owl = FakeJudge(lambda text: f"Said.\nSCORE: {9 if between(text, 'answer') == between(text, 'reference') else 1}")
    with serving(owl):
        config = load_config(overrides={"eval.judge": owl.address, "eval.metrics": ["judge_score", "token_f1"]})
        owl.refuse_from = 3
        with pytest.raises(ResourceError, match="refused with status 503"):
            judged(engine, config, Tools.of(config.eval, log=AnswerLog(tmp_path / "judge.jsonl")))
        owl.refuse_from = None
        found = judged(engine, config, Tools.of(config.eval, log=AnswerLog(tmp_path / "judge.jsonl")))
    assert len(owl.asked) == 4  # two, the refused one, and only the third again
    assert (found.deciding, list(found.metrics)) == ("judge_score", ["token_f1", "judge_score"])
    assert [row["judge_score"] for row in found.rows] == [9, 1, 1]
    assert found.rows[0]["judge_score_reply"] == "Said.\nSCORE: 9"
    assert json.loads(json.dumps(predictions(found, found)))[0]["tuned"]["judge_score"] == 9


def test_preference_is_a_score_of_both(engine):
    base = measure(Scripted(engine, ["x", "Paris", "y"]))
    tuned = measure(Scripted(engine, ["A machine that prints.", "Paris", "It learns sentences."]))
    with serving(FakeJudge(lambda text: f"BETTER: {'A' if len(between(text, 'answer_a')) > 5 else 'B'}")) as owl:
        sides = with_preference(base, tuned, Judge.of(owl.address))
    values = [side.metrics["judge_preference"] for side in sides]
    assert values == [pytest.approx(0.5 / 3), pytest.approx(2.5 / 3)]
    assert compare_table(*sides)[-1].title == "preferred by the judge"
    lines = json.loads(json.dumps(predictions(*sides)))
    assert [(line["base"]["judge_preference"], line["tuned"]["judge_preference"]) for line in lines] == [
        *[(0, 1), (0.5, 0.5), (0, 1)]
    ]
    assert lines[0]["tuned"]["judge_preference_reply"] == (
        "With this answer as B:\nBETTER: B\n\nWith this answer as A:\nBETTER: A"
    )
    assert "judge_preference_reply" not in lines[1]["tuned"]  # the same answer twice is not asked
    assert sides[0].rows[0].keys() == {*base.rows[0], "judge_preference"}


def test_scores_that_do_not_suit_are_refused_before_anything_is_asked(engine):
    scripted = Scripted(engine, [])
    with pytest.raises(SettingsError) as caught:
        measure(scripted, config=load_config(overrides={"eval.metrics": ["calibration_error"]}))
    assert caught.value.problems == (
        "calibration_error needs labels that a model chooses among, here answers are written",
    )
    assert scripted.calls == []
