"""Models that ship with the package: what a name such as builtin:nano stands for, as a folder."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from tunesmith.errors import ResourceError

BUILTIN_PREFIX = "builtin:"
BUILTIN_FOLDER = Path(str(resources.files("tunesmith"))) / "model" / "builtin"


def find_builtin(path: str) -> Path:
    """The folder of a packaged model.

    Args:
        path: with the prefix.

    Raises:
        ResourceError: there is none of that name.
    """
    name = path.removeprefix(BUILTIN_PREFIX)
    present = [entry.name for entry in sorted(BUILTIN_FOLDER.glob("*")) if (entry / "config.json").is_file()]
    if name in present:
        return BUILTIN_FOLDER / name
    if not present:
        raise ResourceError(
            f"{path!r} is not in this installation: the packaged models are missing",
            cause=f"no model folder in {BUILTIN_FOLDER}",
            fix="install tunesmith from a complete wheel, or set model.path to a local folder or a hub id",
        )
    nearest = difflib.get_close_matches(name, present, n=1, cutoff=0)[0]
    raise ResourceError(
        f"there is no packaged model {path!r}; there are: {', '.join(BUILTIN_PREFIX + item for item in present)}",
        fix=f"did you mean {BUILTIN_PREFIX}{nearest}?",
    )
