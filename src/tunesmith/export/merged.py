"""The trained weights as a folder of transformers, or of mlx-lm, shard by shard. Knows no run directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig

from tunesmith.export.mlx_layouts import Layout
from tunesmith.model import TrainedTensors

SHARD_BYTES = 2 * 2**30  # in memory at once, and once more while it is written, beside one layer
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MADE_ANEW = ("config.json", "generation_config.json", "README.md", _INDEX, "adapter_config.json")


def write_merged(
    folder: Path,
    tensors: TrainedTensors,
    trained: Path,
    *,
    dtype: torch.dtype,
    stop_ids: tuple[int, ...],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
    layout: Layout | None = None,
) -> None:
    """Write weights, configuration and tokenizer into an empty folder.

    Args:
        trained: the model folder that was trained, which has the tokenizer.
        dtype: of the numbers; each is computed in float32 and rounded once.
        stop_ids: what ends an answer, for generation_config.json.
        on_progress: called with (tensors written, tensors in all).
        layout: how mlx-lm wants it; None for transformers.
    """
    config = tensors.config
    copy_speech(trained, folder, stop_ids=stop_ids, pad_id=config.pad_token_id)
    config.dtype = dtype
    config.save_pretrained(folder)
    if layout is not None:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8")) | layout.config(config)
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    shards = list(_shards(tensors, dtype.itemsize, shard_bytes))
    index: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file_name = _WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        shard: dict[str, Tensor] = {}
        for name in names:
            on_progress(len(index), len(tensors.shapes))
            stored = name if layout is None else layout.name(name)
            tensor = tensors[name] if layout is None else layout.tensor(name, tensors[name])
            shard[stored] = tensor.to(dtype).contiguous()
            index[stored] = file_name
        save_file(shard, folder / file_name, metadata={"format": "pt" if layout is None else "mlx"})
    on_progress(len(index), len(index))
    if len(shards) > 1:
        total_bytes = sum(_bytes(shape, dtype.itemsize) for shape in tensors.shapes.values())
        content = {"metadata": {"total_size": total_bytes}, "weight_map": index}
        (folder / _INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def copy_speech(trained: Path, folder: Path, *, stop_ids: tuple[int, ...], pad_id: int | None) -> None:
    """Tokenizer and template of a model folder, and a generation_config.json that ends answers at `stop_ids`."""
    for file in trained.iterdir():
        if file.is_file() and file.name not in _MADE_ANEW and file.suffix != ".safetensors":
            shutil.copy2(file, folder / file.name)
    GenerationConfig(eos_token_id=list(stop_ids), pad_token_id=pad_id).save_pretrained(folder)


def _shards(tensors: TrainedTensors, item_bytes: int, limit_bytes: int) -> Iterator[list[str]]:
    """Names in the model's order, each group of at most `limit_bytes` or one tensor."""
    names: list[str] = []
    filled = 0
    for name, shape in tensors.shapes.items():
        needed = _bytes(shape, item_bytes)
        if names and filled + needed > limit_bytes:
            yield names
            names, filled = [], 0
        names.append(name)
        filled += needed
    yield names


def _bytes(shape: tuple[int, ...], item_bytes: int) -> int:
    return torch.Size(shape).numel() * item_bytes
