"""Results as tables between the markers of a page, and as pictures that know which results they show."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.ledger import ROOT

DOCS = ROOT / "docs"
_KEY = "results"


def read_results(path: Path) -> dict[str, Any] | None:
    """The published results; None before the first complete measurement."""
    if not path.is_file():
        return None
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def filled(page: Path, text: str, *, name: str = "table") -> str:
    """The page with `text` between its markers `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown: the first column to the left, numbers to the right."""
    line = ["---", *["---:"] * (len(columns) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (columns, line, *rows)]


def write_picture(path: Path, png: bytes, results: Mapping[str, Any]) -> None:
    """Write a picture of `results`, marked with their SHA-256."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text(_KEY, _digest(results))
    with Image.open(io.BytesIO(png)) as image:
        image.save(path, pnginfo=mark, optimize=True)


def is_picture_of(path: Path, results: Mapping[str, Any]) -> bool:
    """Whether the picture was drawn from these results."""
    from PIL import Image

    with Image.open(path) as image:
        return bool(image.info.get(_KEY) == _digest(results))


def _digest(results: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()
