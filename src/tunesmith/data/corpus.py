"""Pre-training corpora: documents from text and JSON-lines files, question/answer pairs, and blocks of equal length.

Knows nothing of models. The held-out documents are chosen by a hash of their text, so they stay held out whatever the
order of the files, the seed or the recipe.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunesmith.config import RunConfig, SplitConfig
from tunesmith.data.prepare import Prepared, prepare_file
from tunesmith.data.readers.source import unpack
from tunesmith.data.report import DataReport
from tunesmith.errors import DataError
from tunesmith.types import Encoded, Example, Finding

# Where a document is cut, best first: between paragraphs, lines, words
_BOUNDARIES = (re.compile(r"\n[^\S\n]*\n\s*"), re.compile(r"\n\s*"), re.compile(r"\s+"))
_MOST_OVER = 2  # times the share that is to be held out, from which on a longer end is not taken


@dataclass(frozen=True, slots=True)
class Corpus:
    """Training documents, held-out documents and question/answer pairs, and the SHA-256 over all their files.

    `reports` say what was done with each file of pairs, `findings` what is worth knowing of the documents.
    """

    documents: list[str]
    held_out: list[str]
    pairs: list[Example]
    sha256: str
    reports: tuple[DataReport, ...] = ()
    findings: tuple[Finding, ...] = ()


def read_corpus(config: RunConfig) -> Corpus:
    """Read every file that the patterns of `config.pretrain` name; of one document alone, the end is held out.

    Raises:
        DataError: a pattern matches nothing or a folder, a file is damaged, a line is not JSON with a text, a file of
            pairs has none, or there is no document to train on or none to measure on.
    """
    holdout = config.pretrain.holdout
    digest = hashlib.sha256()
    texts = [text for path in _expand(config.pretrain.documents, "*.txt") for text in _texts(path, digest)]
    if not texts:
        raise DataError("there is no document to train on", fix="name text or jsonl files in pretrain.documents")
    pairs = [_pairs(path, config, digest) for path in _expand(config.pretrain.qa, "*.jsonl")]
    findings: tuple[Finding, ...] = ()
    written = [text for text in texts if text.strip()]
    cut = _end_to_hold_out(written[0], holdout) if len(written) == 1 else None
    if cut is None:
        held_out = [text for text in texts if _place(text) < holdout]
        kept = [text for text in texts if _place(text) >= holdout]
    else:
        kept, held_out = [written[0][:cut]], [written[0][cut:]]
        findings = (_cut_finding(written[0], cut),)
    if not any(kept) or not any(held_out):
        raise _one_sided(sorted(_place(text) for text in set(texts) if text), holdout)
    return Corpus(
        kept,
        held_out,
        [pair for prepared in pairs for pair in prepared.train],
        digest.hexdigest(),
        tuple(prepared.report for prepared in pairs),
        findings,
    )


def _pairs(path: Path, config: RunConfig, digest: hashlib._Hash) -> Prepared:
    """All rows of a file, read as those that are fine-tuned on; a pair that stands there twice is learnt twice."""
    digest.update(_read(path))
    own: dict[str, object] = {
        "path": str(path),
        "sets": [],
        "validation_path": None,
        "test_path": None,
        "max_rows": None,
        "drop_duplicates": False,
        "split": SplitConfig(train=1, validation=0, test=0),
    }
    prepared = prepare_file(config.model_copy(update={"data": config.data.model_copy(update=own)}))
    if prepared.report.shape == "text":
        raise DataError(
            f"{path} has no questions with answers: {prepared.report.reason}",
            fix="if two of its columns are, name them: --data.columns.question NAME --data.columns.answer NAME; "
            "texts belong into pretrain.documents",
        )
    return prepared


def _end_to_hold_out(text: str, holdout: float) -> int | None:
    """Where the last `holdout` of a text begins, at the paragraph, line or word before; None where none is near."""
    for boundary in _BOUNDARIES:
        starts = [match.end() for match in boundary.finditer(text.rstrip())]
        fitting = [start for start in starts if start <= (1 - holdout) * len(text) and text[:start].strip()]
        if fitting and len(text) - fitting[-1] <= _MOST_OVER * holdout * len(text):
            return fitting[-1]
    return None


def _cut_finding(text: str, cut: int) -> Finding:
    return Finding(
        "note",
        "end_held_out",
        f"there is one document: its last {len(text) - cut} of {len(text)} characters are held out to measure on and "
        "not trained on",
        fix="with a file for each chapter, whole chapters are held out",
    )


def absolute_pattern(pattern: str) -> str:
    """A file's name or a pattern as it reads from any folder. One that matches nothing stays as it is, to be told."""
    if Path(pattern).is_file():
        return str(Path(pattern).absolute())
    if Path(pattern).is_absolute() or not glob.glob(pattern):
        return pattern
    return str(Path(glob.escape(str(Path.cwd())), pattern))


def blocks(sequences: Iterable[NDArray[np.int64]], length: int) -> list[Encoded]:
    """Sequences laid end to end and cut every `length` tokens; every token is a target. The last may be shorter."""
    flat = np.concatenate(list(sequences))
    rows = (flat[start : start + length] for start in range(0, len(flat), length))
    return [Encoded(row, np.ones(len(row), dtype=np.bool_), index) for index, row in enumerate(rows) if len(row) > 1]


def _place(text: str) -> float:
    """Where between 0 and 1 the hash of a document puts it: below the share to hold out it is held out."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def _one_sided(places: Sequence[float], holdout: float) -> DataError:
    """places: of the different documents that are not empty, ascending."""
    missing, needed = "held out to measure on", math.ceil(places[0] * 1000 + 1) / 1000 if places else 1.0
    choose = f"set pretrain.holdout to {needed:g}, or " if len(places) > 1 and needed < 0.5 else ""
    if places and places[-1] < holdout:
        missing, choose = "left to train on", "lower pretrain.holdout, or "
    return DataError(
        f"no document is {missing}: there are {len(places)}, and pretrain.holdout is {holdout:g}",
        cause="a text file is one document, and so is a line of jsonl",
        fix=f"{choose}give more documents, such as a file for each chapter of a book",
    )


def _expand(patterns: Sequence[str], usual: str) -> list[Path]:
    """The files that names and patterns stand for. usual: what those of a folder are called."""
    paths: list[Path] = []
    for pattern in patterns:
        # a file is taken by its name first: [1] may be part of it
        found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
        if not found:
            raise DataError(f"no file matches {pattern!r}", fix="check pretrain.documents and pretrain.qa")
        paths += [Path(name) for name in found]
    folder = next((path for path in paths if path.is_dir()), None)
    if folder is not None:
        raise DataError(f"{folder} is a folder, not a file", fix=f"name the files in it, such as {folder / usual}")
    return paths


def _texts(path: Path, digest: hashlib._Hash) -> Iterator[str]:
    if path.name.lower().removesuffix(".gz").endswith(".jsonl"):
        yield from _json_lines(path, digest)
        return
    content = _read(path)
    digest.update(content)
    yield _decoded(path, content)


def _json_lines(path: Path, digest: hashlib._Hash) -> Iterator[str]:
    content = _read(path)
    digest.update(content)
    for number, line in enumerate(_decoded(path, content).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            if not isinstance(text, str):
                raise TypeError(f"text is no text but {json.dumps(text)[:40]}")
            text.encode()  # JSON can hold halves of surrogate pairs, which are no text
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}:{number} is not a JSON object with text",
                cause=f"{type(error).__name__}: {error}",
                fix="correct that line, or leave it out",
            ) from error
        yield text


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}", cause=str(error), fix="check the path and its permissions") from error
    return unpack(path, content) if path.suffix.lower() == ".gz" else content


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8",
            cause=f"byte {error.start} is 0x{content[error.start]:02x}",
            fix="save it as UTF-8, or leave it out",
        ) from error
