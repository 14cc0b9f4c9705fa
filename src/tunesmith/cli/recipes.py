"""`tunesmith recipes`: settings that ship with the package, and why each has its value."""

from __future__ import annotations

import json as text_json
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tunesmith.cli.overrides import Json
from tunesmith.errors import SettingsError

if TYPE_CHECKING:
    from tunesmith.config import Recipe


def recipes(
    name: Annotated[
        str | None, Parameter(help="A recipe to read as it is written; show explains one; without it, the list.")
    ] = None,
    shown: Annotated[str | None, Parameter(name="RECIPE", help="The recipe to explain, after show.")] = None,
    /,
    *,
    json: Json = False,
) -> None:
    """List the recipes, explain one, or print its file.

    A recipe is a file of settings: use it with --recipe, change it with flags.

        tunesmith recipes
        tunesmith recipes show phi2-qa
        tunesmith recipes quickstart > mine.yaml
        tunesmith train faq.xlsx --recipe quickstart --epochs 5
    """
    if name == "show":
        if shown is None:
            raise SettingsError("recipes show needs the name of a recipe", fix="tunesmith recipes lists them")
        _explain(shown, as_json=json)
    elif shown is not None:
        raise SettingsError(f"unexpected: {shown}", fix=f"tunesmith recipes show {name}")
    elif name is not None:
        _print_file(name, as_json=json)
    else:
        _list(as_json=json)


def _list(*, as_json: bool) -> None:
    from rich.text import Text

    from tunesmith.cli.terminal import show, show_json, table
    from tunesmith.config import list_recipes

    found = list_recipes()
    if as_json:
        show_json({"schema_version": 1, "recipes": [_head(recipe) for recipe in found]})
        return
    made = table("recipe", "for", "what it is", fold=("what it is",))
    for recipe in found:
        made.add_row(Text(recipe.name, style="bold"), recipe.command, Text(recipe.description))
    show(made, "", "use one: tunesmith train FILE --recipe NAME; see why: tunesmith recipes show NAME")


def _explain(name: str, *, as_json: bool) -> None:
    from rich.text import Text

    from tunesmith.cli.terminal import facts, plain, show, show_json, table

    recipe = _checked(name)
    if as_json:
        values = [{"name": value.name, "value": value.value, "reason": value.reason} for value in recipe.values]
        show_json({"schema_version": 1, **_head(recipe), "values": values})
        return
    made = table("setting", "value", "why", fold=("value", "why"))
    for value in recipe.values:
        made.add_row(value.name, Text(plain(_value_text(value.value))), Text(plain(value.reason)))
    source = [("source", recipe.source)] if recipe.source else []
    show(facts([("what it is", recipe.description), *source]), "", made, "")
    target = "FILE " if recipe.command == "train" else ""
    show(f"everything else is a default; use it: tunesmith {recipe.command} {target}--recipe {name}")


def _value_text(value: Any) -> str:
    """Phases and other mappings a line each; text as it is; the rest as in YAML."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "\n".join(", ".join(f"{key} {item}" for key, item in part.items()) for part in value)
    return f"{value:g}" if isinstance(value, float) else text_json.dumps(value, ensure_ascii=False)


def _print_file(name: str, *, as_json: bool) -> None:
    from tunesmith.cli.terminal import show, show_json

    recipe = _checked(name)
    if as_json:
        show_json({"schema_version": 1, **_head(recipe), "settings": recipe.settings})
        return
    show(recipe.path.read_text(encoding="utf-8-sig").rstrip())


def _checked(name: str) -> Recipe:
    from tunesmith.config import load_config, read_recipe

    load_config(recipe=name)  # refuses an unknown name with the nearest, and a recipe that no longer fits
    return read_recipe(name)


def _head(recipe: Recipe) -> dict[str, str]:
    return {
        "name": recipe.name,
        "description": recipe.description,
        "source": recipe.source,
        "command": recipe.command,
        "path": str(recipe.path),
    }
