"""Plain linear layers are computed by quick_linear inside, and are what they were afterwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.model import quick, quick_layers


class OtherLinear(nn.Linear):
    """Such as a quantised one, which computes in its own way."""


def test_plain_layers_are_computed_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def spy(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        shapes.append(tuple(weight.shape))
        return F.linear(inputs, weight, bias)

    monkeypatch.setattr(quick, "quick_linear", spy)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), Conv1D(3, 7), OtherLinear(3, 4), nn.Linear(4, 2, bias=False))
    kinds, inputs = [type(layer) for layer in model], torch.randn(2, 5)
    with torch.inference_mode():
        expected = model(inputs)
        assert shapes == []
        with quick_layers(model):
            torch.testing.assert_close(model(inputs), expected)
    assert shapes == [(7, 5), (3, 7), (2, 4)]
    assert [type(layer) for layer in model] == kinds


def test_layers_are_what_they_were_when_it_fails() -> None:
    model = nn.Sequential(nn.Linear(5, 7))
    inside = list[type]()

    def fail() -> None:
        with quick_layers(model):
            inside.append(type(model[0]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert inside != [nn.Linear]
    assert type(model[0]) is nn.Linear
