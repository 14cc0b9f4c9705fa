"""Results that are kept as JSON and read again by those versions that mean the same by them; what JSON cannot hold of
them; and the hash by which a file is known again. Knows none of them.

A file that is gone, torn or of another version is no error: who finds nothing computes the result again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.runs.atomic import atomic_write

Built = TypeVar("Built")


def keep_result(path: Path, content: Mapping[str, object], *, version: int) -> None:
    """Write a result.

    Args:
        version: of the form of its content, another one when that changes.

    Raises:
        ResourceError: the disk is full, read-only, over quota or closed to us.
    """
    atomic_write(path, json.dumps({"schema_version": version, **content}, ensure_ascii=False) + "\n")


def kept_result(path: Path, build: Callable[[dict[str, Any]], Built], *, version: int) -> Built | None:
    """What `build` makes of the content that `keep_result` wrote in this version; None where there is none.

    Args:
        build: any error of its own about what the content has or lacks means that it is not such a result.
    """
    content = read_json(path)
    if content.pop("schema_version", None) != version:
        return None
    try:
        return build(content)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """An object of a file; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def without_nonfinite(value: object) -> object:
    """A copy in which NaN and infinities, which JSON does not have, are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [without_nonfinite(item) for item in value]
    return value


def file_sha256(path: Path) -> str:
    """SHA-256 of the bytes of a file, which is never in memory as a whole. OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
