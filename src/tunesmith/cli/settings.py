"""`tunesmith settings`: every setting, straight from the schema."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from tunesmith.cli.overrides import Json
from tunesmith.errors import SettingsError, did_you_mean


def settings(
    section: Annotated[str | None, Parameter(help="A section such as train, or a name such as train.epochs.")] = None,
    /,
    *,
    json: Json = False,
) -> None:
    """List the settings: name, type, default and what each does.

    A setting is a flag (train --train.epochs 3, ask --temperature 0.7), a key in YAML and an argument in Python.

        tunesmith settings
        tunesmith settings train
        tunesmith settings train.epochs
    """
    from rich.padding import Padding
    from rich.text import Text

    from tunesmith.cli.terminal import is_wide, show, show_json, table
    from tunesmith.config import describe

    found = [setting for setting in describe() if section is None or _is_in(setting.name, section)]
    if not found:
        names = [setting.name for setting in describe()]
        sections = list(dict.fromkeys(name.split(".")[0] for name in names if "." in name))
        raise SettingsError(
            f"there is no section or setting {section!r}{did_you_mean(str(section), [*sections, *names])}",
            fix=f"take one of: {', '.join(sections)}; or run, for those without a section",
        )
    if json:
        show_json({"schema_version": 1, "settings": [_document(setting) for setting in found]})
        return
    made = table("setting", "default", "type", "what it does", fold=("type", "what it does"))
    for setting in found:
        unit = f" {setting.unit}" if setting.unit and setting.default is not None else ""
        default = setting.default if isinstance(setting.default, str) else jsonlib.dumps(setting.default)
        kind = f"{setting.type}, {setting.allowed}" if setting.allowed else setting.type
        if is_wide():
            made.add_row(Text(setting.name, style="bold"), f"{default}{unit}", Text(kind), Text(setting.sentence))
        else:
            heading = Text(setting.name, style="bold").append(f"  {default}{unit}", style="not bold")
            show(heading.append(f"  ({kind})", style="not bold dim"), Padding(Text(setting.sentence), (0, 0, 0, 4)))
    if is_wide():
        show(made)
    show("", "null: chosen by the program, which says what it took; other tools' names are accepted as well")


def _document(setting: Any) -> dict[str, object]:
    return {name: value for name, value in asdict(setting).items() if name != "is_flag"}


def _is_in(name: str, section: str) -> bool:
    section = section.replace("-", "_")
    return name == section or name.startswith(f"{section}.") or (section == "run" and "." not in name)
