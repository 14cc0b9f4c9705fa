"""Finished measurements -> results.json: medians over rounds, ratios within a round, deviations, growth.

Knows no process and no file. Rounds are paired: a ratio compares what was measured minutes apart, so a machine that is
slow for an hour slows both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from bench.job import ALPHA, CONTENDERS, LEARNING_RATE, QUICK_SIZE, RANK, SIZES, Job

FORMAT = 1
Measurement = tuple[Job, Mapping[str, Any]]

# What is promised on two CPU cores and on a GPU: (label, whom it is held against, figure, limit, device).
GOALS: tuple[tuple[str, str, str, float, str], ...] = (
    ("speed against TRL's defaults, at least", "trl-default", "speed", 8.0, "cpu"),
    ("speed against TRL's best, at least", "best-trl", "speed", 4.0, "cpu"),
    ("speed against the padded script, at least", "script", "speed", 15.0, "cpu"),
    ("peak memory against TRL's best, at most", "best-trl", "memory", 0.7, "cpu"),
    ("speed against TRL's best, at least", "best-trl", "speed", 1.3, "cuda"),
    ("share of the measured bf16 ceiling, at least", "ceiling", "speed", 0.45, "cuda"),
)
AGREEMENT_LIMIT = 0.01  # largest relative difference of a loss from ours


def summarize(measurements: Sequence[Measurement], *, warmup: int, command: str, date: str) -> dict[str, Any]:
    """The content of results.json.

    Args:
        measurements: each job once, with what its process wrote, or {"error": ...}.
        warmup: steps at the start of a run that are not timed.
    """
    machines = [found for job, found in measurements if job.kind == "machine"]
    ceilings = {
        device: {name: median(m["flops_per_second"][device][name] for m in machines) for name in formats}
        for device, formats in machines[0]["flops_per_second"].items()
    }
    facts = {job.size: found["facts"] for job, found in measurements if job.kind == "model"}
    about = ("cpu", "cores", "threads", "memory_bytes", "gpu", "system", "versions")
    return {
        "format": FORMAT,
        "command": command,
        "date": date,
        "machine": {name: machines[0][name] for name in about},
        "ceiling_flops_per_second": ceilings,
        "adapter": {"method": "LoRA", "r": RANK, "alpha": ALPHA, "layers": "all linear", "rate": LEARNING_RATE},
        "warmup_steps": warmup,
        "sizes": {
            size: _summarize_size(size, measurements, facts[size], ceilings[SIZES[size].device], warmup)
            for size in facts
        },
    }


def with_agreement(
    summary: Mapping[str, Any], measurements: Sequence[Measurement], *, command: str, date: str
) -> dict[str, Any]:
    """`summary` of another run, with the losses of these measurements, and when and how they were measured.

    Losses do not depend on how fast the machine is, so they need not be measured in the hours of the speeds.
    """
    sizes = dict(summary["sizes"])
    for size, found in sizes.items():
        losses = _by_contender(measurements, size, "agreement")
        if losses:
            agreement = {**_agreement(losses), "command": command, "date": date}
            failed = {**found["failed"], **_failures(measurements, size)}
            sizes[size] = {**found, "agreement": agreement, "failed": failed}
    return {**summary, "sizes": sizes}


def with_earlier_agreement(summary: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """`summary` with the losses of earlier results, and when and how those were measured."""
    measured = {"command": earlier["command"], "date": earlier["date"]}
    sizes = dict(summary["sizes"])
    for size, found in sizes.items():
        agreement = earlier["sizes"].get(size, {}).get("agreement")
        if agreement:
            sizes[size] = {**found, "agreement": {**measured, **agreement}}
    return {**summary, "sizes": sizes}


def useful_flops(facts: Mapping[str, int], found: Mapping[str, Any]) -> float:
    """Floating-point operations that training once on the rows of a run cannot do without.

    A product with a frozen weight of P numbers costs 2 P per token forward and 2 P backward (the gradient of its input,
    none of the weight). An adapter's A and B, P numbers together, cost 2 P forward and 4 P backward. The head counts
    for supervised tokens only. Causal attention over a row of n tokens and width d costs 2 n^2 d forward per layer
    (scores and values, half of the square) and twice that backward. Not counted: padding, recomputation, norms, the
    optimizer.
    """
    frozen = 4 * facts["linear_parameters"] * found["tokens"]
    adapter = 6 * found["trainable"] * found["tokens"]
    head = 4 * facts["head_parameters"] * found["targets"]
    attention = 6 * facts["layers"] * facts["attention_width"] * found["squared_tokens"]
    return float(frozen + adapter + head + attention)


def steady_rate(found: Mapping[str, Any], warmup: int) -> float:
    """Real tokens per second after the first `warmup` steps."""
    return float(sum(found["step_tokens"][warmup:]) / sum(found["step_seconds"][warmup:]))


def largest_deviation(losses: Sequence[float], reference: Sequence[float]) -> tuple[float, int]:
    """The largest |a - b| / b over the steps, and its step counted from 1.

    Raises:
        ValueError: the curves have different lengths.
    """
    deviations = [abs(a - b) / b for a, b in zip(losses, reference, strict=True)]
    worst = max(range(len(deviations)), key=deviations.__getitem__)
    return deviations[worst], worst + 1


def _summarize_size(
    size: str, measurements: Sequence[Measurement], facts: Mapping[str, int], ceiling: Mapping[str, float], warmup: int
) -> dict[str, Any]:
    speeds = _by_contender(measurements, size, "speed")
    contenders = {
        name: _summarize_speed(name, rounds, facts, ceiling, warmup)
        for name, rounds in speeds.items()
        if _good(rounds.values())
    }
    trl = [name for name in contenders if CONTENDERS[name].trainer == "trl"]
    best_trl = max(trl, key=lambda name: float(contenders[name]["tokens_per_second"]), default=None)
    ratios = {
        ours: {
            other: _ratios(speeds[ours], speeds[other], warmup)
            for other in contenders
            if CONTENDERS[other].trainer != "ours"
        }
        for ours in contenders
        if CONTENDERS[ours].trainer == "ours"
    }
    return {
        "device": SIZES[size].device,
        "facts": dict(facts),
        "contenders": contenders,
        "failed": _failures(measurements, size),
        "best_trl": best_trl,
        "ratios": ratios,
        "goals": _goals(size, contenders, ratios, best_trl),
        "agreement": _agreement(_by_contender(measurements, size, "agreement")),
        "growth": _growth(measurements, size, warmup),
    }


def _by_contender(measurements: Iterable[Measurement], size: str, kind: str) -> dict[str, dict[int, Mapping[str, Any]]]:
    """{contender: {round: what was found}}."""
    table: dict[str, dict[int, Mapping[str, Any]]] = {}
    for job, found in measurements:
        if job.kind == kind and job.size == size:
            table.setdefault(job.contender, {})[job.round] = found
    return table


def _good(rounds: Iterable[Mapping[str, Any]]) -> bool:
    return not any("error" in found for found in rounds)


def _failures(measurements: Iterable[Measurement], size: str) -> dict[str, str]:
    failed = [(job, found["error"]) for job, found in measurements if job.size == size and "error" in found]
    return {f"{job.contender}, {job.kind}": error for job, error in failed}


def _summarize_speed(
    name: str,
    rounds: Mapping[int, Mapping[str, Any]],
    facts: Mapping[str, int],
    ceiling: Mapping[str, float],
    warmup: int,
) -> dict[str, Any]:
    first = next(iter(rounds.values()))
    rates = [steady_rate(found, warmup) for found in rounds.values()]
    rate = median(rates)
    flops_per_token = useful_flops(facts, first) / first["tokens"]
    compute = first["compute"]
    return {
        "about": CONTENDERS[name].about,
        "notes": first["notes"],
        "tokens_per_second": rate,
        "rounds": rates,
        "rows_per_second": rate * first["rows"] / first["tokens"],
        "peak_bytes": median(found["peak_bytes"] for found in rounds.values()),
        "warmup_seconds": median(sum(found["step_seconds"][:warmup]) for found in rounds.values()),
        "trainable": first["trainable"],
        "compute": compute,
        "ceiling_share": rate * flops_per_token / ceiling[compute],
        "losses": first["losses"],
    }


def _ratios(
    ours: Mapping[int, Mapping[str, Any]], other: Mapping[int, Mapping[str, Any]], warmup: int
) -> dict[str, Any]:
    both = sorted(set(ours) & set(other))
    speeds = [steady_rate(ours[n], warmup) / steady_rate(other[n], warmup) for n in both]
    memories = [ours[n]["peak_bytes"] / other[n]["peak_bytes"] for n in both]
    return {"speed": median(speeds), "speed_rounds": speeds, "memory": median(memories)}


def _goals(
    size: str, contenders: Mapping[str, Any], ratios: Mapping[str, Any], best_trl: str | None
) -> list[dict[str, Any]]:
    """Each goal of this device with what was reached by `ours`; goals whose contender was not measured are left out."""
    reached_by = ratios.get("ours", {})
    goals = []
    for label, against, figure, limit, device in GOALS:
        name = best_trl if against == "best-trl" else against
        if device != SIZES[size].device or size == QUICK_SIZE or "ours" not in contenders:
            continue
        if name == "ceiling":
            reached = contenders["ours"]["ceiling_share"]
        elif name in reached_by:
            reached = reached_by[name][figure]
        else:
            continue
        met = reached <= limit if figure == "memory" else reached >= limit
        goals.append({"goal": label, "limit": limit, "reached": reached, "met": met})
    return goals


def _agreement(table: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    curves = {name: rounds[0]["losses"] for name, rounds in table.items() if _good(rounds.values())}
    if "ours" not in curves:
        return {}
    deviations = {}
    for name, losses in curves.items():
        if name != "ours":
            worst, step = largest_deviation(losses, curves["ours"])
            last = abs(losses[-1] - curves["ours"][-1]) / curves["ours"][-1]
            deviations[name] = {"largest": worst, "at_step": step, "last": last, "agrees": worst <= AGREEMENT_LIMIT}
    return {"steps": len(curves["ours"]), "limit": AGREEMENT_LIMIT, "deviations": deviations, "losses": curves}


def _growth(measurements: Iterable[Measurement], size: str, warmup: int) -> list[dict[str, Any]]:
    """Cost per token by number and length of rows."""
    return [
        {
            "contender": job.contender,
            "rows": job.rows,
            "row_tokens": job.row_tokens,
            "microseconds_per_token": 1e6 / steady_rate(found, warmup),
            "peak_bytes": found["peak_bytes"],
        }
        for job, found in measurements
        if job.size == size and job.kind == "growth" and "error" not in found
    ]
