"""The set of labels of classification data: those of the training rows, and what is wrong with them.

Knows nothing of files or models; the shape "label" is decided in `columns`.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tunesmith.errors import DataError
from tunesmith.types import Example, Finding

_ENOUGH_ROWS = 20  # below, a label for every second row may be a sample of something larger


def count_labels(train: Sequence[Example], columns: Mapping[str, str]) -> dict[str, int]:
    """Training rows of each label, in alphabetical order.

    Raises:
        DataError: there is one label only, or so many that they are answers rather than labels.
    """
    counts = Counter(example.answer for example in train)
    column = columns.get("label", "label")
    as_answers = " ".join(
        f"--data.columns.{part} {columns[own]!r}" for part, own in (("question", "text"), ("answer", "label"))
    )
    if len(counts) < 2:
        raise DataError(
            f"every training row has the same label: {next(iter(counts), '')!r} in column {column!r}",
            cause="a model that always gives that answer would be right, so there is nothing to learn",
            fix="give rows of two labels at least, or name another column with --data.columns.label NAME; if nothing "
            "is to be classified, say which column asks and which answers: --data.columns.question NAME "
            "--data.columns.answer NAME",
        )
    if len(train) >= _ENOUGH_ROWS and len(counts) > len(train) / 2:
        raise DataError(
            f"column {column!r} has {len(counts)} different values in {len(train)} training rows: too many for labels",
            cause="most labels would be seen once, and a label that was never seen cannot be given",
            fix=f"train it as questions and answers: --data.shape qa {as_answers}; or name another label column",
        )
    return dict(sorted(counts.items()))


def alike_labels(examples: Sequence[Example]) -> Iterator[tuple[Finding, list[Example]]]:
    """A finding about labels that are the same but for case, spaces and hyphens, with the rows of the rarer ones."""
    counts = Counter(example.answer for example in examples)
    alike: dict[str, list[str]] = {}
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        alike.setdefault(re.sub(r"[\s_-]+", " ", label).casefold(), []).append(label)
    several = [spellings for spellings in alike.values() if len(spellings) > 1]
    if several:
        rare = {label for spellings in several for label in spellings[1:]}
        shown = "; ".join(
            " and ".join(f"{label!r} ({counts[label]})" for label in spellings) for spellings in several[:3]
        )
        more = f" and {len(several) - 3} more" if len(several) > 3 else ""
        message = f"labels that differ in case, spaces, hyphens or underscores alone count as different: {shown}{more}"
        rows = [example for example in examples if example.answer in rare]
        yield Finding("warning", "alike_labels", message, "write each in one way"), rows


def unseen_labels(
    labels: Mapping[str, int], held_out: Mapping[str, Sequence[Example]]
) -> Iterator[tuple[Finding, list[Example]]]:
    """A finding for each side with labels that no training row has, and its rows.

    held_out: side -> its examples.
    """
    for side, examples in held_out.items():
        rows = [example for example in examples if example.answer not in labels]
        if rows:
            names = Counter(example.answer for example in rows)
            shown = ", ".join(_with_nearest(name, labels) for name in list(names)[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            have = "1 row has a label" if len(rows) == 1 else f"{len(rows)} rows have a label"
            message = f"{have} that no training row has: {shown}{more}; of the {side} side, always wrong there"
            yield Finding("warning", f"unseen_labels_{side}", message, "add training rows, or correct the label"), rows


def _with_nearest(name: str, labels: Mapping[str, int]) -> str:
    by_lower = {label.lower(): label for label in labels}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.75)
    return f"{name!r} (did you mean {by_lower[close[0]]!r}?)" if close else repr(name)
