"""What limits a step of ours: its products with frozen weights alone, beside the whole step, in turns.

Usage: python -m bench.limits [--sizes llama-135m,gpt2-124m] [--rounds N]

The products are those of the same passes with the same weights, in the same lanes: of each linear layer and of the head
the result, and the gradient of its input. Nothing of them can be left out while the mathematics stay what they are, so
that a step that consisted of them is the fastest that these products allow. Left out of both are reading rows and the
optimizer. Writes bench/limits.json, and from it the end of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.job import SIZES, Job
from bench.ours import Ready, make_ready
from bench.report import LIMITS, read_results, write_pages
from bench.worker import measure_machine
from bench.workload import save_model
from tunesmith.data import batches
from tunesmith.kernels import quick_linear, recurring_size
from tunesmith.model import base_of, seeded_dropout, token_nll
from tunesmith.types import Batch

Pass = tuple[int, Batch]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", default="llama-135m,gpt2-124m", help="of those that run on a CPU (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each kind that count (%(default)s)")
    options = parser.parse_args()
    sizes = {}
    for size in options.sizes.split(","):
        step = SIZES[size].rows_per_step
        job = Job("speed", size, "ours", rows=step, rows_per_step=step)
        with TemporaryDirectory() as folder:
            save_model(size, Path(folder))
            sizes[size] = measured(make_ready(job, Path(folder)), options.rounds)
        print(f"{size}: {sizes[size]}", flush=True)
    command = f"python -m bench.limits --sizes {options.sizes} --rounds {options.rounds}"
    about = {"date": time.strftime("%Y-%m-%d"), "command": command, "machine": measure_machine()}
    LIMITS.write_text(json.dumps({**about, "sizes": sizes}, indent=1) + "\n", encoding="utf-8")
    write_pages(read_results())


def measured(ready: Ready, rounds: int) -> dict[str, Any]:
    """Tokens of a step, and seconds of its passes and of their products alone: the median of rounds in turns."""
    settings, lanes = ready.settings, ready.settings.lanes
    passes = list(enumerate(batches(ready.rows, tokens=settings.tokens_per_batch, lanes=lanes.count)))
    weights = frozen_weights(ready.model)

    def whole(item: Pass) -> None:
        number, batch = item
        with seeded_dropout(number), settings.autocast():
            loss = token_nll(ready.model, batch).sum()
        loss.backward()

    def products(item: Pass) -> None:
        multiply(weights, item[1])

    seconds: dict[str, list[float]] = {"step": [], "products": []}
    ready.model.train()
    with ready.fast:
        for number in range(rounds + 1):  # the first warms up
            for name, work in (("step", whole), ("products", products)):
                start = time.perf_counter()
                list(lanes.map(work, passes))
                if number:
                    seconds[name].append(time.perf_counter() - start)
            ready.model.zero_grad()
    return {
        "tokens": sum(map(len, ready.rows)),
        **{f"{name}_seconds": median(taken) for name, taken in seconds.items()},
    }


def frozen_weights(model: nn.Module) -> list[tuple[Tensor, bool]]:
    """(O, I) of each linear layer below an adapter and of the head, and whether it is the head."""
    head = base_of(model).get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and not m.weight.requires_grad]
    return [(layer.weight.T if isinstance(layer, Conv1D) else layer.weight, layer is head) for layer in layers]


def multiply(weights: list[tuple[Tensor, bool]], batch: Batch) -> None:
    """Each product and that of the gradient, at the sizes that the engine computes."""
    positions, targets = recurring_size(len(batch.input_ids)), recurring_size(int(batch.supervised.sum()))
    with torch.no_grad():
        inputs: dict[tuple[int, int], Tensor] = {}  # numbers do not matter, shapes do
        for weight, is_head in weights:
            rows, (outputs, width) = targets if is_head else positions, weight.shape
            for size, matrix in ((width, weight), (outputs, weight.T)):
                if (rows, size) not in inputs:
                    inputs[rows, size] = weight.new_ones(rows, size)
                quick_linear(inputs[rows, size], matrix)


if __name__ == "__main__":
    main()
