"""The settings of a run that goes on from another. Whether they fit that run is checked in train/continual.py."""

from __future__ import annotations

from pydantic import ValidationInfo, field_validator

from tunesmith.config.section import Section, setting


class ContinualConfig(Section):
    """Going on from a finished run without losing what it learned (docs/continual.md)."""

    parent: str | None = setting(
        None, "Finished run to go on from, by name or folder: its model, method and base, and the rows it kept."
    )
    replay_share: float | None = setting(
        None,
        "Share of the rows of a step that are old ones, on top of the new; unset, 0.2 where there is a parent that "
        "kept rows.",
        ge=0,
        lt=1,
        validate_default=True,
    )
    ewc_lambda: float = setting(
        0.0,
        "Strength of elastic weight consolidation, which holds back weights that mattered to the parent; 0 turns it "
        "off, try powers of ten from 1e3 on.",
        ge=0,
    )
    fisher_rows: int = setting(
        200, "Rows of the parent that say which weights matter to it, for ewc_lambda.", unit="rows", ge=1
    )
    buffer_rows: int = setting(
        1000,
        "Training rows that a run keeps (replay.jsonl) for those that go on from it: an even sample of all that it and "
        "its parents were trained on; 0 keeps none.",
        unit="rows",
        ge=0,
    )

    @field_validator("replay_share", "ewc_lambda")
    @classmethod
    def _needs_a_parent(cls, value: float | None, info: ValidationInfo) -> float | None:
        # a validator of the field and not of the section, so that its problems are told with those of other settings
        if value and info.data.get("parent", "unreadable") is None:
            raise ValueError("there is no earlier run to protect: add --continue RUN, or leave it out")
        return value
