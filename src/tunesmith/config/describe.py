"""The schema as data: what `tunesmith settings`, the docs page, `init` and the flags are made from."""

from __future__ import annotations

import json
import types
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tunesmith.config.schema import RunConfig

_PLAIN_TYPES: dict[type, str] = {str: "text", int: "integer", float: "number", bool: "true | false"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `name` is dotted (train.epochs); `type` and `allowed` are written for people."""

    name: str
    type: str
    default: Any
    unit: str | None
    sentence: str
    allowed: str
    is_flag: bool


@cache
def describe() -> tuple[Setting, ...]:
    """Every setting in schema order."""
    return tuple(_walk(RunConfig, ""))


@cache
def settings_by_name() -> dict[str, Setting]:
    """Every setting by its dotted name."""
    return {setting.name: setting for setting in describe()}


@cache
def sections() -> frozenset[str]:
    """The names that settings are grouped under: train, data, data.split ..."""
    return frozenset(name.rpartition(".")[0] for name in settings_by_name()) - {""}


def _walk(model: type[BaseModel], prefix: str) -> list[Setting]:
    found: list[Setting] = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found += _walk(annotation, f"{prefix}{name}.")
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        unit = extra.get("unit")
        found.append(
            Setting(
                name=f"{prefix}{name}",
                type=_type_name(annotation),
                default=field.get_default(call_default_factory=True),
                unit=str(unit) if unit else None,
                sentence=field.description or "",
                allowed=_allowed(field),
                is_flag=annotation is bool,
            )
        )
    return found


def _type_name(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " | ".join("null" if part is type(None) else _type_name(part) for part in parts)
    if origin in (list, dict):
        return f"{origin.__name__} of {_type_name(parts[-1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        keys = [field.alias or name for name, field in annotation.model_fields.items()]
        return f"{{{', '.join(keys)}}}"
    return _PLAIN_TYPES[annotation]


def _allowed(field: FieldInfo) -> str:
    limits = []
    for limit in field.metadata:
        if isinstance(limit, annotated_types.Ge):
            limits.append(f">= {limit.ge}")
        elif isinstance(limit, annotated_types.Gt):
            limits.append(f"> {limit.gt}")
        elif isinstance(limit, annotated_types.Le):
            limits.append(f"<= {limit.le}")
        elif isinstance(limit, annotated_types.Lt):
            limits.append(f"< {limit.lt}")
    return ", ".join(limits)


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
