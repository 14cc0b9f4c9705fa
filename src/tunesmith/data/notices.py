"""What is odd about the examples that are kept: told to the user with rows, never changed.

Each check is one line of a table. Knows nothing of columns, splits or tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.data.clean import question_key
from tunesmith.data.readers.kinds import AS_CHOICES
from tunesmith.data.table import counted, shortened
from tunesmith.types import Example, Finding, Place, Record

# UTF-8 that was once read as cp1252: the letter of a lead byte, then what the bytes after it look like ("â€™" for "’")
_CONTINUATION = (
    "[\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
)
_MOJIBAKE = re.compile(f"[\u00c2\u00c3]{_CONTINUATION}|[\u00e0-\u00ef]{_CONTINUATION}{{2}}|\u00e2\u20ac|\ufffd")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_PLACEHOLDER = re.compile(r"\{\{\s*\w[\w .-]*\}\}")
_END_MARK = re.compile(r"(#{2,}\w*(eos|end)\w*#{2,}|<\|\w+\|>|</s>|<eos>|\[eos\])$", re.IGNORECASE)
_TEMPLATE = re.compile(r"^#{2,3} ?(instruction|response|question|answer|input|output)\b ?:?", re.MULTILINE | re.I)
# Chats rendered by a template, as data sets for trainers without one hold them
_RENDERED = re.compile(
    r"<\|(im_start|start_header_id|user|assistant)\|>|<start_of_turn>|\[INST\]"
    r"|#{2,3} ?(human|assistant|user|instruction|response) ?:",
    re.IGNORECASE,
)
# Quizzes as Moodle imports them: "{=right ~wrong}" of GIFT, "ANSWER: B" of Aiken; "`<br>`{=html}" is Pandoc's Markdown
_QUIZ = re.compile(r"(?<!`)(?<!` )\{\s*[=~][^{}]+\}|^ANSWER: ?[A-Z][ \t]*$", re.MULTILINE)
_NO_ANSWER = re.compile(
    r"\A\W*(n/?a|tb[acd]|to ?do|to be (defined|done|determined)|pending|see (above|below)|s(iehe|\.) ?(oben|unten)"
    r"|offen|folgt|idem|ditto|none|null|xx+|[-–—?.…]+)\W*\Z",
    re.IGNORECASE,
)
_HTML = re.compile(
    r"</?(p|br|div|span|b|i|strong|em|a|ul|ol|li|table|t[rdh]|h[1-6]|html|body|font)\b[^<>]*>|&nbsp;", re.I
)
# "Total" below a table, whose number would be learnt as an answer
_TOTAL = re.compile(
    r"\A\W*((grand|sub)?[ -]?totals?|total g[eé]n[eé]ral|sum(me)?|gesamt(summe)?|somme|suma|razem|totale|合計)\W*\Z",
    re.I,
)
_LONGEST_FOUND = 60  # characters of what is shown
_ESCAPED_NEWLINE = re.compile(r"(?<!\\)\\n(?![a-z]{2})")


@dataclass(frozen=True, slots=True)
class _Check:
    """A pattern searched in questions, answers or plain texts; "3 rows have {message}" with what was found."""

    pattern: re.Pattern[str]
    place: Literal["question", "answer", "anywhere", "text"]
    level: Literal["note", "warning"]
    message: str
    fix: str


_CHECKS: Mapping[str, _Check] = {
    "mojibake": _Check(
        _MOJIBAKE,
        "anywhere",
        "warning",
        'letters spoiled by a wrong encoding, such as "{found}"',
        "repair them in the source; a model learns to write them",
    ),
    "control_characters": _Check(
        _CONTROL,
        "anywhere",
        "warning",
        "characters that no text has, such as {found!r}",
        "remove them in the source; a model learns to write them",
    ),
    "placeholders": _Check(
        _PLACEHOLDER,
        "answer",
        "warning",
        'a placeholder in the answer, such as "{found}"',
        "replace it by what the model should say; it learns the placeholder itself",
    ),
    "end_marker": _Check(
        _END_MARK,
        "answer",
        "warning",
        'an answer that ends with the literal text "{found}"',
        "remove it from the source: the stop token is added by the template",
    ),
    "template_inside": _Check(
        _TEMPLATE,
        "question",
        "warning",
        'a prompt template written into the question, such as "{found}"',
        "use prompt.template plain, or remove it from the source: another template is put around it",
    ),
    "rendered_chat": _Check(
        _RENDERED,
        "text",
        "warning",
        'a chat written out with the marks of a template, such as "{found}", as its text',
        "give the turns as messages, or as columns of questions and answers; as plain text the marks are learnt, and "
        "the questions too",
    ),
    "quiz": _Check(
        _QUIZ,
        "text",
        "warning",
        'a question of a quiz with its answers, such as "{found}", as its text',
        AS_CHOICES,
    ),
    "no_answer": _Check(
        _NO_ANSWER,
        "answer",
        "warning",
        'an answer that says nothing yet, such as "{found}"',
        "write the answers or empty the cells; the model learns to say it",
    ),
    "totals": _Check(
        _TOTAL,
        "question",
        "warning",
        'a question that looks like the sum below a table, "{found}"',
        "delete the row in the source; the model learns it as a question",
    ),
    "html": _Check(
        _HTML,
        "anywhere",
        "warning",
        'HTML marks, such as "{found}"',
        "export the text without them unless the model is to write HTML",
    ),
    "escaped_newlines": _Check(
        _ESCAPED_NEWLINE,
        "answer",
        "note",
        'the two characters "{found}" where a line break was meant',
        "replace them by line breaks in the source",
    ),
}


def notices(examples: Sequence[Example], *, several_sheets: bool = False) -> Iterator[Finding]:
    """Findings about these examples, at most one for each check. Rows of `several_sheets` are named with theirs."""
    for code, check in _CHECKS.items():
        searched = ((example, check.pattern.search(_text_of(example, check.place))) for example in examples)
        found = [(example, match) for example, match in searched if match]
        if found:
            have = "1 row has" if len(found) == 1 else f"{len(found)} rows have"
            message = f"{have} {check.message.format(found=shortened(found[0][1][0], _LONGEST_FOUND))}"
            rows = tuple(example_place(example, several_sheets=several_sheets) for example, _ in found)
            yield Finding(check.level, code, message, check.fix, rows)
    yield from _unasked(examples, several_sheets)
    yield from _same_answer(examples)
    yield from _contradictions(examples, several_sheets)
    yield from _system_prompts(examples)


def example_place(row: Example | Record, *, several_sheets: bool) -> Place:
    """How a row is named: by its number, with its sheet in front where there are several."""
    return f"{row.sheet}!{row.row}" if several_sheets and row.sheet is not None else row.row


def _unasked(examples: Sequence[Example], several_sheets: bool) -> Iterator[Finding]:
    """Conversations of answers alone, without a question or a system prompt."""
    found = [e for e in examples if e.messages and all(message.role == "assistant" for message in e.messages)]
    if found:
        yield Finding(
            "warning",
            "nobody_asks",
            f"{counted(len(found), 'conversation')} of answers alone, to which nobody asks anything",
            fix="write the question as the first turn; a model learns to answer to nothing",
            rows=tuple(example_place(example, several_sheets=several_sheets) for example in found),
        )


def _same_answer(examples: Sequence[Example]) -> Iterator[Finding]:
    """Whether all rows, two at least, are answered alike; a conversation in each of its turns."""
    given = {
        tuple(message.content for message in example.messages if message.role == "assistant")
        for example in examples
        if example.text is None
    }
    if len(given) == 1 and len(examples) > 1:
        (answers,) = given
        yield Finding(
            "warning",
            "same_answer",
            f'all {len(examples)} rows have the same answer, "{shortened(answers[-1], _LONGEST_FOUND)}"',
            fix="check the column of answers; the model learns to say this to everything",
        )


def _contradictions(examples: Sequence[Example], several_sheets: bool) -> Iterator[Finding]:
    """Questions that have several different answers."""
    answers: dict[str, set[str]] = {}
    keys = [question_key(example) if example.messages else "" for example in examples]
    for key, example in zip(keys, examples, strict=True):
        if key:
            answers.setdefault(key, set()).add(example.answer)
    several = {key for key, given in answers.items() if len(given) > 1}
    if several:
        have = "1 question has" if len(several) == 1 else f"{len(several)} questions have"
        found = (example for key, example in zip(keys, examples, strict=True) if key in several)
        yield Finding(
            "note",
            "several_answers",
            f"{have} several different answers; they stay on the same side of the split",
            rows=tuple(dict.fromkeys(example_place(example, several_sheets=several_sheets) for example in found)),
        )


def _system_prompts(examples: Sequence[Example]) -> Iterator[Finding]:
    """System prompts that some rows have: later questions are asked with one that all share, or with none."""
    systems = [example.system for example in examples if example.text is None]
    several, missing = {*systems} - {None}, systems.count(None)
    if not several or (len(several) == 1 and not missing):
        return
    without = f", and {missing} of {len(systems)} have none" if missing else ""
    yield Finding(
        "note",
        "system_prompts",
        f"the rows have {counted(len(several), 'system prompt')}{without}: eval asks each row with its own, "
        "but ask, chat and exports have one for all questions, prompt.system, or none",
        fix="choose it with --prompt.system TEXT",
    )


def _text_of(example: Example, place: str) -> str:
    """What is searched; several texts are parted by a vertical tab. Plain text has neither question nor answer."""
    if example.text is not None:
        return example.text if place in ("anywhere", "text") else ""
    if place == "text":
        return ""
    if place == "answer":
        return example.answer
    wanted = [message for message in example.messages if place == "anywhere" or message.role == "user"]
    return "\v".join(f"{message.content}\v{message.context or ''}" for message in wanted)
