"""The fields of a section as settings for people: types and ranges in words. Knows no section of ours."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

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
def settings_in(model: type[BaseModel]) -> Mapping[str, Setting]:
    """Every setting of a section and of those inside it by its dotted name, in their order."""
    return {setting.name: setting for setting in _walk(model, "")}


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
