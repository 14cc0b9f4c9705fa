"""Optimizers by name, and which parameters each of them moves. The loop sets the rate at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from tunesmith.optional import need
from tunesmith.train.groups import parameter_groups
from tunesmith.train.muon import Muon

Betas = tuple[float, float]
Factors = Mapping[nn.Parameter, float]  # parameters without one have 1


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    weight_decay: float,
    betas: Betas,
    rate_factors: Mapping[str, float] = MappingProxyType({}),
) -> Optimizer:
    """The optimizer of the parameters that require a gradient, at rate 0. Matrices decay, norms and biases do not.

    rate_factors: group of parameters, as in `parameter_groups` -> what the rate is multiplied by. It stands in the
        optimizer's groups as `rate_factor`; whoever sets the rate multiplies.

    Raises:
        SettingsError: a group that is not there.
    """
    groups = parameter_groups(model, rate_factors)
    factors = {parameter: rate_factors[group] for group, members in groups.items() for parameter in members}
    return OPTIMIZERS[name](model, weight_decay, betas, factors)


def _adamw(model: nn.Module, weight_decay: float, betas: Betas, factors: Factors) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return _adamw_of(trainable, weight_decay, betas, factors)


def _muon(model: nn.Module, weight_decay: float, betas: Betas, factors: Factors) -> Optimizer:
    """Muon for matrices of hidden layers, AdamW for the rest, both at one rate."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        tables.add(id(head.weight))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for p in trainable if p.ndim == 2 and id(p) not in tables]
    rest = [p for p in trainable if p.ndim != 2 or id(p) in tables]
    parts: list[Optimizer] = []
    if matrices:
        parts.append(Muon(_groups(matrices, weight_decay, factors)))
    if rest:
        parts.append(_adamw_of(rest, weight_decay, betas, factors))
    return _Joined(parts)


def _adamw_8bit(model: nn.Module, weight_decay: float, betas: Betas, factors: Factors) -> Optimizer:
    """AdamW with moments in 8 bits, 2 bytes a parameter instead of 8 (Dettmers et al. 2022, arXiv:2110.02861)."""
    bitsandbytes = need("bitsandbytes", extra="qlora")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = _groups(trainable, weight_decay, factors)
    optimizer: Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=0.0, betas=betas)
    return optimizer


OPTIMIZERS: Mapping[str, Callable[[nn.Module, float, Betas, Factors], Optimizer]] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "muon": _muon,
}


def _adamw_of(parameters: Sequence[nn.Parameter], weight_decay: float, betas: Betas, factors: Factors) -> AdamW:
    return AdamW(_groups(parameters, weight_decay, factors), lr=0.0, betas=betas, fused=True)


def _groups(parameters: Sequence[nn.Parameter], weight_decay: float, factors: Factors) -> list[dict[str, Any]]:
    """Matrices, then vectors, those of each rate apart."""
    members: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in parameters:
        members.setdefault((parameter.ndim < 2, factors.get(parameter, 1.0)), []).append(parameter)
    return [
        {"params": alike, "weight_decay": 0.0 if is_vector else weight_decay, "rate_factor": factor}
        for (is_vector, factor), alike in sorted(members.items(), key=lambda item: item[0])
    ]


class _Joined(Optimizer):
    """Several optimizers over disjoint parameters that look like one: shared groups, one state."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        for part in parts:
            part.state = self.state
        self.param_groups = [group for part in parts for group in part.param_groups]  # theirs, not copies

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        del closure
        for part in self._parts:
            part.step()
