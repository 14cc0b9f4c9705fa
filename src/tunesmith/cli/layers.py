"""`tunesmith layers`: the modules of a model, what they do, and what an adapter beside them would cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Json, Overrides, given

if TYPE_CHECKING:
    from rich.table import Table

    from tunesmith.api import Layer, LayerGuide


def layers(
    model: Annotated[
        str | None, Parameter(help="A local folder, a hub id, or builtin:nano, which it is when left out.")
    ] = None,
    /,
    *,
    json: Json = False,
    overrides: Overrides,
) -> None:
    """Show the layers of a model, block by block, without loading its weights.

    With the settings of a method it shows which layers are trained (*), and how much that is.

        tunesmith layers builtin:nano
        tunesmith layers org/name --method.r 8 --method.target_modules attention --method.layers 16-31
    """
    from tunesmith import api
    from tunesmith.cli.terminal import count_text, show, show_json
    from tunesmith.config import load_config

    config = load_config(overrides=given(overrides, model__path=model))
    guide = api.layers(config)
    if json:
        counts = {"parameters": guide.parameters, "chosen_parameters": guide.chosen_parameters}
        show_json({"schema_version": 1, "model": config.model.path, **asdict(guide), **counts})
        return
    show(f"{config.model.path} ({guide.architecture}): {count_text(guide.parameters)} parameters")
    for title, members in _sections(guide.layers):
        show("", title, _drawn(members, guide))
    cost = f"{guide.method}, rank {guide.r}" if guide.r else guide.method
    share = guide.chosen_parameters / guide.parameters
    show("", f"* trained: {cost}: {count_text(guide.chosen_parameters)} in all ({share:.2%})")


def _sections(layers: Iterable[Layer]) -> list[tuple[str, list[Layer]]]:
    """Modules under a title; neighbouring blocks that are alike are shown once."""
    sections: list[tuple[str, list[Layer]]] = []
    alike: list[tuple[int, list[Layer]]] = []

    def close() -> None:
        if alike:
            first, last = alike[0][0], alike[-1][0]
            title = f"block {first}" if first == last else f"blocks {first}-{last}, each:"
            sections.append((title, alike[0][1]))
            alike.clear()

    for block, group in groupby(layers, key=lambda layer: layer.block):
        members = list(group)
        if block is None:
            close()
            sections.append(("outside the blocks", members))
            continue
        if alike and _kinds(alike[0][1]) != _kinds(members):
            close()
        alike.append((block, members))
    close()
    return sections


def _kinds(members: Iterable[Layer]) -> list[tuple[object, ...]]:
    return [(_name(layer), layer.role, layer.shape, layer.parameters, layer.chosen) for layer in members]


def _name(layer: Layer) -> str:
    """The path within its block, or the whole one outside."""
    return layer.path if layer.block is None else layer.path.split(f".{layer.block}.", 1)[-1]


def _drawn(members: Iterable[Layer], guide: LayerGuide) -> Table:
    from rich.text import Text

    from tunesmith.cli.terminal import count_text, table

    made = table("", "module", "what it does", "shape", "parameters", guide.method, right=("parameters", guide.method))
    for layer in members:
        made.add_row(
            "*" if layer.chosen else "",
            Text(_name(layer), style="bold"),
            f"{layer.part}: {layer.role}" if layer.role else layer.part,
            " x ".join(map(str, layer.shape)),
            count_text(layer.parameters),
            "" if layer.adapter is None else count_text(layer.adapter),
        )
    return made
