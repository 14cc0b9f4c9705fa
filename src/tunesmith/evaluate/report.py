"""A contest as one HTML page: no network, no script. Knows what a page shows, not where the models came from."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from tunesmith.evaluate.contests import Contest, Match
from tunesmith.evaluate.paired import Difference, Interval
from tunesmith.evaluate.text import normalize
from tunesmith.evaluate.titles import is_loss, is_share, metric_title, written

_TONES = {"better": "good", "worse": "bad", "different": "", "no evidence": "soft", "too few rows": "soft"}
# A page of more rows than this is slow to open; predictions.jsonl has them all.
MOST_ROWS = 300
_BAR_WIDTH = 180
_PLOT_WIDTH, _PLOT_HEIGHT, _BINS = 900, 90, 30


def report_html(
    contest: Contest,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    pictures: Sequence[tuple[str, bytes]] = (),
    texts: Sequence[tuple[str, str]] = (),
) -> str:
    """The page.

    Args:
        facts: name and value, such as which data. pictures: title and PNG. texts: title and plain text.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    page = environment.from_string(
        resources.files("tunesmith.evaluate").joinpath("report.html.jinja").read_text("utf-8")
    )
    shown, order = _chosen_rows(contest)
    return page.render(
        title=title,
        sentences=[contest.verdict(name) for name in contest.names[1:]],
        facts=facts,
        names=contest.names,
        rows=len(contest.rows),
        scores=_score_lines(contest),
        speeds=[f"{contest.tokens_per_second[name]:,.0f}" for name in contest.names],
        matches=[_match(name, match, str(contest.deciding)) for name, match in contest.matches.items()],
        deciding=metric_title(contest.deciding) if contest.deciding else "",
        bar_width=_BAR_WIDTH,
        lengths=_length_plot(contest),
        pictures=[{"title": name, "data": base64.b64encode(data).decode()} for name, data in pictures],
        texts=texts,
        order=order,
        cases=[_case(row, contest) for row in shown],
    )


def _score_lines(contest: Contest) -> list[dict[str, Any]]:
    metrics = list(contest.scores[contest.names[0]])
    return [
        {
            "title": metric_title(metric),
            "cells": [_interval(metric, contest.scores[name][metric]) for name in contest.names],
        }
        for metric in metrics
    ]


def _match(name: str, match: Match, deciding: str) -> dict[str, Any]:
    lines = [(metric_title(metric), metric, found) for metric, found in match.changes.items()]
    lines += [(f"{metric_title(deciding)}, {part.name} ({part.rows})", deciding, part.found) for part in match.slices]
    shown = [_change(title, metric, found) for title, metric, found in lines]
    return {"name": name, "wins": match.wins, "losses": match.losses, "ties": match.ties, "lines": shown}


def _interval(metric: str, found: Interval) -> dict[str, str]:
    return {end: written(metric, getattr(found, end)) for end in ("value", "low", "high")}


def _change(title: str, metric: str, found: Difference) -> dict[str, Any]:
    ends = {end: written(metric, getattr(found, end), sign="+") for end in ("change", "low", "high")}
    bar = _bar(found) if is_share(metric) else None
    return {"title": title, **ends, "verdict": found.verdict, "tone": _TONES[found.verdict], "bar": bar}


def _bar(found: Difference) -> dict[str, float]:
    """Places on a line from -100 to +100 points."""

    def place(value: float) -> float:
        return round((value + 1) / 2 * (_BAR_WIDTH - 10) + 5, 1)

    return {"zero": place(0), "low": place(found.low), "high": place(found.high), "value": place(found.change)}


def _length_plot(contest: Contest) -> dict[str, Any] | None:
    """Histograms of words per answer, a row for each model, on one scale."""
    counts = {name: [len(row["answers"][name]["text"].split()) for row in contest.rows] for name in contest.names}
    longest = max((max(found) for found in counts.values()), default=0)
    if not longest:
        return None
    bars, labels = [], []
    step = _PLOT_WIDTH / _BINS
    for place, (name, found) in enumerate(counts.items()):
        bins = [0] * _BINS
        for words in found:
            bins[min(_BINS - 1, words * _BINS // (longest + 1))] += 1
        floor = (place + 1) * (_PLOT_HEIGHT + 20) - 20
        labels.append({"x": 0, "y": floor - _PLOT_HEIGHT + 10, "text": name})
        for index, rows in enumerate(bins):
            height = round(rows / max(bins) * (_PLOT_HEIGHT - 16), 1)
            low, high = index * (longest + 1) // _BINS, (index + 1) * (longest + 1) // _BINS
            bars.append(
                {
                    **{"x": round(index * step, 1), "y": floor - height, "width": round(step - 2, 1), "height": height},
                    **{
                        "opacity": 0.55 if place == 0 else 1,
                        "title": f"{rows} answers of {low} to {max(low, high - 1)} words",
                    },
                }
            )
        labels.append({"x": 0, "y": floor + 13, "text": "0 words"})
        labels.append({"x": _PLOT_WIDTH - 70, "y": floor + 13, "text": f"{longest} words"})
    return {"width": _PLOT_WIDTH, "height": len(counts) * (_PLOT_HEIGHT + 20), "bars": bars, "labels": labels}


def _chosen_rows(contest: Contest) -> tuple[list[dict[str, Any]], str]:
    """Where the last model loses most first, then where it gains most; of many rows the ends only."""
    rows = contest.rows
    if not contest.matches:
        return rows[:MOST_ROWS], f"the first {min(len(rows), MOST_ROWS)} of {len(rows)} questions, as they were asked"
    by_gain = sorted(rows, key=lambda row: _gain(row, contest))
    last = contest.names[-1]
    if len(rows) <= MOST_ROWS:
        return by_gain, f"all {len(rows)} rows, first those where {last} loses most against {contest.names[0]}"
    half = MOST_ROWS // 2
    return by_gain[:half] + by_gain[
        -half:
    ], f"the {half} rows where {last} loses most, and the {half} where it gains most"


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
        "place": place,
        "reference": row["reference"],
        "change": None if change is None else written(deciding, change, sign="+"),
        "tone": _tone(_gain(row, contest)),
        "answers": [
            {
                "name": name,
                "score": _score(deciding, row["answers"][name].get("score")),
                "ended": row["answers"][name]["ended"],
                "pieces": _pieces(row["answers"][name]["text"], row["reference"]),
            }
            for name in names
        ],
    }


def _tone(gain: float) -> str:
    return "good" if gain > 0 else "bad" if gain < 0 else "soft"


def _score(deciding: str, value: float | None) -> str | None:
    return None if value is None else written(deciding, value)


def _pieces(text: str, reference: str | None) -> list[tuple[str, bool]]:
    """The text in words and what is between them; True for words that the reference has, as token F1 counts them."""
    wanted = set(normalize(reference).split()) if reference else set()
    return [(piece, bool(wanted) and normalize(piece) in wanted) for piece in re.split(r"(\s+)", text or "(nothing)")]
