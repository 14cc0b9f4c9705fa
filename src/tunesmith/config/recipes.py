"""Recipes as something to read: every value of one with the comment beside it, which is its reason.

A recipe says in `source` which document it follows. The reason of a value stands in its YAML file as a comment: on the
same line, on the lines directly above, or both. Knows nothing of how values become settings (`load` does).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.config.describe import settings_by_name
from tunesmith.config.files import read_settings, settings_tree
from tunesmith.config.load import ABOUT, find_recipe, recipe_paths

_COMMENT = re.compile(r"(?:^|\s)#\s*(.*?)\s*$")


@dataclass(frozen=True, slots=True)
class RecipeValue:
    """One setting of a recipe: its dotted name, its value, and why ("" where the file does not say)."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """A file of settings. `source` is the document that its values come from; "" when the recipe names none.

    settings: as they are nested in the file.
    """

    name: str
    path: Path
    description: str
    source: str
    settings: Mapping[str, Any]
    values: tuple[RecipeValue, ...]

    @property
    def command(self) -> str:
        """What it is for: train or pretrain."""
        return "pretrain" if any(value.name.startswith("pretrain.") for value in self.values) else "train"


def list_recipes() -> list[Recipe]:
    """The recipes that ship with the package."""
    return [read_recipe(name) for name in recipe_paths()]


def read_recipe(name: str) -> Recipe:
    """A recipe by name or path.

    Raises:
        SettingsError: there is none of that name, or it is no YAML.
    """
    path = find_recipe(name)
    content = read_settings(path)
    root, lines = settings_tree(path)
    values = tuple(_values(root, content, "", lines)) if isinstance(root, yaml.MappingNode) else ()
    description, source = (str(content.pop(name, "")) for name in ABOUT)
    return Recipe(path.stem, path, description, source, content, values)


def _values(
    node: yaml.MappingNode, content: Any, prefix: str, lines: list[str], end: yaml.Mark | None = None
) -> Iterator[RecipeValue]:
    """`end` is where the outermost {...} around these values ends: a comment can only come after it."""
    for key, value in node.value:
        name, found = f"{prefix}{key.value}", content[key.value]
        if name in ABOUT:
            continue
        if isinstance(value, yaml.MappingNode) and name not in settings_by_name():
            inner = end or (value.end_mark if value.flow_style else None)
            yield from _values(value, found, f"{name}.", lines, inner)
        else:
            yield RecipeValue(name, found, _reason(key, end or value.end_mark, lines))


def _reason(key: yaml.Node, end: yaml.Mark, lines: list[str]) -> str:
    """The comment lines directly above a key, then the comment on its line, behind the end of the value."""
    number = key.start_mark.line
    above = []
    for line in reversed(lines[:number]):
        if not line.lstrip().startswith("#"):
            break
        above.append(line.strip().lstrip("#").strip())
    rest = _COMMENT.search(lines[number], end.column if end.line == number else key.end_mark.column)
    return " ".join([*reversed(above), *([rest[1]] if rest else [])]).strip()
