"""Size against quality of the types a run was exported as: which to take, and the report that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.runs import SizePoint, atomic_write, plot_sizes

# What a smaller file may lose and still be recommended: token F1, and the factor of perplexity on held-out rows.
LOST_F1, GROWN_PERPLEXITY = 0.03, 1.05
RULE = f"the smallest that loses at most {LOST_F1:g} of token F1 and {GROWN_PERPLEXITY - 1:.0%} of perplexity"
TABLE, PICTURE = "quantisation.md", "quantisation.png"
# name in `Verdict.numbers`, title and format of each column
_COLUMNS = (
    ("divergence", "divergence (nats)", ".1e"),
    ("perplexity", "perplexity", ".3f"),
    ("argmax_agreement", "same token", ".1%"),
    ("token_f1", "token F1", ".3f"),
    ("ended", "ended", ".0%"),
    ("tokens_per_second", "tokens/s", ",.0f"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One exported file. status and numbers: of its `Verdict`."""

    name: str
    size_bytes: int
    status: str
    numbers: Mapping[str, float]


def recommend(files: Sequence[Measured]) -> str | None:
    """Name of the smallest verified file that loses at most 0.03 of token F1 and 5 % of perplexity; None of less than
    two.

    A number that was not measured, for want of held-out rows, does not count as lost.
    """
    sound = [one for one in files if one.status == "verified"]
    kept = [one for one in sound if _keeps_quality(one.numbers)]
    return min(kept, key=lambda one: one.size_bytes).name if len(sound) > 1 and kept else None


def write_report(files: Sequence[Measured], recommended: str | None, folder: Path, *, title: str) -> tuple[Path, ...]:
    """quantisation.md and quantisation.png, of two files or more; returns the paths written.

    Raises:
        ResourceError: they cannot be written.
    """
    if len(files) < 2:
        return ()
    ordered = sorted(files, key=lambda one: -one.size_bytes)
    atomic_write(folder / TABLE, _table(ordered, recommended, title))
    points = [
        SizePoint(
            name=one.name,
            megabytes=one.size_bytes / 1e6,
            divergence=one.numbers["divergence"],
            token_f1=one.numbers.get("token_f1"),
            is_sound=one.status == "verified",
        )
        for one in ordered
        if math.isfinite(one.numbers.get("divergence", math.inf))
    ]
    written: tuple[Path, ...] = (folder / TABLE,)
    if points:
        first = ordered[0].numbers
        plot_sizes(
            folder / PICTURE,
            points,
            reference_f1=first.get("reference_token_f1"),
            lost_f1=LOST_F1,
            recommended=recommended,
            title=title,
        )
        written += (folder / PICTURE,)
    return written


def _table(files: Sequence[Measured], recommended: str | None, title: str) -> str:
    columns = [column for column in _COLUMNS if any(column[0] in one.numbers for one in files)]
    titles = ["export", "MB", "verdict", *(title for _, title, _ in columns)]
    lines = [f"# {title}: size against quality", ""]
    lines += [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for one in files:
        cells = [format(one.numbers[name], style) if name in one.numbers else "" for name, _, style in columns]
        name = f"**{one.name}**" if one.name == recommended else one.name
        lines.append(f"| {' | '.join([name, f'{one.size_bytes / 1e6:.1f}', one.status, *cells])} |")
    numbers = files[0].numbers
    told = [f"{numbers['prompts']:.0f} prompts"] if "prompts" in numbers else []
    if "reference_perplexity" in numbers:
        told.append(f"perplexity {numbers['reference_perplexity']:.3f} on {numbers['rows']:.0f} held-out rows")
    if "reference_token_f1" in numbers:
        told.append(f"token F1 {numbers['reference_token_f1']:.3f}")
    lines += ["", f"The trained model in Python: {', '.join(told)}."] if told else []
    rule = (
        f"Recommended: {recommended}, {RULE}."
        if recommended
        else f"None is recommended: of two verified types or more it would be {RULE}."
    )
    return "\n".join([*lines, "", rule, ""])


def _keeps_quality(numbers: Mapping[str, float]) -> bool:
    lost = numbers.get("reference_token_f1", 0.0) - numbers.get("token_f1", 0.0)
    grown = numbers.get("perplexity", 1.0) / numbers.get("reference_perplexity", 1.0)
    return lost <= LOST_F1 and grown <= GROWN_PERPLEXITY
