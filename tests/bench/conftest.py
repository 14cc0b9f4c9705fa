"""Measurements as the benchmark's processes write them, with figures chosen so that results are easy to work out."""

from __future__ import annotations

from typing import Any

import pytest

from bench.job import Job
from bench.summary import Measurement

MACHINE: dict[str, Any] = {
    "cpu": "Example CPU",
    "cores": 2,
    "threads": 2,
    "memory_bytes": 24 * 2**30,
    "gpu": None,
    "system": "Linux x86_64, Python 3.11.7",
    "versions": {"torch": "2.13.0", "trl": "1.16.0"},
    "flops_per_second": {"cpu": {"float32": 4e11, "bfloat16": 2e12}},
}
FACTS = {
    "parameters": 134_515_008,
    "linear_parameters": 100_000_000,
    "head_parameters": 28_000_000,
    "layers": 30,
    "attention_width": 576,
}


def training(seconds: float, *, gib: float = 2.0, losses: tuple[float, ...] = (10.0, 8.0, 6.0)) -> dict[str, Any]:
    """Three steps of 1000 tokens: the first takes ten times as long, the others `seconds`."""
    return {
        "step_seconds": [10 * seconds, seconds, seconds],
        "step_tokens": [1000, 1000, 1000],
        "losses": list(losses),
        "total_seconds": 13 * seconds,
        "peak_bytes": int(gib * 2**30),
        "trainable": 5_000_000,
        "compute": "bfloat16",
        "notes": [],
        "rows": 12,
        "tokens": 3000,
        "targets": 1500,
        "squared_tokens": 900_000,
    }


@pytest.fixture
def measurements() -> list[Measurement]:
    """Two rounds; in the second the machine is half as fast, for everybody."""
    found: list[Measurement] = [(Job("machine"), MACHINE), (Job("model", "llama-135m"), {"facts": FACTS})]
    for number, factor in enumerate((1.0, 2.0)):
        for name, seconds, gib in (("ours", 1.0, 2.0), ("trl-default", 10.0, 5.0), ("trl-best", 3.0, 4.0)):
            found.append((Job("speed", "llama-135m", name, number), training(seconds * factor, gib=gib)))
    for name, losses in (("ours", (10.0, 8.0, 6.0)), ("trl-best", (10.0, 8.2, 6.0)), ("script", (10.0, 8.0, 6.03))):
        found.append((Job("agreement", "llama-135m", name), training(1.0, losses=losses)))
    found.append((Job("growth", "llama-135m", "ours", rows=24, row_tokens=64), training(0.5)))
    return found
