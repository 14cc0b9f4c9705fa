"""Results as tables between the markers of a page, and as pictures that know which results they show."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Report:
    """bench/NAME.json as tables between the markers of docs/NAME.md and, where something is drawn, docs/NAME.png.

    tables, draw: results -> text, and a PNG. command: what measures them.
    """

    name: str
    command: str
    tables: Callable[[Mapping[str, Any]], str]
    draw: Callable[[Mapping[str, Any]], bytes] | None = None

    @property
    def path(self) -> Path:
        """The results."""
        return ROOT / "bench" / f"{self.name}.json"

    @property
    def page(self) -> Path:
        return DOCS / f"{self.name}.md"

    @property
    def picture(self) -> Path:
        return DOCS / f"{self.name}.png"

    def text(self, results: Mapping[str, Any] | None) -> str:
        """The page as it should be; None before the first complete measurement."""
        not_yet = f"Not measured completely yet: `{self.command}` measures it."
        return filled(self.page, self.tables(results) if results else not_yet)

    def write(self, results: Mapping[str, Any] | None) -> None:
        """Put the tables between the markers, and draw."""
        self.page.write_text(self.text(results), encoding="utf-8")
        if results and self.draw is not None:
            write_picture(self.picture, self.draw(results), results)

    def publish(self, results: Mapping[str, Any]) -> None:
        """Write results, page and picture."""
        self.path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        self.write(results)

    def is_up_to_date(self) -> bool:
        """Whether page and picture are those of the results: false when one of the three was changed alone."""
        results = read_results(self.path)
        drawn = self.draw is None or results is None or is_picture_of(self.picture, results)
        return drawn and self.page.read_text(encoding="utf-8") == self.text(results)


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
