"""Write the sample spreadsheet ``presscrafters_faq.xlsx`` from ``presscrafters_facts.yaml``.

Usage: ``python make_presscrafters_faq.py [OUTPUT.xlsx]`` (needs openpyxl and PyYAML).
With the same versions of both packages, every run writes exactly the same bytes.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import zipfile
from datetime import datetime
from pathlib import Path
from xml.etree.ElementTree import canonicalize

import yaml
from openpyxl import Workbook
from openpyxl.styles import Font

HERE = Path(__file__).resolve().parent
MOMENT = datetime(2026, 1, 5, 9, 0, 0)  # stands for "now" in the workbook and in its zip
SEED = 2009

Row = tuple[str | None, str | None]

# Flaws planted on top of the good rows, as in any sheet that people keep by hand.
BLANK_ROWS = 6  # someone left gaps between groups of questions
DUPLICATE_ROWS = 5  # someone pasted the same lines twice
HALF_FILLED_ROWS: list[Row] = [
    ("Do you sell business cards yourselves?", None),  # nobody has written the answer yet
    ("Can I rent a folding machine from you?", None),  # the same
    (None, "Our summer closing dates are still to be agreed."),  # the question was deleted
]
# Typing and pasting leave stray white space: each pattern spoils the question of one row and
# the answer of another, so 12 rows in all ({double}: a double space between two words).
STRAY_SPACES = ["  {text}", "{text} ", " {text}   ", "{text}\n", "{double}", " {double}\n"]


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return every (question, answer) pair of the facts file, in file order."""
    facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [(question, fact["answer"]) for fact in facts for question in fact["questions"]]


def with_flaws(pairs: list[tuple[str, str]], rng: random.Random) -> list[Row]:
    """Return the pairs in a shuffled order, with the flaws planted among them."""
    good = rng.sample(pairs, len(pairs))
    rows: list[Row] = list(good)
    chosen = rng.sample(range(len(good)), 2 * len(STRAY_SPACES) + DUPLICATE_ROWS)
    for pattern in STRAY_SPACES:
        for column in (0, 1):
            index = chosen.pop()
            cells = list(good[index])
            text = cells[column]
            cells[column] = pattern.format(text=text, double=text.replace(" ", "  ", 1))
            rows[index] = (cells[0], cells[1])
    extra: list[Row] = [good[index] for index in chosen]
    for row in extra + HALF_FILLED_ROWS + [(None, None)] * BLANK_ROWS:
        rows.insert(rng.randrange(len(rows)), row)  # never last: a blank last row is not stored
    return rows


def workbook_bytes(rows: list[Row]) -> bytes:
    """Return the rows as an .xlsx file in which every date is ``MOMENT``."""
    book = Workbook()
    sheet = book.worksheets[0]
    sheet.title = "FAQ"
    for row in [("Question", "Answer"), *rows]:
        sheet.append(row)
    sheet["A1"].font = sheet["B1"].font = Font(bold=True)
    sheet.column_dimensions["A"].width, sheet.column_dimensions["B"].width = 60, 120
    book.properties.creator = "PressCrafters"
    book.properties.created = MOMENT
    draft, final = io.BytesIO(), io.BytesIO()
    book.save(draft)
    stamp = rf"\g<1>{MOMENT:%Y-%m-%dT%H:%M:%SZ}"
    with zipfile.ZipFile(draft) as source, zipfile.ZipFile(final, "w") as target:
        for name in source.namelist():
            text = canonicalize(source.read(name).decode())  # alike with and without lxml
            if name == "docProps/core.xml":  # saving always sets "modified" to the real time
                text = re.sub(r"(<dcterms:modified[^>]*>)[^<]*", stamp, text)
            info = zipfile.ZipInfo(name, MOMENT.timetuple()[:6])
            info.create_system = 3  # the same on every operating system
            target.writestr(info, text)  # stored as it is: compressed bytes vary with zlib
    return final.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Write the spreadsheet to the path given, or beside this script."""
    parser = argparse.ArgumentParser(description="Write the PressCrafters sample spreadsheet.")
    parser.add_argument("output", nargs="?", type=Path, default=HERE / "presscrafters_faq.xlsx")
    rows = with_flaws(read_pairs(HERE / "presscrafters_facts.yaml"), random.Random(SEED))
    parser.parse_args(arguments).output.write_bytes(workbook_bytes(rows))


if __name__ == "__main__":
    main()
