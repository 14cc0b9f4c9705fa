"""Pre-training corpora: reading, holding out, cutting into blocks."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tunesmith.data import blocks, read_corpus
from tunesmith.errors import DataError


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl.gz"
    lines = [json.dumps({"text": f"Document number {number}.", "source": "test"}) for number in range(400)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_held_out_documents_stay_the_same_whatever_the_order(shard: Path, tmp_path: Path) -> None:
    corpus = read_corpus([str(shard)], [], holdout=0.1)
    lines = gzip.decompress(shard.read_bytes()).decode().split("\n")
    turned = tmp_path / "b.jsonl"
    turned.write_text("\n".join(reversed(lines)))
    again = read_corpus([str(turned)], [], holdout=0.1)
    assert 10 < len(corpus.held_out) < 90
    assert set(corpus.held_out) == set(again.held_out)
    assert not set(corpus.held_out) & set(corpus.documents)
    assert len(corpus.held_out) + len(corpus.documents) == 400


def test_pairs_and_plain_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("One long text.\n\nStill the same document.")
    (tmp_path / "u.txt").write_text("Held out.")
    (tmp_path / "qa.jsonl").write_text('{"question": "Why?", "answer": "Because."}\n\n')
    corpus = read_corpus([str(tmp_path / "*.txt")], [str(tmp_path / "*.jsonl")], holdout=0.2)
    assert corpus.documents == ["One long text.\n\nStill the same document."]
    assert corpus.held_out == ["Held out."]
    assert (corpus.pairs[0].question, corpus.pairs[0].answer) == ("Why?", "Because.")


def test_bad_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"texts": 1}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2 is not a JSON object with text"):
        read_corpus([str(tmp_path / "bad.jsonl")], [], holdout=0.01)
    with pytest.raises(DataError, match="no file matches"):
        read_corpus([str(tmp_path / "absent-*.jsonl")], [], holdout=0.01)


@pytest.mark.parametrize("number", [1, 4])
def test_too_few_documents_to_hold_one_out_are_refused(tmp_path: Path, number: int) -> None:
    for name in range(number):
        (tmp_path / f"{name}.txt").write_text(f"Chapter {name}.")
    pattern = [str(tmp_path / "*.txt")]
    with pytest.raises(DataError, match=f"none of {number} documents") as refused:
        read_corpus(pattern, [], holdout=0.01)
    assert "name more documents" in (refused.value.fix or "")
    share = re.search(r"set pretrain.holdout to ([\d.]+), or", refused.value.fix or "")
    assert (share is None) == (number == 1)
    if share:
        assert len(read_corpus(pattern, [], holdout=float(share[1])).held_out) == 1


def test_a_share_that_holds_out_every_document_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Held out.")
    with pytest.raises(DataError, match="all of 1 documents"):
        read_corpus([str(tmp_path / "t.txt")], [], holdout=0.2)


def test_blocks_are_full_but_the_last_and_lose_no_token() -> None:
    sequences = [np.arange(5), np.arange(100, 118), np.arange(3)]
    cut = blocks(sequences, 8)
    assert [len(row) for row in cut] == [8, 8, 8, 2]
    assert np.concatenate([row.input_ids for row in cut]).tolist() == np.concatenate(sequences).tolist()
    assert all(row.supervised.all() for row in cut)


def test_a_single_token_left_over_predicts_nothing_and_is_dropped() -> None:
    assert [len(row) for row in blocks([np.arange(9)], 8)] == [8]
