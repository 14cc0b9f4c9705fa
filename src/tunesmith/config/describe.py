"""The schema as data: what `tunesmith settings`, the docs page, `init` and the flags are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

from tunesmith.config.fields import Setting, settings_in
from tunesmith.config.schema import RunConfig


def describe() -> tuple[Setting, ...]:
    """Every setting in schema order."""
    return tuple(settings_in(RunConfig).values())


def settings_by_name() -> Mapping[str, Setting]:
    """Every setting by its dotted name."""
    return settings_in(RunConfig)


@cache
def sections() -> frozenset[str]:
    """The names that settings are grouped under: train, data, data.split ..."""
    return frozenset(name.rpartition(".")[0] for name in settings_by_name()) - {""}


def commented_yaml() -> str:
    """A configuration file with every setting at its default, each explained. What `tunesmith init` writes."""
    lines = ["# Tunesmith settings. Every line is optional; this file shows the defaults.", ""]
    section: tuple[str, ...] = ()
    for setting in describe():
        *path, leaf = setting.name.split(".")
        for depth, part in enumerate(path):
            if section[: depth + 1] != tuple(path[: depth + 1]):
                if depth == 0:
                    lines.append("")
                lines.append(f"{'  ' * depth}{part}:")
        section = tuple(path)
        indent = "  " * len(path)
        notes = [setting.type, *filter(None, [setting.unit, setting.allowed])]
        lines.append(f"{indent}# {setting.sentence} ({'; '.join(notes)})")
        lines.append(f"{indent}{leaf}: {json.dumps(setting.default)}")
    return "\n".join(lines) + "\n"
