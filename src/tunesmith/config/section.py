"""What every section of the settings is made of: strict models, and settings that carry a sentence and a unit."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    """A group of settings. Unknown names are refused, and every assignment is checked."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _one_text_is_a_list(cls, value: object, info: ValidationInfo) -> object:
        """`documents: notes.txt` for `documents: [notes.txt]`."""
        is_list = cls.model_fields[str(info.field_name)].annotation == list[str]
        return [value] if is_list and isinstance(value, str) else value


def setting(default: Any, sentence: str, *, unit: str | None = None, **limits: Any) -> Any:
    """A field with its default, one sentence, its unit and its allowed range."""
    extra: dict[str, Any] | None = {"unit": unit} if unit else None
    if isinstance(default, (list, dict)):
        return Field(default_factory=default.copy, description=sentence, json_schema_extra=extra, **limits)
    return Field(default, description=sentence, json_schema_extra=extra, **limits)
