"""docs/architecture.md names the files that there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tunesmith"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def listed() -> list[str]:
    """Files under src/tunesmith/ in the block of rooms: the folder of a line holds for the lines below without one."""
    block = PAGE.split("src/tunesmith/\n", 1)[1].split("```", 1)[0]
    folder, found = "", []
    for line in block.splitlines():
        if start := re.match(r"  (?:([\w/]+/) +)?(?=\S)", line):
            folder = start[1] or ""
        found += [f"{folder}{name}" for name in re.findall(r"\b\w+\.py\b", line)]
    return found


def present(files: Iterable[Path]) -> list[str]:
    return [str(path.relative_to(PACKAGE)) for path in files if path.name != "__init__.py"]


def test_every_file_of_the_package_is_named_once_and_every_named_one_exists() -> None:
    assert sorted(listed()) == sorted(present(PACKAGE.rglob("*.py")))


def test_every_path_in_the_text_exists() -> None:
    for name in set(re.findall(r"`([\w/]+/[\w./]+?)(?:: [^`]*)?`", PAGE)):
        assert (ROOT / name).exists() or (PACKAGE / name).exists(), name
