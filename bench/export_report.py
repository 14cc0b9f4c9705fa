"""bench/export.json -> the table in docs/export.md: `python -m bench.export_report`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.pages import Report, read_results


def table(content: Mapping[str, Any]) -> str:
    """All that stands between the markers."""
    files = content["files"]
    first = files[0]
    weighed = {one["type"]: one for one in files if one["imatrix"]}
    lines = [
        f"Measured {content['date']} with `{content['command']}`, llama-cpp-python "
        f"{content['versions']['llama-cpp-python']}: the quickstart run, {content['steps']} steps on "
        f"{content['split']['train']} rows. In Python it has perplexity {first['reference_perplexity']:.3f} on "
        f"{first['rows']:.0f} held-out rows and token F1 {first['reference_token_f1']:.3f} on {first['prompts']:.0f} "
        f"prompts, and {first['reference_ended']:.0%} of its answers end by themselves.",
        "",
        "| type | MB | verdict | divergence (nats) | with `--imatrix` | perplexity | with | same token | with "
        "| token F1 | with | ended |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_line(one, weighed.get(one["type"])) for one in files if not one["imatrix"]]
    return "\n".join([*lines, "", summary(content)])


def summary(content: Mapping[str, Any]) -> str:
    """What the importance matrix did to the divergence, type by type."""
    plain = {one["type"]: one for one in content["files"] if not one["imatrix"]}
    pairs = [(plain[one["type"]], one) for one in content["files"] if one["imatrix"]]
    changes = [f"{new['type']} {new['divergence'] / old['divergence'] - 1:+.0%}" for old, new in pairs]
    lower = sum(new["divergence"] < old["divergence"] for old, new in pairs)
    return f"The importance matrix lowers the divergence in {lower} of {len(pairs)} types: {', '.join(changes)}."


def _line(one: Mapping[str, Any], weighed: Mapping[str, Any] | None) -> str:
    cells = [one["type"], f"{one['bytes'] / 1e6:.1f}", one["status"]]
    for name, style in (("divergence", ".1e"), ("perplexity", ".3f"), ("argmax_agreement", ".1%"), ("token_f1", ".3f")):
        cells += [format(one[name], style), format(weighed[name], style) if weighed else ""]
    return f"| {' | '.join([*cells, format(one['ended'], '.0%')])} |"


REPORT = Report("export", "python -m bench.export", table)

if __name__ == "__main__":
    REPORT.write(read_results(REPORT.path))
