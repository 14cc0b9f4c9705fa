"""An importance matrix: how much each input column of a linear layer is used on the run's own training rows.

llama.cpp weighs the rounding error of a column by the mean square of what enters it (tools/imatrix/imatrix.cpp), here
measured in Python on the trained model. Knows no run directory. T positions, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.export.gguf import tensor_names
from tunesmith.optional import need
from tunesmith.types import Encoded


@dataclass(frozen=True, slots=True)
class Importance:
    """sums: GGUF name of a matrix -> (C,) sum of squares of its input over `tokens` positions of `rows` rows."""

    sums: Mapping[str, NDArray[np.float64]]
    tokens: int
    rows: int

    def write(self, path: Path, *, origin: str) -> None:
        """The file that `llama-quantize --imatrix` reads. origin: what the rows are from.

        Source of the layout: llama.cpp, tools/imatrix/imatrix.cpp, `save_imatrix`.

        Raises:
            ResourceError: the package gguf is missing.
        """
        gguf = need("gguf", extra="gguf")
        writer = gguf.GGUFWriter(str(path), "imatrix")
        try:
            writer.add_type("imatrix")
            writer.add_array("imatrix.datasets", [origin])
            writer.add_uint32("imatrix.chunk_count", self.rows)
            writer.add_uint32("imatrix.chunk_size", max(1, round(self.tokens / self.rows)))
            for name, sums in sorted(self.sums.items()):
                writer.add_tensor(f"{name}.in_sum2", sums.astype(np.float32).reshape(1, -1))
                writer.add_tensor(f"{name}.counts", np.array([[self.tokens]], dtype=np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def read_means(path: Path) -> dict[str, NDArray[np.float32]]:
    """Mean squares from such a file, (C,) for each matrix: what `llama_model_quantize` takes."""
    gguf = need("gguf", extra="gguf")
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(str(path)).tensors}
    sums = {name.removesuffix(".in_sum2"): data for name, data in stored.items() if name.endswith(".in_sum2")}
    return {name: np.array(data.ravel() / stored[f"{name}.counts"].item(), np.float32) for name, data in sums.items()}


@torch.inference_mode()
def measure_importance(
    model: Any, rows: Sequence[Encoded], *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Importance:
    """Run a whole model, adapters merged, over rows and add up what enters each linear layer.

    Args:
        model: of transformers, in evaluation mode. rows: at least one.

    Raises:
        SettingsError: an architecture that has no GGUF names. ResourceError: the package gguf is missing.
    """
    name_of = tensor_names(model.config)
    device = next(model.parameters()).device
    sums: dict[str, Tensor] = {}
    hooks = []
    for path, module in model.named_modules():
        # the head is left out, as llama.cpp's own program leaves it: it is kept at 6 bits or more
        if isinstance(module, (nn.Linear, Conv1D)) and module is not model.get_output_embeddings():
            hooks.append(module.register_forward_pre_hook(_adder(name_of(f"{path}.weight"), sums)))
    try:
        for done, row in enumerate(rows, start=1):
            model(input_ids=torch.from_numpy(row.input_ids)[None].to(device), use_cache=False)
            on_progress(done, len(rows))
    finally:
        for hook in hooks:
            hook.remove()
    return Importance(
        {name: total.cpu().numpy() for name, total in sums.items()}, sum(len(row) for row in rows), len(rows)
    )


def _adder(name: str, sums: dict[str, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered = inputs[0].flatten(0, -2)  # (T, C)
        squares = entered.double().square().sum(0)
        sums[name] = sums[name] + squares if name in sums else squares

    return add
