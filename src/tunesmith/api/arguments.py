"""Arguments given in Python that are of another kind than they should be: told with what to give. Knows no verb."""

from __future__ import annotations

from tunesmith.config import RunConfig
from tunesmith.errors import SettingsError


def check_kind(name: str, value: object, kind: type, *, fix: str) -> None:
    """
    Raises:
        SettingsError: the value is none of this kind.
    """
    if not isinstance(value, kind):
        raise SettingsError(f"{name} is of the type {type(value).__name__}, not {kind.__name__}", fix=fix)


def check_config(config: object) -> None:
    """
    Raises:
        SettingsError: it does not hold every setting.
    """
    check_kind("config", config, RunConfig, fix="give load_config(...), or run_config of a FinetuningConfig")
