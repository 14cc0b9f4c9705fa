"""Pre-training corpora: reading, holding out, cutting into blocks."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from tunesmith.config import RunConfig
from tunesmith.data import Corpus, absolute_pattern, blocks, read_corpus
from tunesmith.errors import DataError


def corpus_of(documents: list[str], pairs: list[str], *, holdout: float, **data: object) -> Corpus:
    pretrain = {"documents": documents, "qa": pairs, "holdout": holdout}
    return read_corpus(RunConfig.model_validate({"pretrain": pretrain, "data": data}))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl.gz"
    lines = [json.dumps({"text": f"Document number {number}.", "source": "test"}) for number in range(400)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_held_out_documents_stay_the_same_whatever_the_order(shard: Path, tmp_path: Path) -> None:
    corpus = corpus_of([str(shard)], [], holdout=0.1)
    lines = gzip.decompress(shard.read_bytes()).decode().split("\n")
    turned = tmp_path / "b.jsonl"
    turned.write_text("\n".join(reversed(lines)))
    again = corpus_of([str(turned)], [], holdout=0.1)
    shouted = tmp_path / "B.JSONL.GZ"
    shouted.write_bytes(shard.read_bytes())
    assert corpus_of([str(shouted)], [], holdout=0.1) == corpus
    assert 10 < len(corpus.held_out) < 90
    assert set(corpus.held_out) == set(again.held_out)
    assert not set(corpus.held_out) & set(corpus.documents)
    assert len(corpus.held_out) + len(corpus.documents) == 400


def test_pairs_and_plain_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("One long text.\n\nStill the same document.")
    (tmp_path / "qa.jsonl").write_text('{"question": "Why?", "answer": "Because."}\n\n')
    (tmp_path / "u.txt").write_text("Held out.")
    corpus = corpus_of([str(tmp_path / "*.txt")], [str(tmp_path / "*.jsonl")], holdout=0.2)
    assert corpus.documents == ["One long text.\n\nStill the same document."]
    assert corpus.held_out == ["Held out."]
    assert (corpus.pairs[0].question, corpus.pairs[0].answer) == ("Why?", "Because.")


def test_names_and_patterns_read_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "my [texts]"
    (place / "more").mkdir(parents=True)
    for number in range(12):
        (place / "more" / f"{number}.txt").write_text(f"Document {number}.")
    (place / "draft [1].txt").write_text("A draft.")
    monkeypatch.chdir(place)
    written = ["draft [1].txt", "more/*.txt", "./more/1*.txt"]
    here = corpus_of(written, [], holdout=0.3)
    assert "A draft." in here.documents + here.held_out
    absolute = [absolute_pattern(pattern) for pattern in written]
    assert absolute_pattern("absent-*.txt") == "absent-*.txt"
    monkeypatch.chdir(tmp_path)
    assert corpus_of(absolute, [], holdout=0.3) == here
    assert [absolute_pattern(pattern) for pattern in absolute] == absolute


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"text": f"document {number}"}) for number in range(50))
    for name in ("plain.jsonl", "marked.jsonl"):
        (tmp_path / name).write_text(lines, encoding="utf-8-sig" if name == "marked.jsonl" else "utf-8")
    plain, marked = (corpus_of([str(tmp_path / f"{name}.jsonl")], [], holdout=0.3) for name in ("plain", "marked"))
    assert (marked.documents, marked.held_out) == (plain.documents, plain.held_out)


def test_bad_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"texts": 1}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2 is not a JSON object with text"):
        corpus_of([str(tmp_path / "bad.jsonl")], [], holdout=0.01)
    with pytest.raises(DataError, match="no file matches"):
        corpus_of([str(tmp_path / "absent-*.jsonl")], [], holdout=0.01)


@pytest.mark.parametrize("pattern", ["books", "book?"])
def test_a_folder_is_answered_with_the_names_of_its_files(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("A book.")
    with pytest.raises(DataError, match="books is a folder, not a file") as caught:
        corpus_of([str(tmp_path / pattern)], [], holdout=0.3)
    assert caught.value.fix == f"name the files in it, such as {tmp_path}/books/*.txt"
    with pytest.raises(DataError, match="is a folder") as caught:
        corpus_of([str(tmp_path / "books" / "*.txt")], [str(tmp_path / pattern)], holdout=0.3)
    assert str(caught.value.fix).endswith("/books/*.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "cut.jsonl.gz",
            gzip.compress(b'{"text": "fine"}\n' * 50, mtime=0)[:-9],
            "cut.jsonl.gz is not a whole gzip file",
        ),
        (
            "flipped.txt.gz",
            gzip.compress(b"fine " * 90, mtime=0)[:12] + b"\xff" * 20,
            "flipped.txt.gz is not a whole gzip file",
        ),
        ("latin.txt", "caf\xe9".encode("latin-1"), "latin.txt is not text in UTF-8"),
        ("latin.jsonl", '{"text": "caf\xe9"}'.encode("latin-1"), "latin.jsonl is not text in UTF-8"),
        ("null.jsonl", b'{"text": null}', "null.jsonl:1 is not a JSON object with text"),
        ("long.jsonl", b'{"text": "a", "id": ' + b"1" * 5000 + b"}", "long.jsonl:1 is not a JSON object with text"),
        ("deep.jsonl", b'{"text": "fine"}\n' + b"[" * 100_000, "deep.jsonl:2 is not a JSON object with text"),
        ("half.jsonl", b'{"text": "fine"}\n{"text": "\\ud800"}', "half.jsonl:2 is not a JSON object with text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem) as refused:
        corpus_of([str(tmp_path / name)], [], holdout=0.01)
    assert refused.value.cause
    assert refused.value.fix


def test_nothing_to_measure_on_or_to_train_on_is_refused(shard: Path, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    for text, holdout, problem, fix in [
        ("A whole book.", 0.01, "no document is held out to measure on: there are 1,", "give more documents"),
        ("", 0.4, "no document is held out to measure on: there are 0,", "give more documents"),
        ("A whole book.", 0.4, "no document is left to train on: there are 1,", "lower pretrain.holdout, or give more"),
    ]:
        book.write_text(text)
        with pytest.raises(DataError, match=problem) as refused:
            corpus_of([str(book)], [], holdout=holdout)
        assert str(refused.value.fix).startswith(fix)
    with pytest.raises(DataError, match="no document is held out to measure on: there are 400,") as refused:
        corpus_of([str(shard)], [], holdout=1e-9)
    wanted = re.search(r"set pretrain.holdout to ([\d.]+), or ", str(refused.value.fix))
    assert wanted is not None
    assert corpus_of([str(shard)], [], holdout=float(wanted[1])).held_out


def test_blocks_are_full_but_the_last_and_lose_no_token() -> None:
    sequences = [np.arange(5), np.arange(100, 118), np.arange(3)]
    cut = blocks(sequences, 8)
    assert [len(row) for row in cut] == [8, 8, 8, 2]
    assert np.concatenate([row.input_ids for row in cut]).tolist() == np.concatenate(sequences).tolist()
    assert all(row.supervised.all() for row in cut)


def test_a_single_token_left_over_predicts_nothing_and_is_dropped() -> None:
    assert [len(row) for row in blocks([np.arange(9)], 8)] == [8]


def test_pairs_are_read_as_rows_to_train_on(shard: Path, tmp_path: Path) -> None:
    """Whatever the file is; those that stand there twice are learnt twice."""
    book = openpyxl.Workbook()
    for row in (
        ["FAQ"],
        ["Nr", "Frage", "Antwort"],
        [1, "Why?", "Because."],
        [2, "Who?", "We."],
        [3, "Why?", "Because."],
    ):
        book.active.append(row)
    book.save(tmp_path / "faq.xlsx")
    (tmp_path / "faq.csv").write_text("question;answer\nWhen?;Now.\nWhere?;\n")
    corpus = corpus_of([str(shard)], [str(tmp_path / "faq.*")], holdout=0.1)
    said = [(pair.question, pair.answer) for pair in corpus.pairs]
    assert said == [("When?", "Now."), ("Why?", "Because."), ("Who?", "We."), ("Why?", "Because.")]
    assert [report.rows_kept for report in corpus.reports] == [1, 3]
    assert corpus.reports[0].dropped == {"empty answer": (3,)}
    (tmp_path / "faq.csv").write_text("question;answer\nWhen?;Then.\n")
    assert corpus_of([str(shard)], [str(tmp_path / "faq.*")], holdout=0.1).sha256 != corpus.sha256


def test_columns_of_pairs_can_be_named(shard: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("one,two\nA lever of steel.,Pull it.\nA wheel of wood.,Turn it.\n")
    columns = {"question": "two", "answer": "one"}
    corpus = corpus_of([str(shard)], [str(tmp_path / "notes.csv")], holdout=0.1, columns=columns)
    assert [pair.answer for pair in corpus.pairs] == ["A lever of steel.", "A wheel of wood."]


def test_texts_are_no_pairs(shard: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("A text.")
    with pytest.raises(DataError, match=r"t\.txt has no questions with answers") as refused:
        corpus_of([str(shard)], [str(tmp_path / "t.txt")], holdout=0.1)
    assert "pretrain.documents" in str(refused.value.fix)


@pytest.mark.parametrize(
    ("between", "first"),
    [("\n\n", "Paragraph 98 "), ("\r\n \r\n", "Paragraph 98 "), ("\n", "Paragraph 98 "), (" ", "")],
)
def test_the_end_of_a_single_document_is_held_out(between: str, first: str, tmp_path: Path) -> None:
    """At the end of a paragraph, of a line, or of a word, whichever comes first."""
    text = between.join(f"Paragraph {number} has twelve words and is followed by another one." for number in range(100))
    (tmp_path / "book.txt").write_bytes(text.encode())
    corpus = corpus_of([str(tmp_path / "book.txt")], [], holdout=0.01)
    (kept,), (held_out,) = corpus.documents, corpus.held_out
    assert kept + held_out == text
    assert 0.01 * len(text) <= len(held_out) <= 0.02 * len(text)
    assert kept[-1].isspace()
    assert held_out.startswith(first)
    (finding,) = corpus.findings
    assert f"its last {len(held_out)} of {len(text)} characters are held out" in finding.message
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(f"Document {number}.")
    assert not corpus_of([str(tmp_path / "*.txt")], [], holdout=0.49).findings
