"""Which cells of a workbook show their number as a percentage, and how: 0.25 is seen, and meant, as 25%.

Fed by the guard while it walks the XML; the parser of cells does not tell number formats. Knows nothing of sheets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import NamedTuple

# ECMA-376, part 1, 18.8.30: formats that have a number instead of a code
_BUILT_IN: Mapping[str, str] = {"9": "0%", "10": "0.00%"}
_NOT_DIGITS = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|[_*].')  # texts, escaped characters, colours, spaces
_DECIMALS = re.compile(r"\.([0#?]+)")
_EXACT = Context(prec=1000, rounding=ROUND_HALF_UP)  # room for any float


class Percent(NamedTuple):
    """How a percentage is shown: with so many decimals, of which those after the least are left out where 0."""

    least: int
    most: int

    @classmethod
    def of(cls, code: str) -> Percent | None:
        """Of the code of a number format, None if it shows no percentage.

        >>> Percent.of("0.0%"), Percent.of("0.##%;-0.##%"), Percent.of('0.00"%"')
        (Percent(least=1, most=1), Percent(least=0, most=2), None)
        """
        positive = _NOT_DIGITS.sub("", code).partition(";")[0]
        if "%" not in positive:
            return None
        decimals = _DECIMALS.search(positive)
        digits = decimals[1] if decimals else ""
        return cls(digits.count("0"), len(digits))

    def text(self, number: float) -> str:
        """
        >>> Percent(0, 0).text(0.125), Percent(0, 2).text(0.125), Percent(1, 1).text(1)
        ('13%', '12.5%', '100.0%')
        """
        hundredths = _EXACT.multiply(Decimal(repr(number)), Decimal(100))
        shown = format(hundredths.quantize(Decimal(1).scaleb(-self.most), context=_EXACT), "f")
        while self.most > self.least and shown.endswith("0"):
            shown = shown[:-1]
        return f"{shown.removesuffix('.')}%"


class PercentStyles:
    """The styles that show percentages, by the number that cells have of them; from the events of styles.xml."""

    def __init__(self) -> None:
        self.found: dict[str, Percent] = {}
        self._codes = dict(_BUILT_IN)
        self._cell_styles: int | None = None

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """An element begins; `name` is without its prefix. Formats come first, the styles of cells after all others."""
        if name == "numFmt":
            self._codes[attributes.get("numFmtId", "")] = attributes.get("formatCode", "")
        elif name == "cellXfs":
            self._cell_styles = 0
        elif name == "xf" and self._cell_styles is not None:
            percent = Percent.of(self._codes.get(attributes.get("numFmtId", ""), ""))
            if percent is not None:
                self.found[str(self._cell_styles)] = percent
            self._cell_styles += 1
