"""A contest as one HTML page: no network, no script. Knows what a page shows, not where the models came from."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib import resources
from statistics import median
from typing import Any

from jinja2 import Environment, StrictUndefined

from tunesmith.evaluate.contests import Contest, Match
from tunesmith.evaluate.paired import Difference, Interval
from tunesmith.evaluate.remarks import Remark
from tunesmith.evaluate.text import normalize, separate, word_count
from tunesmith.evaluate.titles import is_loss, is_neutral, is_share, metric_title, written

_TONES = {"better": "good", "worse": "bad", "different": "", "no evidence": "soft", "too few rows": "soft"}
# What a judge's score of one answer is called, where it is no number of points.
_SAID = {
    **{("judge_pass", 1.0): "yes", ("judge_pass", 0.0): "no"},
    **{("judge_preference", 1.0): "yes", ("judge_preference", 0.0): "no", ("judge_preference", 0.5): "a tie"},
}
# A page of more rows than this is slow to open; predictions.jsonl has them all.
MOST_ROWS = 300
_ENDS_SHOWN = 10  # rows that are shown under "loses most" and under "gains most"
_BAR_WIDTH = 160
_BINS = 24
_NARROWEST_SCALE = 0.1  # ten points to each side: a difference of one point should look small
_TILES = ("perplexity", "exact_match", "macro_f1", "rougeL")  # beside the score that decides, the first two of these


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table of texts; all columns but the first are right-aligned where `is_numeric`."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_numeric: bool = False


def report_html(
    contest: Contest,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    tables: Sequence[PageTable] = (),
    pictures: Sequence[tuple[str, bytes]] = (),
    texts: Sequence[tuple[str, str]] = (),
) -> str:
    """The page.

    Args:
        facts: name and value, such as which data. pictures: title and PNG. texts: title and plain text.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(
        resources.files("tunesmith.evaluate").joinpath("report.html.jinja").read_text("utf-8")
    )
    return page.render(
        title=title,
        verdicts=[_verdict(contest, name) for name in contest.names[1:]],
        facts=facts,
        names=contest.names,
        rows=contest.row_count,
        scores=_score_lines(contest),
        costs=_costs(contest),
        matches=[_match(name, match, str(contest.deciding)) for name, match in contest.matches.items()],
        deciding=metric_title(contest.deciding) if contest.deciding else "",
        bar_width=_BAR_WIDTH,
        lengths=_lengths(contest),
        tables=tables,
        pictures=[{"title": name, "data": base64.b64encode(data).decode()} for name, data in pictures],
        texts=texts,
        groups=[
            {"title": heading, "is_open": is_open, "cases": [_case(row, contest) for row in rows]}
            for heading, is_open, rows in _row_groups(contest)
            if rows
        ],
    )


def _verdict(contest: Contest, name: str) -> dict[str, Any]:
    """What stands at the top of the page about one model: a sentence, its tone, a few scores before and after."""
    match = contest.matches.get(name)
    if match is None or contest.deciding is None:
        return {"sentence": contest.verdict(name), "tone": "soft", "tiles": [], "shares": []}
    shown = list(dict.fromkeys([contest.deciding, *(metric for metric in _TILES if metric in match.changes)]))[:3]
    first = contest.names[0]
    more, less, equal = contest.counts(name).items()
    tones = ("", "soft", "") if is_neutral(contest.deciding) else ("good", "soft", "bad")
    return {
        "sentence": contest.verdict(name),
        "tone": _TONES[match.changes[contest.deciding].verdict],
        "tiles": [
            {
                "title": metric_title(metric),
                "before": written(metric, contest.scores[first][metric].value),
                "after": written(metric, contest.scores[name][metric].value),
                "verdict": match.changes[metric].verdict,
                "tone": _TONES[match.changes[metric].verdict],
            }
            for metric in shown
        ],
        "shares": [
            {"name": word, "rows": rows, "tone": tone, "share": round(100 * rows / max(1, contest.row_count), 2)}
            for (word, rows), tone in zip((more, equal, less), tones, strict=True)
        ],
    }


def _score_lines(contest: Contest) -> list[dict[str, Any]]:
    metrics = list(contest.scores[contest.names[0]])
    return [
        {
            "title": metric_title(metric),
            "cells": [_interval(metric, contest.scores[name][metric]) for name in contest.names],
        }
        for metric in metrics
    ]


def _costs(contest: Contest) -> list[dict[str, Any]]:
    """What an answer costs: a line for speed and, where it is known of any model, one for memory."""
    speeds = [contest.tokens_per_second[name] for name in contest.names]
    lines = [{"title": "tokens a second", "cells": [f"{speed:,.0f}" if speed else "-" for speed in speeds]}]
    sizes = [contest.memory_bytes.get(name) for name in contest.names]
    if any(sizes):
        cells = [f"{size / 2**20:,.0f} MiB" if size else "-" for size in sizes]
        lines.append({"title": "memory of the weights", "cells": cells})
    return lines


def _match(name: str, match: Match, deciding: str) -> dict[str, Any]:
    ends = [
        abs(end)
        for metric, found in [*match.changes.items(), *((deciding, part.found) for part in match.slices)]
        if is_share(metric)
        for end in (found.low, found.high)
        if math.isfinite(end)
    ]
    scale = min(1.0, math.ceil(max([_NARROWEST_SCALE, *ends]) * 10) / 10)
    return {
        "name": name,
        "scale": round(scale * 100),
        "lines": [_change(metric_title(metric), metric, found, scale) for metric, found in match.changes.items()],
        "slices": [{**_change(part.name, deciding, part.found, scale), "rows": part.rows} for part in match.slices],
    }


def _interval(metric: str, found: Interval) -> dict[str, str]:
    return {end: written(metric, getattr(found, end)) for end in ("value", "low", "high")}


def _change(title: str, metric: str, found: Difference, scale: float) -> dict[str, Any]:
    ends = {end: written(metric, getattr(found, end), sign="+") for end in ("change", "low", "high")}
    sides = {"before": written(metric, found.before), "after": written(metric, found.after)}
    drawn = is_share(metric) and math.isfinite(found.low) and math.isfinite(found.high)
    bar = _bar(found, scale) if drawn else None
    return {"title": title, **sides, **ends, "verdict": found.verdict, "tone": _TONES[found.verdict], "bar": bar}


def _bar(found: Difference, scale: float) -> dict[str, float]:
    """Places on a line from -scale to +scale."""

    def place(value: float) -> float:
        return round((value / scale + 1) / 2 * (_BAR_WIDTH - 10) + 5, 1)

    return {"zero": place(0), "low": place(found.low), "high": place(found.high), "value": place(found.change)}


def _lengths(contest: Contest) -> dict[str, Any] | None:
    """Histograms of words per answer, one for each model and the references, on one scale."""
    texts = {name: [row["answers"][name]["text"] for row in contest.rows] for name in contest.names}
    if contest.rows and all(row["reference"] is not None for row in contest.rows):
        texts["expected"] = [row["reference"] for row in contest.rows]
    counts = {name: [word_count(text) for text in found] for name, found in texts.items()}
    # A single answer that never ends would press all others into the first bar: the last bar holds what is longer.
    everything = sorted(words for found in counts.values() for words in found)
    longest = everything[-1] if everything else 0
    if longest < 2:  # labels and the like: nothing to see
        return None
    width = max(1, math.ceil((everything[int(0.98 * (len(everything) - 1))] + 1) / _BINS))
    plots = []
    for name, found in counts.items():
        bins = [0] * _BINS
        for words in found:
            bins[min(_BINS - 1, words // width)] += 1
        bars = [
            {"height": round(100 * rows / max(bins), 1), "title": _bin(rows, at, width)} for at, rows in enumerate(bins)
        ]
        plots.append({"name": name, "bars": bars, "median": f"{median(found):g}", "longest": max(found)})
    return {"plots": plots, "end": (_BINS - 1) * width}


def _bin(rows: int, at: int, width: int) -> str:
    low, high = at * width, (at + 1) * width - 1
    words = f"{low} words or more" if at == _BINS - 1 else f"{low} to {high} words" if high > low else f"{low} words"
    return f"{rows} of {words}"


def _row_groups(contest: Contest) -> list[tuple[str, bool, list[dict[str, Any]]]]:
    """Heading, whether it is open, rows: where the last model loses most, where it gains most, the others."""
    rows = contest.rows
    if not contest.matches:
        return [(f"The first {min(len(rows), MOST_ROWS)} of {len(rows)} questions", True, rows[:MOST_ROWS])]
    last, first = contest.names[-1], contest.names[0]
    by_gain = sorted(rows, key=lambda row: _gain(row, contest))
    worst = [row for row in by_gain[:_ENDS_SHOWN] if _gain(row, contest) < 0]
    best = [row for row in by_gain[::-1][:_ENDS_SHOWN] if _gain(row, contest) > 0]
    shown = {id(row) for row in [*worst, *best]}
    others = [row for row in rows if id(row) not in shown]
    kept = others[: MOST_ROWS - len(shown)]
    below, above = "loses most against", "gains most against"
    if is_neutral(str(contest.deciding)):
        below, above = "is furthest below", "is furthest above"
    heading = f"The other {len(others)} rows" if shown else f"All {len(others)} rows"
    if len(kept) < len(others):
        heading = f"{len(kept)} of {'the other ' if shown else ''}{len(others)} rows"
    return [
        (f"Where {last} {below} {first}", True, worst),
        (f"Where {last} {above} {first}", True, best),
        (heading, not shown, kept),
    ]


def _change_of(row: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """How much higher the last model's score is than the first one's; None where one of the two has none."""
    first, last = (row["answers"][name].get("score") for name in (names[0], names[-1]))
    return None if first is None or last is None or len(names) < 2 else float(last - first)


def _gain(row: Mapping[str, Any], contest: Contest) -> float:
    """The same in the direction that is good; 0 where it is not known."""
    change = _change_of(row, contest.names) or 0.0
    return -change if contest.deciding and is_loss(contest.deciding) else change


def _case(row: Mapping[str, Any], contest: Contest) -> dict[str, Any]:
    names, deciding = contest.names, str(contest.deciding)
    change = _change_of(row, names)
    place = f"row {row['row']}" if row["sheet"] is None else f"{row['sheet']}, row {row['row']}"
    return {
        "question": row["question"],
        "turns": row.get("conversation", ()),
        "place": place,
        "reference": row["reference"],
        "change": None if change is None else written(deciding, change, sign="+"),
        "tone": _tone(_gain(row, contest), deciding),
        "answers": [
            {
                "name": name,
                "score": _score(deciding, row["answers"][name].get("score")),
                "ended": row["answers"][name]["ended"],
                "said": [_remark(remark) for remark in row["answers"][name].get("said", ())],
                "pieces": _pieces(
                    row["answers"][name]["text"],
                    row["reference"],
                    row["answers"][names[0]]["text"] if name != names[0] else None,
                ),
            }
            for name in names
        ],
    }


def _remark(remark: Remark) -> dict[str, str]:
    """A reply of a judge with the score that was read from it."""
    score = "no score" if remark.score is None else _SAID.get((remark.metric, remark.score), f"{remark.score:g}")
    return {"title": f"{metric_title(remark.metric)}: {score}", "text": remark.text.strip() or "(nothing)"}


def _tone(gain: float, deciding: str) -> str:
    if gain and is_neutral(deciding):
        return _TONES["different"]
    return "good" if gain > 0 else "bad" if gain < 0 else "soft"


def _score(deciding: str, value: float | None) -> str | None:
    return None if value is None else written(deciding, value)


def _pieces(text: str, reference: str | None, first: str | None) -> list[tuple[str, bool, bool]]:
    """The text in words and what is between them.

    Of each whether the reference has it, as token F1 counts words, and whether the first model did not write it there.
    """
    wanted = set(separate(normalize(reference))) if reference else set()
    pieces = re.split(r"(\s+)", text or "(nothing)")
    new: set[int] = set()
    if first is not None:
        matcher = SequenceMatcher(None, first.split(), pieces[::2], autojunk=False)
        new = {at for tag, _, _, low, high in matcher.get_opcodes() if tag != "equal" for at in range(low, high)}
    return [
        (piece, bool(found := set(separate(normalize(piece)))) and found <= wanted, at % 2 == 0 and at // 2 in new)
        for at, piece in enumerate(pieces)
    ]
