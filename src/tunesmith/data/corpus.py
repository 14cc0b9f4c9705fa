"""Pre-training corpora: documents and question/answer pairs from text and JSON-lines files, and blocks of equal length.

Knows nothing of models. The held-out documents are chosen by a hash of their text, so they stay held out whatever the
order of the files, the seed or the recipe.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError
from tunesmith.types import Encoded, Example, Message


@dataclass(frozen=True, slots=True)
class Corpus:
    """Training documents, held-out documents and question/answer pairs, and the SHA-256 over all their files."""

    documents: list[str]
    held_out: list[str]
    pairs: list[Example]
    sha256: str


def read_corpus(documents: Sequence[str], pairs: Sequence[str], *, holdout: float) -> Corpus:
    """Read every file that the patterns name.

    Raises:
        DataError: a pattern matches nothing, a line is not JSON with the fields needed, no document is found, or
            `holdout` leaves none to train on or none to measure with.
    """
    digest = hashlib.sha256()
    texts = [text for path in _expand(documents) for text in _texts(path, digest)]
    if not texts:
        raise DataError("there is no document to train on", fix="name text or jsonl files in pretrain.documents")
    questions = [
        Example(messages=(Message("user", row["question"]), Message("assistant", row["answer"])), row=line)
        for path in _expand(pairs)
        for line, row in _json_lines(path, digest, needed=("question", "answer"))
    ]
    held_out = [text for text in texts if _is_held_out(text, holdout)]
    kept = [text for text in texts if not _is_held_out(text, holdout)]
    if not held_out or not kept:
        raise _not_divided(texts, holdout)
    return Corpus(kept, held_out, questions, digest.hexdigest())


def blocks(sequences: Iterable[NDArray[np.int64]], length: int) -> list[Encoded]:
    """Sequences laid end to end and cut every `length` tokens; every token is a target. The last may be shorter."""
    flat = np.concatenate(list(sequences))
    rows = (flat[start : start + length] for start in range(0, len(flat), length))
    return [Encoded(row, np.ones(len(row), dtype=np.bool_), index) for index, row in enumerate(rows) if len(row) > 1]


def _is_held_out(text: str, share: float) -> bool:
    return _place(text) < share * 2**64


def _place(text: str) -> int:
    """Where a document's hash falls among 2**64 places."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _not_divided(texts: Sequence[str], holdout: float) -> DataError:
    """Few documents: their hashes are all on one side of `holdout`. Names the share that divides them, if one may."""
    places = sorted(map(_place, texts))
    share = math.ceil(places[0] / 2**64 * 100 + 1e-9) / 100
    fixes = ["name more documents (a txt file is one, a line of jsonl is one)"]
    if share < 0.5 and places[-1] >= share * 2**64:
        fixes.insert(0, f"set pretrain.holdout to {share}")
    what = "all" if places[0] < holdout * 2**64 else "none"
    return DataError(
        f"pretrain.holdout {holdout} holds out {what} of {len(texts)} documents, chosen by a hash of their text",
        fix=", or ".join(fixes),
    )


def _expand(patterns: Sequence[str]) -> list[Path]:
    paths: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern))
        if not found:
            raise DataError(f"no file matches {pattern!r}", fix="check pretrain.documents and pretrain.qa")
        paths += [Path(name) for name in found]
    return paths


def _texts(path: Path, digest: hashlib._Hash) -> Iterator[str]:
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        for _, row in _json_lines(path, digest, needed=("text",)):
            yield row["text"]
        return
    content = _read(path)
    digest.update(content)
    yield content.decode("utf-8-sig")


def _json_lines(path: Path, digest: hashlib._Hash, *, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    content = _read(path)
    digest.update(content)
    for number, line in enumerate(content.decode("utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield number, {name: row[name] for name in needed}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number} is not a JSON object with {' and '.join(needed)}",
                cause=f"{type(error).__name__}: {error}",
            ) from error


def _read(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}", cause=str(error), fix="check the path") from error
