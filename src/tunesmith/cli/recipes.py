"""`tunesmith recipes`: settings that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tunesmith.cli.overrides import Json


def recipes(
    name: Annotated[str | None, Parameter(help="A recipe to read; without it, the list.")] = None,
    /,
    *,
    json: Json = False,
) -> None:
    """List the recipes, or show one.

    A recipe is a file of settings: use it with --recipe, change it with flags.

        tunesmith recipes
        tunesmith recipes quickstart
        tunesmith train faq.xlsx --recipe quickstart --epochs 5
    """
    from rich.text import Text

    from tunesmith.cli.terminal import show, show_json, table
    from tunesmith.config import recipe_paths

    paths = recipe_paths()
    if name is not None:
        _show_one(name, paths, as_json=json)
        return
    found = [{"name": stem, **_head(path)} for stem, path in paths.items()]
    if json:
        show_json({"schema_version": 1, "recipes": found})
        return
    made = table("recipe", "for", "what it is", fold=("what it is",))
    for recipe in found:
        made.add_row(Text(recipe["name"], style="bold"), recipe["command"], Text(recipe["description"]))
    show(made, "", "use one: tunesmith train FILE --recipe NAME; read one: tunesmith recipes NAME")


def _show_one(name: str, paths: dict[str, Path], *, as_json: bool) -> None:
    from tunesmith.cli.terminal import show, show_json
    from tunesmith.config import load_config

    load_config(recipe=name)  # refuses an unknown name with the nearest, and a recipe that no longer fits
    path = paths.get(name, Path(name))
    if as_json:
        settings = {key: value for key, value in _read(path).items() if key != "description"}
        show_json({"schema_version": 1, "name": path.stem, **_head(path), "settings": settings})
        return
    show(path.read_text(encoding="utf-8-sig").rstrip())


def _head(path: Path) -> dict[str, str]:
    content = _read(path)
    return {
        "description": str(content.get("description", "")),
        "command": "pretrain" if "pretrain" in content else "train",
        "path": str(path),
    }


def _read(path: Path) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(path.read_text(encoding="utf-8-sig")) or {})
