"""What every section of the settings is made of: strict models, and settings that carry a sentence and a unit."""

from __future__ import annotations

from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tunesmith.config.problems import problems_of, settings_error

IN_PARTS = {"in_parts": True}  # context of a validation whose caller tells the problems of all sections together


class Section(BaseModel):
    """A group of settings. Unknown names are refused, and every assignment is checked."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    def check_together(self) -> None:
        """Raises ValueError: each value is right by itself, but not beside the others."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self.check_together()
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _refused_in_our_words(cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """What is made or changed in Python is refused as `load_config` does it, which collects from all sections.

        The last validator here is the outermost one: a section checks its values in `check_together`.
        """
        try:
            return handler(value)
        except ValidationError as error:
            if info.context is IN_PARTS:
                raise
            raise settings_error(problems_of(error, cls, origins={}, otherwise=cls.__name__)) from error

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
