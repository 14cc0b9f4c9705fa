"""results.json -> docs/performance.md and the README's section: `python -m bench.report [--check]`.

Pure text: a number on those pages is a number in results.json or, of another machine, in a results-NAME.json beside it,
and tests/bench compares them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results.json"
LIMITS = ROOT / "bench" / "limits.json"  # of bench/limits.py
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- performance: begin -->", "<!-- performance: end -->"
_SECTION = re.compile(f"{BEGIN}\n.*?{END}", re.DOTALL)
_NOT_YET = "Not measured yet: `make bench` measures it."


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with --check only compare them: 1 when one is out of date."""
    summary = read_results()
    if "--check" not in arguments:
        write_pages(summary)
        return 0
    outdated = [path.relative_to(ROOT) for path, text in pages(summary).items() if path.read_text("utf-8") != text]
    for path in outdated:
        print(f"{path} does not agree with bench/results.json; run: python -m bench.report", file=sys.stderr)
    return 1 if outdated else 0


def read_results() -> dict[str, Any] | None:
    """The published results; None before the first full measurement."""
    if not RESULTS.is_file():
        return None
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


def other_results() -> list[dict[str, Any]]:
    """What was measured on other machines."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.parent.glob("results-*.json"))]


def pages(summary: Mapping[str, Any] | None) -> dict[Path, str]:
    """What the two pages should hold."""
    readme = README.read_text(encoding="utf-8")
    section = f"{BEGIN}\n{readme_section(summary)}\n{END}"
    limits = json.loads(LIMITS.read_text(encoding="utf-8")) if LIMITS.is_file() else None
    page = (
        performance_page(summary) + "".join(map(_other_machine, other_results())) + (_limits(limits) if limits else "")
    )
    return {PAGE: page, README: _SECTION.sub(lambda _: section, readme)}


def write_pages(summary: Mapping[str, Any] | None) -> None:
    for path, text in pages(summary).items():
        path.write_text(text, encoding="utf-8")


def performance_page(summary: Mapping[str, Any] | None) -> str:
    """docs/performance.md."""
    head = [
        "# Performance",
        "",
        "<!-- Written by bench/report.py from bench/results.json: do not edit. -->",
        "",
        "`make bench` trains the same model with the same adapter on the same rows with Tunesmith and with other",
        "trainers, in one run, and writes this page. [What is measured and how](../bench/README.md).",
        "",
    ]
    return "\n".join(head) + "\n" + (tables(summary) if summary else _NOT_YET) + "\n"


def readme_section(summary: Mapping[str, Any] | None) -> str:
    """One sentence for each machine and model: how many times faster, with how much memory."""
    if not summary:
        return _NOT_YET
    lines = [line for one in [summary, *other_results()] for line in (*_sentences(one), "")]
    lines.append("How, against whom, with which goals missed: [docs/performance.md](docs/performance.md).")
    return "\n".join(lines)


def _sentences(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"Measured {summary['date']} on {_machine(summary)}:", ""]
    for size, found in summary["sizes"].items():
        ratios = found["ratios"].get("ours", {})
        if not ratios:
            continue
        rate = found["contenders"]["ours"]["tokens_per_second"]
        against = [
            f"{_times(ratios[name]['speed'])} {who}"
            for name, who in (
                ("script", "the padded script"),
                ("trl-default", "TRL's defaults"),
                (found["best_trl"], "TRL's best settings"),
            )
            if name in ratios
        ]
        best = ratios.get(found["best_trl"])
        memory = f", with {best['memory']:.0%} of the memory of the last" if best else ""
        lines.append(f"- {size}: {rate:,.0f} tokens/s, {', '.join(against)}{memory}")
    return lines


def tables(summary: Mapping[str, Any]) -> str:
    """Everything in results.json but the curves, as Markdown that reads well in a terminal too."""
    lines = [
        f"Measured {summary['date']} on {_machine(summary)} with `{_command(summary)}`.",
        "",
        "Packages: " + ", ".join(f"{name} {version}" for name, version in summary["machine"]["versions"].items()) + ".",
        _ceiling(summary),
    ]
    for size, found in summary["sizes"].items():
        facts = found["facts"]
        lines += ["", f"## {size}: {facts['parameters'] / 1e6:.0f} M parameters, {found['device']}", ""]
        lines += [*_speed(found), "", *(f"- {name}: {_about(one)}" for name, one in found["contenders"].items())]
        lines += _goals(found) + _missed(found) + _agreement(found) + _growth(found)
        lines += [f"- failed: {what}: {error}" for what, error in found["failed"].items()]
    return "\n".join(lines)


def _other_machine(summary: Mapping[str, Any]) -> str:
    """Speed, memory and goals there."""
    lines = [
        *("", f"## On {_machine(summary)}", ""),
        f"Measured {summary['date']} with `{_command(summary)}`.",
        _ceiling(summary),
    ]
    for size, found in summary["sizes"].items():
        lines += ["", f"### {size}", "", *_speed(found), *_goals(found), *_missed(found)]
    return "\n".join(lines) + "\n"


def _limits(found: Mapping[str, Any]) -> str:
    rows = [
        [
            size,
            f"{one['step_seconds']:.2f}",
            f"{one['products_seconds']:.2f}",
            f"{one['products_seconds'] / one['step_seconds']:.0%}",
            f"{one['tokens'] / one['step_seconds']:,.0f}",
            f"{one['tokens'] / one['products_seconds']:,.0f}",
        ]
        for size, one in found["sizes"].items()
    ]
    machine = {"machine": found["machine"], "ceiling_flops_per_second": found["machine"]["flops_per_second"]}
    columns = ["", "step, s", "its products alone, s", "share", "tokens/s", "tokens/s of the products"]
    lines = [
        *("", "## What limits a step", ""),
        "Its products with the frozen weights and with the head, forward and backward, by oneDNN: nothing of them can",
        "be left out while the mathematics stay what they are. Here those of the same passes in the same lanes are",
        "computed without everything else, in turns with the whole step (medians). What is above the last column is",
        "out of reach of any trainer that computes them like this.",
        "",
        f"Measured {found['date']} on {_machine(machine)} with `{_command(found)}`.",
        "",
        *_table(columns, rows),
    ]
    return "\n".join(lines) + "\n"


def _ceiling(summary: Mapping[str, Any]) -> str:
    rates = summary["ceiling_flops_per_second"].items()
    found = "; ".join(
        f"{device} {rate['float32'] / 1e9:,.0f} GFLOP/s float32, {rate['bfloat16'] / 1e9:,.0f} bfloat16"
        for device, rate in rates
    )
    return f"Matrix products measured in the same run, the ceiling: {found}."


def _speed(found: Mapping[str, Any]) -> list[str]:
    ratios = found["ratios"].get("ours", {})
    rows = []
    for name, one in found["contenders"].items():
        ratio = ratios.get(name)
        rows.append(
            [
                name,
                f"{one['tokens_per_second']:,.0f}",
                f"{min(one['rounds']):,.0f}–{max(one['rounds']):,.0f}",
                f"{one['rows_per_second']:.2f}",
                f"{one['peak_bytes'] / 2**30:.2f}",
                f"{one['ceiling_share']:.1%} of {one['compute']}",
                f"{one['warmup_seconds']:.0f}",
                _times(ratio["speed"]) if ratio else "",
                f"{ratio['memory']:.0%}" if ratio else "",
            ]
        )
    columns = ["contender", "tokens/s", "rounds", "rows/s", "peak GiB", "of the ceiling", "warm-up s"]
    return _table([*columns, "ours: speed", "ours: memory"], rows)


def _goals(found: Mapping[str, Any]) -> list[str]:
    if not found["goals"]:
        return []
    rows = [
        [goal["goal"], f"{goal['limit']:g}", f"{goal['reached']:.2f}", "met" if goal["met"] else "missed"]
        for goal in found["goals"]
    ]
    return ["", *_table(["goal", "wanted", "reached", ""], rows)]


def _missed(found: Mapping[str, Any]) -> list[str]:
    """By how much, and of what is counted as useful, what share of the machine's products it would take."""
    ours = found["contenders"].get("ours")
    missed = [goal for goal in found["goals"] if not goal["met"] and goal["goal"].startswith("speed")]
    if not missed or ours is None:
        return []
    here = ours["ceiling_share"]
    lines = [
        f"- {goal['goal'].partition(',')[0]}: {1 - goal['reached'] / goal['limit']:.0%} short of the goal, which would "
        f"take {here * goal['limit'] / goal['reached']:.0%} of the ceiling; ours is at {here:.0%}"
        for goal in missed
    ]
    return ["", *lines]


def _agreement(found: Mapping[str, Any]) -> list[str]:
    agreement = found["agreement"]
    if not agreement.get("deviations"):
        return []
    rows = [
        [name, f"{one['largest']:.2e}", str(one["at_step"]), f"{one['last']:.2e}", "yes" if one["agrees"] else "NO"]
        for name, one in agreement["deviations"].items()
    ]
    limit = f"within {agreement['limit']:.0%}"
    apart = f" (measured {agreement['date']} with `{_command(agreement)}`)" if "command" in agreement else ""
    return [
        "",
        f"Losses of {agreement['steps']} steps in float32 without dropout, relative difference from ours{apart}:",
        "",
        *_table(["contender", "largest", "at step", "at the last step", limit], rows),
    ]


def _growth(found: Mapping[str, Any]) -> list[str]:
    if not found["growth"]:
        return []
    rows = [
        [
            one["contender"],
            str(one["rows"]),
            str(one["row_tokens"] or "50–480"),
            f"{one['microseconds_per_token']:,.0f}",
            f"{one['peak_bytes'] / 2**30:.2f}",
        ]
        for one in found["growth"]
    ]
    return ["", *_table(["contender", "rows", "tokens in a row", "µs a token", "peak GiB"], rows)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [columns, ["-" * width for width in widths], *rows]
    ]
    return lines


def _about(one: Mapping[str, Any]) -> str:
    return f"{one['about']} ({'; '.join(one['notes'])})" if one["notes"] else str(one["about"])


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x"


def _machine(summary: Mapping[str, Any]) -> str:
    machine = summary["machine"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    rates = summary["ceiling_flops_per_second"]
    ceiling = f"{rates['cuda' if gpu else 'cpu']['bfloat16'] / 1e9:,.0f} GFLOP/s in bfloat16"
    return f"{machine['cpu']}, {machine['threads']} threads, {machine['memory_bytes'] / 2**30:.0f} GiB{gpu}, {ceiling}"


def _command(summary: Mapping[str, Any]) -> str:
    return str(summary["command"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
