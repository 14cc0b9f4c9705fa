"""Folders of data sets: as the datasets library saves them and as the hub lays them out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.config import DataConfig, RunConfig, load_config
from tunesmith.data import prepare, prepare_rows, read
from tunesmith.data.read import check_path
from tunesmith.errors import DataError

FEATURES = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["ham", "spam"], "_type": "ClassLabel"}}


def table_of(*rows: tuple[str, int]) -> pa.Table:
    table = pa.table({"text": [text for text, _ in rows], "label": pa.array([label for _, label in rows], pa.int64())})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})


def save(folder: Path, *parts: pa.Table, indices: bool = False) -> None:
    """What datasets.Dataset.save_to_disk writes, as far as it is read."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{len(parts):05d}.arrow" for number in range(len(parts))]
    for name, table in zip(names, parts, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names]}
    if indices:
        state["_indices_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))


def texts(folder: Path, side: str = "data") -> list[str]:
    return [str(record.cells["text"]) for record in read(DataConfig(), folder, side=side).records]


def test_a_saved_data_set_with_its_parts_in_order_and_labels_as_names(tmp_path: Path) -> None:
    save(tmp_path / "set", table_of(("a", 0), ("b", 1)), table_of(("c", 1)))
    table = read(DataConfig(), tmp_path / "set")
    assert [dict(record.cells) for record in table.records] == [
        {"text": "a", "label": "ham"},
        {"text": "b", "label": "spam"},
        {"text": "c", "label": "spam"},
    ]
    assert [record.row for record in table.records] == [1, 2, 3]
    assert len(table.sha256) == 64


def test_labels_of_a_single_parquet_file_are_names_too(tmp_path: Path) -> None:
    pq.write_table(table_of(("a", 1), ("b", 7)), tmp_path / "x.parquet")
    first, second = read(DataConfig(), tmp_path / "x.parquet").records
    assert (first.cells["label"], second.cells["label"]) == ("spam", "7")  # 7 is no label; it stays what it is


@pytest.mark.parametrize("is_arrow", [True, False])
def test_the_split_goes_by_what_the_rows_are_for(tmp_path: Path, is_arrow: bool) -> None:
    for name in ("train", "validation", "test"):
        if is_arrow:
            save(tmp_path / "set" / name, table_of((name, 0)))
        else:
            (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
            pq.write_table(table_of((name, 0)), tmp_path / "set" / "data" / f"{name}-00000-of-00001.parquet")
    folder = tmp_path / "set"
    assert [texts(folder, side) for side in ("data", "validation", "test")] == [["train"], ["validation"], ["test"]]
    if is_arrow:
        assert texts(folder / "test") == ["test"]
    else:
        (folder / "data" / "test-00000-of-00001.parquet").unlink()
        assert texts(folder, "test") == ["validation"]  # the next best of what training has not seen


def test_a_folder_of_numbered_parquet_files_is_one_split_in_order(tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    for number in (1, 0):
        pq.write_table(table_of((f"part {number}", 0)), tmp_path / "set" / "train" / f"{number:04d}.parquet")
    assert texts(tmp_path / "set") == ["part 0", "part 1"]


@pytest.mark.parametrize("file", ["train-00000-of-00001.parquet", "train/0000.parquet"])
def test_data_sets_beside_each_other_are_not_mixed(file: str, tmp_path: Path) -> None:
    for name in ("main", "socratic"):
        (tmp_path / name / file).parent.mkdir(parents=True)
        pq.write_table(table_of((name, 0)), tmp_path / name / file)
    for use in (texts, check_path):
        with pytest.raises(DataError, match="several data sets, each with train: main, socratic") as caught:
            use(tmp_path)
        assert str(tmp_path / "socratic") in str(caught.value.fix)
    assert texts(tmp_path / "main") == ["main"]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a folder, not a file"):
        check_path(tmp_path / "empty")
    for name in ("left", "right"):
        save(tmp_path / "set" / name, table_of((name, 0)))
    with pytest.raises(DataError, match="none is named train or training: left, right"):
        texts(tmp_path / "set")
    save(tmp_path / "old", table_of(("a", 0)), indices=True)
    with pytest.raises(DataError, match="selection of its rows"):
        texts(tmp_path / "old")
    save(tmp_path / "damaged", table_of(("a", 0)))
    part = tmp_path / "damaged" / "data-00000-of-00001.arrow"
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be read"):
        texts(tmp_path / "damaged")
    (tmp_path / "damaged" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json is damaged"):
        texts(tmp_path / "damaged")


def test_it_is_what_the_datasets_library_saves(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    whole = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select([2, 0])}).save_to_disk(tmp_path / "set")
    assert texts(tmp_path / "set", "test") == ["c", "a"]
    records = read(DataConfig(), tmp_path / "set").records
    assert [record.cells["label"] for record in records] == ["no", "yes", "yes"]
    whole.to_parquet(tmp_path / "x.parquet")
    assert [record.cells["label"] for record in read(DataConfig(), tmp_path / "x.parquet").records][1] == "yes"


def test_rows_to_measure_on_are_read_like_the_training_file(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("Frage,Antwort,Quelle\nWer?,Ich.,x\nWer?,Ich.,y\nWo?,,z\nWas?,Das.,x\n")
    config = load_config(overrides={"prompt.system": "Kurz.", "data.path": "gone.csv"})
    found = prepare_rows(config, str(path), shape="qa", columns={"question": "Frage", "answer": "Antwort"})
    assert [(row.question, row.answer) for row in found.test] == [("Wer?", "Ich."), ("Was?", "Das.")]
    assert all(row.messages[0].content == "Kurz." for row in found.test)
    assert (found.train, found.validation) == ([], [])
    assert {reason: len(rows) for reason, rows in found.report.dropped.items()} == {
        "exact duplicate": 1,
        "empty answer": 1,
    }
    other = prepare_rows(config, str(path), shape="auto", columns={"question": "Q", "answer": "A"})
    assert [row.question for row in other.test] == ["Wer?", "Was?"]  # other names than in training: detected
    path.write_text("Frage,Antwort\nWo?,\n")
    with pytest.raises(DataError, match="no row to use for test"):
        prepare_rows(config, str(path), shape="qa", columns={"question": "Frage", "answer": "Antwort"})


def test_columns_that_are_given_for_rows_to_measure_on_have_to_be_there(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("Frage,Andere Frage,Antwort\nWer?,Wer da?,Ich.\n")
    trained = {"question": "Question", "answer": "Answer"}
    found = prepare_rows(RunConfig(), str(path), shape="qa", columns=trained, given={"columns": {"question": "Frage"}})
    assert [(row.question, row.answer) for row in found.test] == [("Wer?", "Ich.")]
    with pytest.raises(DataError, match=r"no column 'Fraeg' .*did you mean 'Frage'") as refused:
        prepare_rows(RunConfig(), str(path), shape="qa", columns=trained, given={"columns": {"question": "Fraeg"}})
    assert refused.value.cause == "its columns are 'Frage', 'Andere Frage', 'Antwort'"


def test_training_reads_a_folder(tmp_path: Path) -> None:
    rows = [
        (f"message number {number} about {['the weather', 'cheap pills'][number % 2]}", number % 2)
        for number in range(40)
    ]
    save(tmp_path / "set" / "train", table_of(*rows))
    save(tmp_path / "set" / "test", table_of(("a last one", 1)))
    overrides = {"data.path": str(tmp_path / "set"), "data.test_path": str(tmp_path / "set")}
    prepared = prepare(load_config(overrides=overrides))
    assert prepared.report.shape == "label"
    assert [(row.question, row.answer) for row in prepared.test] == [("a last one", "spam")]
    assert len(prepared.train) + len(prepared.validation) == 40
