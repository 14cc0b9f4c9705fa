"""Find the file, read its bytes, decode its text. Every way in which this can fail is one DataError.

Knows nothing of what is in the file.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import hashlib
import io
import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.data.readers.kinds import recognise
from tunesmith.data.readers.western import odd_word, other_readings, sample_words
from tunesmith.errors import DataError
from tunesmith.types import Finding

_MAX_UNPACKED_BYTES = 2**31  # of a .gz file: far above any table that fits a laptop's memory
_PIECE_BYTES = 2**20
# name of a file, without its ending, that holds one side of divided data
_SIDE = re.compile(
    r"(?:.*[-_ ])?(?:(?P<train>train|training)|(?P<validation>validation|valid|val|dev)|(?P<test>test|eval))",
    re.IGNORECASE,
)
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is the beginning of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file's bytes (unpacked if it ends in .gz) and how the user wants them read. `sha256` is that of the file."""

    path: Path
    content: bytes = field(repr=False)
    sha256: str = ""
    sheet: str | None = None
    delimiter: str | None = None
    encoding: str | None = None


def check_file(path: Path) -> None:
    """Tell a wrong path without reading anything.

    Raises:
        DataError: there is nothing at `path`, or a folder.
    """
    if path.is_dir():
        raise DataError(
            f"{path} is a folder, not a file", fix=_sides_in(path) or f"name one file in it{_listing(path)}"
        )
    if not path.exists():
        raise DataError(f"there is no file {path}", fix=_nearest_file(path))


def open_source(
    path: Path, *, sheet: str | None = None, delimiter: str | None = None, encoding: str | None = None
) -> Source:
    """Read the file whole.

    Raises:
        DataError: it is missing, a folder, not readable, empty, or a damaged or far too large .gz.
    """
    check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {path}", cause=error.strerror or str(error), fix="check its permissions"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if path.suffix.lower() == ".gz" and content:
        content = unpack(path, content, most_bytes=_MAX_UNPACKED_BYTES)
    if not content.strip(b" \t\r\n\xef\xbb\xbf"):
        raise DataError(f"{path} is empty", cause=f"{len(content)} bytes, no text", fix="name a file with rows in it")
    return Source(path, content, digest, sheet, delimiter, encoding)


def decode(source: Source) -> tuple[str, str, tuple[Finding, ...]]:
    """Text, name of the encoding, findings. A byte order mark decides, then UTF-8, then cp1252 (Western Windows).

    Raises:
        DataError: the bytes are no text, or none but white space, or not in the encoding asked for; the message names
            the line.
    """
    text, encoding, findings = _decoded(source)
    if not text.strip():
        raise DataError(f"{source.path} is empty", cause="it holds white space only", fix="name a file with rows in it")
    return text, encoding, findings


def _decoded(source: Source) -> tuple[str, str, tuple[Finding, ...]]:
    kind = recognise(source.path, source.content)
    if kind is not None:
        raise DataError(f"{source.path} is not text: it is {kind.name}", fix=kind.fix)
    if source.encoding is not None:
        return _decode_as(source, source.encoding), source.encoding, ()
    encoding = next((name for mark, name in _BOMS.items() if source.content.startswith(mark)), None)
    encoding = encoding or _utf16_without_mark(source)
    if encoding is not None:
        return _decode_as(source, encoding), encoding, ()
    try:
        return source.content.decode("utf-8"), "utf-8", ()
    except UnicodeDecodeError as error:
        return _decode_western(source, error)


def _decode_as(source: Source, encoding: str) -> str:
    try:
        return source.content.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise DataError(
            f"there is no text encoding {encoding!r}", fix="set data.encoding to a name such as utf-8, cp1252 or utf-16"
        ) from error
    except UnicodeError as error:
        raise DataError(
            f"{source.path} is not {encoding} text", cause=_place_of(source.content, error), fix="change data.encoding"
        ) from error


def _decode_western(source: Source, error: UnicodeDecodeError) -> tuple[str, str, tuple[Finding, ...]]:
    """cp1252, unless most of what is not ASCII is good UTF-8: then the file is damaged and guessing would spoil it."""
    escaped = source.content.decode("utf-8", errors="surrogateescape")
    damaged = sum("\udc80" <= char <= "\udcff" for char in escaped)
    if sum(not char.isascii() for char in escaped) - damaged > damaged:
        raise DataError(
            f"{source.path} is UTF-8 text with damaged bytes: {damaged}",
            cause=_place_of(source.content, error),
            fix="repair that line, or save the file as UTF-8 again",
        )
    try:
        text = source.content.decode("cp1252")
    except UnicodeDecodeError as western_error:
        message = f"{source.path} is neither UTF-8 nor cp1252 text"
        raise _other_encoding(source, message, _place_of(source.content, western_error)) from western_error
    odd = odd_word(text)
    if odd is not None:
        message = f"{source.path} is not UTF-8, and not cp1252 (Western Windows) either"
        raise _other_encoding(source, message, f"it would read {odd!r}")
    words = ", ".join(f'"{word}"' for word in sample_words(text))
    finding = Finding(
        "note",
        "encoding",
        f"{source.path.name} is not UTF-8 and was read as cp1252 (Western Windows), with words such as {words}",
        fix="if they look wrong, set data.encoding",
    )
    return text, "cp1252", (finding,)


def _other_encoding(source: Source, message: str, cause: str) -> DataError:
    readings = other_readings(source.content)
    if not readings:
        fix = "name its encoding, such as --data.encoding latin-1, cp1251 or shift_jis, or save it as UTF-8"
        return DataError(message, cause=cause, fix=fix)
    shown = "; ".join(f"{encoding}: {words}" for encoding, words in readings)
    return DataError(
        message,
        cause=f"{cause}. In other encodings: {shown}",
        fix="set --data.encoding to the one that reads right, or save the file as UTF-8",
    )


def _utf16_without_mark(source: Source) -> str | None:
    """Latin text in UTF-16 has a zero in every other byte. Other zeros mean that this is no text.

    Raises:
        DataError: there are zero bytes elsewhere.
    """
    head = source.content[:4096]
    if b"\0" not in head:
        return None
    pairs = max(1, len(head) // 2)
    if head[1::2].count(0) > pairs // 3 and not head[0::2].count(0):
        return "utf-16-le"
    if head[0::2].count(0) > pairs // 3 and not head[1::2].count(0):
        return "utf-16-be"
    line = head.count(b"\n", 0, head.index(0)) + 1
    raise DataError(
        f"{source.path} is not text: it holds zero bytes",
        cause=f"the first is in line {line}",
        fix="name a text file; if it is one, take them out, or name its encoding, such as --data.encoding utf-8",
    )


def _place_of(content: bytes, error: UnicodeError) -> str:
    if not isinstance(error, UnicodeDecodeError):
        return str(error)
    line = content.count(b"\n", 0, error.start) + 1
    return f"byte 0x{content[error.start]:02x} in line {line}: {error.reason}"


def unpack(path: Path, content: bytes, *, most_bytes: int | None = None) -> bytes:
    """What a .gz file holds, of several laid end to end what all of them do.

    Raises:
        DataError: it is damaged, or holds `most_bytes` or more.
    """
    parts: list[bytes] = []
    room = most_bytes or sys.maxsize
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:  # in one pass, however many there are
            while room > 0 and (part := file.read(_PIECE_BYTES)):
                parts.append(part)
                room -= len(part)
    except EOFError as error:
        fix = "pack or copy it again"
        raise DataError(f"{path} is not a whole gzip file", cause="it ends too early", fix=fix) from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file", cause=str(error), fix="pack or copy it again") from error
    if room <= 0:
        raise DataError(f"{path} unpacks to more than {(most_bytes or 0) >> 30} GiB", fix="split it")
    return b"".join(parts)


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"check the path: there is no folder {folder} either"
    names = sorted(item.name for item in folder.iterdir() if item.is_file())
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(path.name.lower(), list(by_lower), n=1, cutoff=0.5)
    if close:
        return f"did you mean {folder / by_lower[close[0]]}?"
    same_stem = [name for name in names if name.partition(".")[0].lower() == path.stem.lower()]
    return f"did you mean {folder / same_stem[0]}?" if same_stem else f"check the path{_listing(folder)}"


def _sides_in(folder: Path) -> str | None:
    """How to name the files of a folder that is divided already, such as train.csv and test.csv."""
    found: dict[str, Path] = {}
    for item in sorted(folder.iterdir()):
        match = _SIDE.fullmatch(item.name.partition(".")[0]) if item.is_file() else None
        if match is not None and match.lastgroup is not None:
            found.setdefault(match.lastgroup, item)
    flags = [f"--data.{side}_path {found[side]}" for side in ("validation", "test") if side in found]
    return f"name the files in it: {' '.join([str(found['train']), *flags])}" if flags and "train" in found else None


def _listing(folder: Path, limit: int = 8) -> str:
    names = sorted(item.name for item in folder.iterdir() if item.is_file() and not item.name.startswith("."))
    if not names:
        return ": the folder holds no file"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f": the folder holds {', '.join(names[:limit])}{more}"
