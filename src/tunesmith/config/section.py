"""What the schema is made of: sections, and settings with their sentence and unit. Knows no setting."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def setting(default: Any, sentence: str, *, unit: str | None = None, **limits: Any) -> Any:
    """A field of a section."""
    extra: dict[str, Any] | None = {"unit": unit} if unit else None
    if isinstance(default, (list, dict)):
        return Field(default_factory=default.copy, description=sentence, json_schema_extra=extra, **limits)
    return Field(default, description=sentence, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """Refuses settings that it does not know, and checks what is assigned later."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
