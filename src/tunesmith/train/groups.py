"""Groups of parameters with a rate of their own: which parameters a name in train.learning_rates stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from tunesmith.config import is_pattern
from tunesmith.errors import SettingsError
from tunesmith.model import base_of


def parameter_groups(model: nn.Module, names: Iterable[str]) -> dict[str, list[nn.Parameter]]:
    """The trained parameters that each name stands for.

    embeddings and head are those of the tokens. A regular expression stands for the parameters whose whole path it
    matches, any other name for those that have it in their path: lora_B, mlp, layers.0, self_attn.q_proj.

    Raises:
        SettingsError: a name stands for no parameter that trains, or two for the same one; all such are told.
    """
    trained = {path: parameter for path, parameter in model.named_parameters() if parameter.requires_grad}
    found: dict[str, list[nn.Parameter]] = {}
    owner: dict[nn.Parameter, str] = {}
    problems: list[str] = []
    for name in names:
        paths = _paths(model, name, trained)
        if not paths:
            problems.append(f"{name!r} matches nothing that trains")
        for path in paths:
            first = owner.setdefault(trained[path], name)
            if first != name:
                problems.append(f"{first!r} and {name!r} both match {path}")
                break
        found[name] = [trained[path] for path in paths]
    if problems:
        some = ", ".join(list(trained)[:3])
        raise SettingsError(
            "train.learning_rates names groups that are not there:",
            problems=tuple(problems),
            fix=f"name embeddings, head, or part of a path; what trains begins with {some}",
        )
    return found


def _paths(model: nn.Module, name: str, trained: dict[str, nn.Parameter]) -> list[str]:
    if name in ("embeddings", "head"):
        base: Any = base_of(model)
        module = base.get_input_embeddings() if name == "embeddings" else base.get_output_embeddings()
        own = set(module.parameters()) if module is not None else set()
        return [path for path, parameter in trained.items() if parameter in own]
    if is_pattern(name):
        return [path for path in trained if re.fullmatch(name, path)]
    return [path for path in trained if f".{name}." in f".{path}."]
