"""Length limits: what is shortened, what is left out, and that the answer is never removed silently."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tunesmith.data import encode, shorten_prompt
from tunesmith.data.encode import _cut_answer
from tunesmith.errors import DataError
from tunesmith.prompts import check_template, render
from tunesmith.types import Encoded, Example, Message


def chat(question: str, answer: str, row: int = 7) -> Example:
    return Example(messages=(Message("user", question), Message("assistant", answer)), row=row)


LONG = "the quick brown fox jumps over the lazy dog " * 20


@pytest.fixture
def template(tiny_tokenizer: Any) -> Any:
    return check_template("chat", tiny_tokenizer)


def answer_of(row: Any, tokenizer: Any) -> str:
    return tokenizer.decode(row.input_ids[row.supervised])


def test_short_rows_are_untouched(tiny_tokenizer: Any, template: Any) -> None:
    example = chat("What?", "This.")
    rows, report = encode([example], template, tiny_tokenizer, max_length=200)
    whole = render(example, template, tiny_tokenizer)
    assert rows[0].input_ids.tolist() == whole.input_ids.tolist()
    assert (report.sequences, report.tokens, report.shortened_prompt, report.dropped) == (1, len(whole), (), {})


def test_prompt_policy_cuts_the_question_and_keeps_answer_and_stop_token(tiny_tokenizer: Any, template: Any) -> None:
    rows, report = encode([chat(LONG, "A short answer.")], template, tiny_tokenizer, max_length=64)
    assert len(rows[0]) <= 64
    assert len(rows[0]) > 50  # as much of the question as fits is kept
    assert answer_of(rows[0], tiny_tokenizer) == "A short answer.<|im_end|>"
    assert report.shortened_prompt == (7,)


def test_prompt_policy_drops_oldest_turns_first(tiny_tokenizer: Any, template: Any) -> None:
    turns = (
        Message("system", "Be kind."),
        Message("user", LONG),
        Message("assistant", "Old answer."),
        Message("user", "Newest?"),
        Message("assistant", "New answer."),
    )
    rows, _ = encode([Example(messages=turns, row=1)], template, tiny_tokenizer, max_length=80)
    text = tiny_tokenizer.decode(rows[0].input_ids)
    assert "Be kind." in text
    assert "Newest?" in text
    assert "Old answer." not in text
    assert answer_of(rows[0], tiny_tokenizer) == "New answer.<|im_end|>"


def test_of_a_long_chat_as_many_turns_are_left_out_as_must_be(
    tiny_tokenizer: Any, template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [Message("system", "Be kind.")]
    for number in range(40):
        turns += [Message("user", f"What is {number}?"), Message("assistant", f"It is {number}.")]
    example = Example(messages=tuple(turns), row=1)
    by_turns = [Example((turns[0], *turns[1 + 2 * left_out :])) for left_out in range(40)]
    lengths = [len(render(one, template, tiny_tokenizer)) for one in by_turns]
    rendered: list[Example] = []

    def counted(one: Example, *given: Any) -> Encoded:
        rendered.append(one)
        return render(one, *given)

    monkeypatch.setattr(sys.modules[shorten_prompt.__module__], "render", counted)
    for left_out in (0, 1, 7, 38, 39):
        rendered.clear()
        shorter = shorten_prompt(example, template, tiny_tokenizer, max_length=lengths[left_out])
        assert shorter is not None
        assert shorter.messages == by_turns[left_out].messages
        assert len(rendered) <= 9


def test_answer_too_long_for_prompt_policy_is_dropped_and_counted(tiny_tokenizer: Any, template: Any) -> None:
    rows, report = encode([chat("Q?", LONG), chat("Q?", "ok", row=8)], template, tiny_tokenizer, max_length=40)
    assert [row.row for row in rows] == [8]
    assert report.dropped == {"answer alone is too long": (7,)}
    whole = len(render(chat("Q?", LONG), template, tiny_tokenizer))
    text = report.to_text(40)
    assert "1 left out (answer alone is too long: row 7)" in text
    assert text.endswith(f"whole, the longest would have {report.longest_whole}")
    assert report.longest_whole == whole


def test_answer_policy_keeps_the_stop_token(tiny_tokenizer: Any, template: Any) -> None:
    rows, report = encode([chat("Q?", LONG)], template, tiny_tokenizer, max_length=40, truncation="answer")
    assert len(rows[0]) == 40
    assert rows[0].input_ids[-1] == template.stop_id
    assert rows[0].supervised[-1]
    assert report.cut_answer == (7,)


def test_answer_policy_never_leaves_a_lone_stop_token(tiny_tokenizer: Any, template: Any) -> None:
    rows, report = encode([chat(LONG, "Answer.")], template, tiny_tokenizer, max_length=40, truncation="answer")
    assert rows == []
    assert report.dropped == {"no answer token left": (7,)}


@pytest.mark.parametrize("train_on", ["answers", "all"])
@pytest.mark.parametrize(
    ("max_length", "kept"),
    [
        (4, None),  # 1 2 3: a prompt alone
        (6, [1, 2, 3, 11, 12, 9]),  # cut within the first answer
        (7, [1, 2, 3, 11, 12, 9]),  # its own stop token is the last that fits: no second one
        (9, [1, 2, 3, 11, 12, 9]),  # within the second question, which a stop token would end
        (11, [1, 2, 3, 11, 12, 9, 4, 5, 6, 13, 9]),
    ],
)
def test_an_answer_ends_with_one_stop_token_and_a_question_with_none(
    max_length: int, kept: list[int] | None, train_on: str
) -> None:
    ids = np.array([1, 2, 3, 11, 12, 9, 4, 5, 6, 13, 14, 9])
    is_answer = (ids > 10) | (ids == 9)
    whole = Encoded(ids, is_answer if train_on == "answers" else np.ones(12, dtype=np.bool_), 7)
    row = _cut_answer(whole, is_answer, max_length, stop_id=9)
    if kept is None:
        assert row.target_tokens == 0
    else:
        assert row.input_ids.tolist() == kept
        assert row.supervised.tolist() == [train_on == "all" or token > 8 for token in kept]


def test_drop_and_error_policies(tiny_tokenizer: Any, template: Any) -> None:
    rows, report = encode([chat(LONG, "A.")], template, tiny_tokenizer, max_length=40, truncation="drop")
    assert rows == []
    assert report.dropped == {"too long": (7,)}
    with pytest.raises(DataError, match=r"row 7 is \d+ tokens long"):
        encode([chat(LONG, "A.")], template, tiny_tokenizer, max_length=40, truncation="error")


def test_long_text_is_split_and_every_token_is_predicted_once(tiny_tokenizer: Any, template: Any) -> None:
    example = Example(text=LONG, row=3)
    whole = render(example, template, tiny_tokenizer)
    rows, report = encode([example], template, tiny_tokenizer, max_length=32)
    targets = [token for row in rows for token in row.input_ids[1:].tolist()]
    assert targets == whole.input_ids[1:].tolist()
    assert sum(row.target_tokens for row in rows) == len(whole) - 1
    assert report.split_text == (3,)
