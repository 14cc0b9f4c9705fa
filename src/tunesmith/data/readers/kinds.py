"""What a file is by its first bytes, whatever it is called, and what to do about one that holds no rows for us.

Literal tables and a look into archives; nothing is parsed. Knows nothing of shapes.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")  # the stream in which a workbook with a password lies
_OLD_BOOKS = tuple(name.encode("utf-16-le") for name in ("Workbook", "Book"))
_OLD_WORD = "WordDocument".encode("utf-16-le")
_LOCK_FILE = "~$"  # what Excel and Word put beside a file while it is open
_SAVE_AS_XLSX = "open it in the program that made it and save it as .xlsx, or export csv"
AS_CHOICES = (
    "write the questions as a table with columns Question, A, B, .. and Answer; as plain text wrong answers are "
    "learnt too"
)
_COPY_TEXT = "copy its questions and answers into two columns of a spreadsheet"


@dataclass(frozen=True, slots=True)
class Kind:
    """`name` completes "this is ..."; `format` is the one that reads it, if any; `fix` is what to do with a misfit."""

    name: str
    format: str | None
    fix: str


_BY_START: Mapping[bytes, Kind] = {
    b"PAR1": Kind("a parquet file", "parquet", "give it the ending .parquet"),
    b"\x1f\x8b": Kind(
        "a gzip archive", None, "unpack it, or let its name end in .gz after the ending of what is inside"
    ),
    b"%PDF": Kind("a PDF", None, _COPY_TEXT),
    b"{\\rtf": Kind("an RTF document", None, _COPY_TEXT),
    b"\x89PNG": Kind("a picture", None, "name the file that holds the rows"),
    b"\xff\xd8\xff": Kind("a picture", None, "name the file that holds the rows"),
    b"7z\xbc\xaf": Kind("a 7z archive", None, "unpack it and name one file of it"),
    b"Rar!": Kind("a RAR archive", None, "unpack it and name one file of it"),
    b"SQLite format 3": Kind("an SQLite database", None, "export the table with the rows as csv"),
}
# an entry of a zip archive -> what has it
_BY_ENTRY: Mapping[str, Kind] = {
    "xl/workbook.xml": Kind("an .xlsx workbook", "xlsx", "give it the ending .xlsx"),
    "xl/workbook.bin": Kind("a binary workbook (.xlsb)", None, _SAVE_AS_XLSX),
    "word/document.xml": Kind("a Word document", None, _COPY_TEXT),
    "ppt/presentation.xml": Kind("a PowerPoint file", None, _COPY_TEXT),
    "Index/Document.iwa": Kind(
        "an Apple Numbers, Pages or Keynote file", None, "export it from there: File > Export To > Excel"
    ),
    "content.xml": Kind("an OpenDocument file, but no spreadsheet", None, _COPY_TEXT),
}
# the ending of a text file -> what it is, where its content does not say so
BY_ENDING: Mapping[str, Kind] = {".gift": Kind("a quiz in GIFT, as Moodle imports it", None, AS_CHOICES)}
_OPEN_DOCUMENT = b"application/vnd.oasis.opendocument.spreadsheet"  # an .ods, or an .ots, its template
_XML_SPREADSHEET = b'xmlns="urn:schemas-microsoft-com:office:spreadsheet"'
_HEAD_BYTES = 2000
_HTML = re.compile(rb"\s*(<!doctype html|<html|<table|<head|<body)", re.IGNORECASE)


def recognise(path: Path, content: bytes) -> Kind | None:
    """What the bytes are, if they are unmistakably no plain text. A byte order mark makes text of them."""
    if path.name.startswith(_LOCK_FILE):
        real = path.name.removeprefix(_LOCK_FILE)
        return Kind("the note that an office program keeps beside an open file", None, f"name {real} itself")
    if content.startswith(ZIP):
        return _of_archive(content)
    if content.startswith(_OLE):
        return _of_compound(content)
    for start, kind in _BY_START.items():
        if content.startswith(start):
            return kind
    return None


def is_html(content: bytes) -> bool:
    """Whether it begins as a page does: what web applications often call .xls. As a text it may still be wanted."""
    return _HTML.match(content) is not None


def xml_kind(content: bytes) -> Kind | None:
    """What it is if it begins as XML does. As a text it may still be wanted."""
    if not content.removeprefix(b"\xef\xbb\xbf").startswith(b"<?xml"):
        return None
    if _XML_SPREADSHEET in content[:_HEAD_BYTES]:
        return Kind("an XML spreadsheet of Excel 2003", None, _SAVE_AS_XLSX)
    return Kind("an XML file", None, "export the rows as csv or JSON, or open it in a spreadsheet program")


def _of_archive(content: bytes) -> Kind:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if "mimetype" in names and archive.open("mimetype").read(100).startswith(_OPEN_DOCUMENT):
                return Kind("an .ods workbook", "ods", "give it the ending .ods")
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return Kind("a zip archive or workbook that is damaged or cut off", None, "copy or download it again")
    by_lower = {name.lower() for name in names}
    for entry, kind in _BY_ENTRY.items():
        if entry.lower() in by_lower:
            return kind
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    holds = f" with {shown}" if names else " with nothing in it"
    return Kind(f"a zip archive{holds}", None, "unpack it and name one file of it")


def _of_compound(content: bytes) -> Kind:
    if _ENCRYPTED in content:
        return Kind("a workbook with a password", None, "open it, save it without the password, and name that file")
    if _OLD_WORD in content:
        return Kind("an old Word document (.doc)", None, _COPY_TEXT)
    if any(name in content for name in _OLD_BOOKS):
        return Kind("an old workbook (.xls)", "xls", "give it the ending .xls")
    return Kind("a compound file, but no workbook", None, _SAVE_AS_XLSX)
