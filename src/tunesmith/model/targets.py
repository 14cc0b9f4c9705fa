"""Which layers of a model an adapter goes to, and what each of them does. Knows no method and no file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.config import is_pattern, parse_layers
from tunesmith.errors import SettingsError

Part = Literal["attention", "mlp"]

# Names of the submodule of a decoder layer that a linear layer belongs to: llama, mistral, qwen, phi, phi3 and gemma
# say self_attn and mlp, gpt2 attn and mlp, gpt_neox attention, falcon and bloom self_attention, opt has bare fc1, fc2.
PARTS: dict[Part, tuple[str, ...]] = {
    "attention": ("self_attn", "attn", "attention", "self_attention", "linear_attn"),
    "mlp": ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc1", "fc2"),
}
# What a linear layer computes, by its last name within its part. Several in one matrix are joined with a comma.
ROLES: dict[Part, dict[str, str]] = {
    "attention": {
        **dict.fromkeys(("q_proj", "wq"), "query"),
        **dict.fromkeys(("k_proj", "wk"), "key"),
        **dict.fromkeys(("v_proj", "wv"), "value"),
        **dict.fromkeys(("qkv_proj", "c_attn", "query_key_value", "Wqkv", "qkv"), "query, key, value"),
        **dict.fromkeys(("o_proj", "out_proj", "dense", "c_proj", "wo"), "output"),
    },
    "mlp": {
        **dict.fromkeys(("gate_proj", "w1"), "gate"),
        **dict.fromkeys(("up_proj", "w3", "fc1", "c_fc", "fc_in", "dense_h_to_4h"), "up"),
        **dict.fromkeys(("gate_up_proj",), "gate, up"),
        **dict.fromkeys(("down_proj", "w2", "fc2", "c_proj", "fc_out", "dense_4h_to_h"), "down"),
        **dict.fromkeys(("gate", "router"), "router"),
    },
}
_ROLE_NAMES = {role for roles in ROLES.values() for text in roles.values() for role in text.split(", ")}


def chosen_layers(model: PreTrainedModel, wanted: str | Sequence[str], layers: str | None = None) -> list[str]:
    """Paths of the linear layers that method.target_modules and method.layers select, in the model's order.

    all -> every linear layer inside the decoder layers: not the head, not the embeddings.
    attention, mlp -> those inside that part. query, key, value, output, gate, up, down -> those with that role,
    whatever the architecture calls them; where several share one matrix, that one.
    A regular expression selects the layers whose whole path it matches, a name those whose path ends with it: q_proj,
    self_attn.q_proj, layers.0.self_attn.q_proj. Several of these with commas (names only), or as a list.

    Args:
        layers: numbers of decoder layers as in "0-7,24-31"; None for all.

    Raises:
        SettingsError: some of them select nothing: all of these, with the names there are and the nearest.
    """
    paths = linear_paths(model)
    if isinstance(wanted, str):
        wanted = [wanted] if is_pattern(wanted) else [name.strip() for name in wanted.split(",")]
    if not wanted:
        raise SettingsError("method.target_modules is empty", fix="set it to all, attention, mlp or names of layers")
    chosen: set[str] = set()
    errors = []
    for name in wanted:
        found = [path for path in paths if _selects(name, path)]
        if not found:
            errors.append(_no_such_layer(name, paths))
        chosen.update(found)
    there = {block_of(path) for path in paths}
    blocks = there if layers is None else set(parse_layers(layers))
    outside = [number for number in blocks - there if number is not None]
    if outside:
        errors.append(_no_such_block(f"method.layers {layers}", min(outside), there))
    if errors:
        raise together(errors)
    selected = [path for path in paths if path in chosen and block_of(path) in blocks]
    if not selected:
        raise SettingsError(
            f"method.layers {layers} has none of the layers that method.target_modules selects",
            fix="choose other layers or other modules; tunesmith layers MODEL shows which there are",
        )
    return selected


def shortest_names(chosen: Sequence[str], model: PreTrainedModel) -> list[str]:
    """Last names (q_proj) where they select exactly `chosen`, else names within the layer (attn.c_proj), else paths."""
    paths = linear_paths(model)
    for shorten in (_last_name, _name_in_layer):
        names = sorted({shorten(path) for path in chosen})
        if {path for path in paths if any(ends_with(path, name) for name in names)} == set(chosen):
            return names
    return sorted(chosen)


def linear_paths(model: PreTrainedModel) -> list[str]:
    """Paths of the linear layers inside numbered (decoder) layers, such as model.layers.0.mlp.up_proj."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and block_of(path) is not None
    ]


def block_of(path: str) -> int | None:
    """Number of the decoder layer that a path is in, None outside: "model.layers.3.mlp.experts.0.w1" -> 3."""
    return next((int(piece) for piece in path.split(".") if piece.isdigit()), None)


def part_of(path: str) -> Part | None:
    """Whether a path is inside attention or the MLP of its layer."""
    pieces = set(path.split("."))
    return next((part for part, names in PARTS.items() if pieces & set(names)), None)


def role_of(path: str) -> str | None:
    """What a linear layer computes within its part: query, key, value, output; gate, up, down. None when unknown."""
    part = part_of(path)
    return ROLES[part].get(_last_name(path)) if part is not None else None


def ends_with(path: str, name: str) -> bool:
    """PEFT's own rule for a list of target modules."""
    return path == name or path.endswith(f".{name}")


def _selects(name: str, path: str) -> bool:
    if name == "all":
        return True
    if name in PARTS:
        return part_of(path) == name
    if name in _ROLE_NAMES:
        return name in (role_of(path) or "").split(", ")
    return re.fullmatch(name, path) is not None if is_pattern(name) else ends_with(path, name)


def together(errors: Sequence[SettingsError]) -> SettingsError:
    """One error for several, each with its own fix."""
    if len(errors) == 1:
        return errors[0]
    problems = [problem for error in errors for problem in error.problems or (f"{error.message}: {error.fix}",)]
    return SettingsError(f"{len(problems)} settings do not fit this model:", problems=tuple(problems))


def _no_such_block(setting: str, outside: int, there: Iterable[int | None]) -> SettingsError:
    last = max(number for number in there if number is not None)
    return SettingsError(
        f"{setting}: this model has no layer {outside}; it has {last + 1}, from 0 to {last}",
        fix=f"choose layers from 0-{last}",
    )


def _last_name(path: str) -> str:
    return path.rpartition(".")[2]


def _name_in_layer(path: str) -> str:
    pieces = path.split(".")
    first = max(index for index, piece in enumerate(pieces) if piece.isdigit()) + 1
    return ".".join(pieces[first:])


def _no_such_layer(name: str, paths: Sequence[str]) -> SettingsError:
    there = sorted({_last_name(path) for path in paths})
    message = f"method.target_modules: {name!r} matches no linear layer of this model; there are: {', '.join(there)}"
    if is_pattern(name):
        example = f"; the whole path counts, such as {paths[0]}" if paths else ""
        return SettingsError(message + example, fix="begin it with .* or take names of layers; see tunesmith layers")
    nearest = difflib.get_close_matches(name, there, n=1, cutoff=0.4)
    fix = f"did you mean {nearest[0]}?" if nearest else "set it to all, attention, mlp or some of these names"
    return SettingsError(message, fix=fix)
