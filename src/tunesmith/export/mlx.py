"""An adapter as mlx-lm has it, and whether it needs a tokenizer beside it. Whole weights are written by merged.py.

Source of the format: ml-explore/mlx-lm, mlx_lm/tuner/{lora,dora,utils}.py and LORA.md. Knows no run directory; mlx
itself is not needed to write.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from tunesmith.export.evidence import make_cases
from tunesmith.export.mlx_layouts import find_layout
from tunesmith.model import TrainedTensors
from tunesmith.prompts import Template, render_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAPTERS, ADAPTER_CONFIG = "adapters.safetensors", "adapter_config.json"
_IN_A_LAYER = re.compile(r"model\.(?:layers|h)\.(\d+)\.(.+)")  # of names as mlx-lm has them
_ANY_LENGTH = 1 << 30


def write_mlx_adapter(folder: Path, tensors: TrainedTensors) -> None:
    """Write adapters.safetensors and adapter_config.json of LoRA or DoRA.

    mlx-lm computes y = W x + scale * B' A' x with `lora_a` A' (in, r), `lora_b` B' (r, out): the transposes of PEFT's.
    Its scale is the factor itself, so alpha / r, and of rsLoRA alpha / sqrt(r).

    Raises:
        SettingsError: an architecture that mlx-lm does not have.
    """
    layout = find_layout(tensors.config)
    layers = dict.fromkeys(name.rpartition(".")[0] for name in tensors.shapes)
    found = {layer: parts for layer in layers if (parts := tensors.low_rank(layer)) is not None}
    factor = next(scale for _, _, scale in found.values())  # one for all layers: what differs goes into B
    stored: dict[str, Tensor] = {}
    for layer, (a, b, scale) in found.items():
        name = layout.name(layer)
        stored[f"{name}.lora_a"] = a.T.contiguous()  # (in, r)
        stored[f"{name}.lora_b"] = (b.T * (scale / factor)).contiguous()  # (r, out)
        magnitude = tensors.magnitude(layer)
        if magnitude is not None:
            stored[f"{name}.m"] = magnitude  # (out,)
    save_file(stored, folder / ADAPTERS, metadata={"format": "mlx"})
    places = {layer: _IN_A_LAYER.fullmatch(layout.name(layer)) for layer in found}
    count = tensors.config.num_hidden_layers
    first = min((int(place[1]) for place in places.values() if place), default=count)
    (rank,) = {a.shape[0] for a, _, _ in found.values()}  # there is one method.r
    content = {
        "fine_tune_type": "dora" if f"{layout.name(next(iter(found)))}.m" in stored else "lora",
        # the last so many; where one of them was not trained, mlx-lm adds a product of 0
        "num_layers": count - first,
        "lora_parameters": {
            "rank": rank,
            "scale": factor,
            "dropout": float(tensors.adapter.lora_dropout),
            "keys": sorted({place[2] if place else layout.name(layer) for layer, place in places.items()}),
        },
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def speaks_alike(base: Path, template: Template, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a base has the prompts and the stops of a tuned model: who runs an adapter takes both from the base.

    Args:
        base: its folder. template, tokenizer: those of the training.
    """
    other = AutoTokenizer.from_pretrained(base)
    if not set(template.stop_ids) <= _ends(base) | {other.eos_token_id} or other.chat_template is None:
        return False
    for case in make_cases((), template, tokenizer, longest=_ANY_LENGTH):
        try:  # not by the tokenizer: the template of a base that was trained with another was not looked at before
            turns, specials = list(case.turns), other.special_tokens_map
            text = render_source(other.get_chat_template(), messages=turns, add_generation_prompt=True, **specials)
        except (jinja2.TemplateError, RecursionError, ValueError, TypeError, KeyError):
            return False
        if tuple(other.encode(text, add_special_tokens=False)) != case.ids:
            return False
    return True


def _ends(folder: Path) -> set[int | None]:
    """Tokens that end an answer: generation_config.json comes before config.json, in mlx-lm as in transformers."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return set(found) if isinstance(found, list) else {found}
    return set()
