"""The only importer of optional packages: a missing one is answered with the command that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from tunesmith.errors import ResourceError


def need(module: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: import name, e.g. "bitsandbytes".
        extra: the extra of this project that brings it.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"this needs the package {module!r}, which is not installed",
            cause=str(error),
            fix=f'pip install "tunesmith[{extra}]"',
        ) from error
