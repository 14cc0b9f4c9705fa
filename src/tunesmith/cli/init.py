"""`tunesmith init`: a file with every setting at its default, each explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tunesmith.errors import SettingsError


def init(
    file: Annotated[str, Parameter(help="Where to write it.", show_default=True)] = "tunesmith.yaml",
    /,
    *,
    force: Annotated[bool, Parameter(help="Replace a file that is there already.")] = False,
) -> None:
    """Write a file of settings to edit: every setting, its default and what it does.

    tunesmith init
    tunesmith init faq.yaml --force
    tunesmith train faq.xlsx --config faq.yaml
    """
    from tunesmith.cli.terminal import commands, shell, show
    from tunesmith.config import commented_yaml
    from tunesmith.runs import atomic_write

    path = Path(file)
    if path.is_dir():
        raise SettingsError(f"{file} is a folder", fix=f"tunesmith init {path / 'tunesmith.yaml'}")
    if path.exists() and not force:
        raise SettingsError(f"{file} exists already", fix="give another name, or --force to replace it")
    atomic_write(path, commented_yaml())
    show(f"wrote {file}", commands([(shell("tunesmith", "train", "data.xlsx", "--config", file), "train with it")]))
