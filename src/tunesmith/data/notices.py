"""What is odd about the examples that are kept: told to the user with rows, never changed.

Each check is one line of a table. Knows nothing of columns, splits or tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.data.clean import question_key
from tunesmith.types import Example, Finding

# UTF-8 that was once read as cp1252: the letter of a lead byte, then what the bytes after it look like ("â€™" for "’")
_CONTINUATION = (
    "[\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
)
_MOJIBAKE = re.compile(f"[\u00c2\u00c3]{_CONTINUATION}|[\u00e0-\u00ef]{_CONTINUATION}{{2}}|\u00e2\u20ac|\ufffd")
_PLACEHOLDER = re.compile(r"\{\{\s*\w[\w .-]*\}\}")
_END_MARK = re.compile(r"(#{2,}\w*(eos|end)\w*#{2,}|<\|\w+\|>|</s>|<eos>|\[eos\])$", re.IGNORECASE)
_TEMPLATE = re.compile(r"^#{2,3} ?(instruction|response|question|answer|input|output)\b ?:?", re.MULTILINE | re.I)
_ESCAPED_NEWLINE = re.compile(r"(?<!\\)\\n(?![a-z]{2})")


@dataclass(frozen=True, slots=True)
class _Check:
    """A pattern searched in questions or answers; "3 rows have {message}" with what was found."""

    pattern: re.Pattern[str]
    place: Literal["question", "answer", "anywhere"]
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
    "escaped_newlines": _Check(
        _ESCAPED_NEWLINE,
        "answer",
        "note",
        'the two characters "{found}" where a line break was meant',
        "replace them by line breaks in the source",
    ),
}


def notices(examples: Sequence[Example], *, one_place: bool = True) -> Iterator[Finding]:
    """Findings about these examples, one for each check and, unless all come from `one_place`, for each sheet."""
    for code, check in _CHECKS.items():
        searched = ((example, check.pattern.search(_text_of(example, check.place))) for example in examples)
        found = [(example, match) for example, match in searched if match]
        for sheet, hits in _by_sheet(found, one_place).items():
            sample = next(iter(hits))[1][0]
            yield _finding(code, check, [example for example, _ in hits], sample, sheet)
    yield from _contradictions(examples, one_place)


def _contradictions(examples: Sequence[Example], one_place: bool) -> Iterator[Finding]:
    """Questions that have several different answers."""
    answers: dict[str, set[str]] = {}
    keys = [question_key(example) if example.messages else "" for example in examples]
    for key, example in zip(keys, examples, strict=True):
        if key:
            answers.setdefault(key, set()).add(example.answer)
    several = {key for key, given in answers.items() if len(given) > 1}
    if several:
        have = "1 question has" if len(several) == 1 else f"{len(several)} questions have"
        rows = tuple(example.row for key, example in zip(keys, examples, strict=True) if key in several)
        yield Finding(
            "note",
            "several_answers",
            f"{have} several different answers; they stay on the same side of the split",
            rows=rows if one_place else (),
        )


def _text_of(example: Example, place: str) -> str:
    """What is searched; several texts are parted by a zero byte. Plain text has neither question nor answer."""
    if example.text is not None:
        return example.text if place == "anywhere" else ""
    if place == "answer":
        return example.answer
    wanted = [message for message in example.messages if place == "anywhere" or message.role == "user"]
    return "\0".join(f"{message.content}\0{message.context or ''}" for message in wanted)


def _by_sheet(
    found: Sequence[tuple[Example, re.Match[str]]], one_place: bool
) -> dict[str | None, list[tuple[Example, re.Match[str]]]]:
    groups: dict[str | None, list[tuple[Example, re.Match[str]]]] = {}
    for example, match in found:
        groups.setdefault(None if one_place else example.sheet, []).append((example, match))
    return groups


def _finding(code: str, check: _Check, examples: Sequence[Example], sample: str, sheet: str | None) -> Finding:
    where = f'sheet "{sheet}": ' if sheet else ""
    rows = "1 row has" if len(examples) == 1 else f"{len(examples)} rows have"
    message = check.message.format(found=sample)
    return Finding(check.level, code, f"{where}{rows} {message}", check.fix, tuple(example.row for example in examples))
