"""The comparison of architectures in docs/layers.md is that of the layer guide, on shapes that are the models'."""

from __future__ import annotations

import pytest

from bench import layers


@pytest.mark.parametrize("name", layers.SHAPES)
def test_a_shape_has_as_many_parameters_as_its_authors_say(name: str) -> None:
    found = layers.guides(name)
    assert found["all"].parameters / 1e6 == pytest.approx(layers.SHAPES[name][2], rel=0.01)
    # all is attention and MLP; what LoRA costs is r * (inputs + outputs) of each chosen layer
    chosen = {choice: guide.chosen_parameters for choice, guide in found.items()}
    assert chosen["all"] == chosen["attention"] + chosen["mlp"]
    linear = [layer for layer in found["query,value"].layers if layer.chosen]
    assert chosen["query,value"] == sum(layers.RANK * sum(layer.shape) for layer in linear) > 0


def test_the_page_agrees_with_the_guide() -> None:
    """Fails when the guide or the page was changed alone: python -m bench.layers."""
    assert layers.PAGE.read_text(encoding="utf-8") == layers.page()
