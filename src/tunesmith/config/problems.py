"""What pydantic refuses, in our words: the setting's name, what was found, what is allowed, the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesmith.config.aliases import ALIASES, NO_COUNTERPART
from tunesmith.config.fields import Setting, settings_in
from tunesmith.errors import SettingsError, did_you_mean


def settings_error(problems: Sequence[str]) -> SettingsError:
    """All problems together."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return SettingsError(f"{count} in the settings:", problems=tuple(problems), fix="tunesmith settings lists them all")


def problems_of(
    error: ValidationError, model: type[BaseModel], *, origins: Mapping[str, str], otherwise: str
) -> list[str]:
    """A sentence for each thing that is wrong with a section, after the origin of its value, or what stands for it."""
    known = settings_in(model)
    problems: list[str] = []
    for detail in error.errors():
        location = detail["loc"]
        name = _setting_of(location, known)
        setting = known.get(name)
        if detail["type"] in ("extra_forbidden", "no_such_attribute") and setting is None:
            problems.append(f"{origins.get(name, otherwise)}: unknown setting {name!r}{instead_of(name, known)}")
            continue
        is_ours = detail["type"] == "value_error"  # a sentence of the schema's own says what is allowed
        allowed = (
            f" (allowed: {setting.type}{', ' + setting.allowed if setting.allowed else ''})"
            if setting and not is_ours
            else ""
        )
        found = f"{name}{_item(location, name)}{_shown(detail['input'])}"
        for message in _in_words(detail, setting).split("\n"):
            entry = f"{origins.get(name, otherwise)}: {found}: {message}{allowed}"
            if entry not in problems:
                problems.append(entry)
    return problems


def _in_words(detail: Mapping[str, Any], setting: Setting | None) -> str:
    """The validator's sentence, or a better one where its own repeats what is allowed or shows a pattern."""
    if detail["type"] == "literal_error" and setting is not None:
        choices = [choice for choice in setting.type.split(" | ") if choice != "null"]
        return f"there is no such choice{did_you_mean(str(detail['input']), choices, cutoff=0.5)}"
    if detail["type"] == "string_pattern_mismatch":
        return "takes letters, digits, '_', '.' and '-' only, and begins with a letter, a digit or '_'"
    return str(detail["msg"]).removeprefix("Value error, ")


def _setting_of(location: tuple[int | str, ...], known: Collection[str]) -> str:
    """The longest prefix of an error's location that names a setting: ('method','target_modules','list[str]')."""
    names = [".".join(str(part) for part in location[:end]) for end in range(len(location), 0, -1)]
    return next((name for name in names if name in known), names[0] if names else "settings")


def _item(location: tuple[int | str, ...], name: str) -> str:
    """Which item of a list is meant, counted from 1: ('train','phases',0,'until') -> ', item 1, until'."""
    rest = location[name.count(".") + 1 :]
    if not rest or not isinstance(rest[0], int):
        return ""
    return "".join(f", {part}" for part in (f"item {rest[0] + 1}", *rest[1:]))


def _shown(value: object) -> str:
    """' = value', unless it is too much to read in a line."""
    is_nested = isinstance(value, (Mapping, BaseModel)) or (
        isinstance(value, list) and any(isinstance(i, Mapping) for i in value)
    )
    return "" if is_nested else f" = {value!r}"


def instead_of(name: str, known: Iterable[str]) -> str:
    """': what other trainers' name comes to here', or the nearest of ours."""
    advice = NO_COUNTERPART.get(name.replace("-", "_"))
    return f": {advice}" if advice else nearest(name, known)


def nearest(name: str, known: Iterable[str]) -> str:
    """', did you mean ...?' by whole name, then by the part after the last dot, then by other people's names."""
    name = name.replace("-", "_")
    leaves = {full.rpartition(".")[2]: full for full in known}
    close = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1, cutoff=0.7)
    return (
        did_you_mean(name, known)
        or (f", did you mean {leaves[close[0]]!r}?" if close else "")
        or did_you_mean(name, ALIASES, cutoff=0.7)
    )
