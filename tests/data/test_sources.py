"""Finding, opening and decoding files: every failure is one DataError with a way out."""

from __future__ import annotations

import gzip
import io
import random
import re
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.config import DataConfig
from tunesmith.data import READERS, read
from tunesmith.data.readers.source import unpack
from tunesmith.data.readers.western import odd_word
from tunesmith.errors import DataError, SettingsError

CSV = "question,answer\nWhat is a press?,A machine.\nWho prints?,We do.\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def failure(path: Path, **settings: object) -> DataError:
    with pytest.raises(DataError) as caught:
        read(DataConfig.model_validate(settings), path)
    assert caught.value.exit_code == 3
    return caught.value


def test_no_path_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="no data file"):
        read(DataConfig())


def test_path_of_the_settings_is_used(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", CSV)
    assert read(DataConfig(path=str(path))).path == str(path)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "Customers.csv", CSV)
    write(tmp_path, "other.bin", b"x")
    error = failure(tmp_path / "custmers.csv")
    assert "there is no file" in error.message
    assert error.fix == f"did you mean {tmp_path / 'Customers.csv'}?"


def test_missing_file_with_another_ending(tmp_path: Path) -> None:
    write(tmp_path, "faq.parquet", b"x")
    assert "faq.parquet" in str(failure(tmp_path / "faq.csv").fix)


def test_missing_file_and_nothing_near_lists_the_folder(tmp_path: Path) -> None:
    write(tmp_path, "zebra.csv", CSV)
    assert "the folder holds zebra.csv" in str(failure(tmp_path / "q.json").fix)


def test_missing_folder(tmp_path: Path) -> None:
    assert f"no folder {tmp_path / 'no'}" in str(failure(tmp_path / "no" / "a.csv").fix)


def test_folder_instead_of_file(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", CSV)
    error = failure(tmp_path)
    assert "is a folder" in error.message
    assert "a.csv" in str(error.fix)


def test_a_folder_of_divided_data_is_told_how_to_be_named(tmp_path: Path) -> None:
    for name in ("faq-train.csv", "faq-test.csv", "README.md"):
        write(tmp_path, name, CSV)
    fix = failure(tmp_path).fix
    assert fix == f"name the files in it: {tmp_path}/faq-train.csv --data.test_path {tmp_path}/faq-test.csv"


def test_zero_bytes_are_told_with_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", CSV.replace("We", "W\0"))
    assert failure(path).cause == "the first is in line 3"
    assert read(DataConfig(encoding="utf-8"), path).rows_read == 2


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["csv", "xlsx", "json", "txt", "parquet"])
def test_empty_file(tmp_path: Path, content: bytes, ending: str) -> None:
    assert "is empty" in failure(write(tmp_path, f"a.{ending}", content)).message


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a.cvs", "did you mean '.csv'?"), ("a.xls", "may be text"), ("a.xlsx", "may be text"), ("a", "missing")],
)
def test_unknown_ending(tmp_path: Path, name: str, hint: str) -> None:
    error = failure(write(tmp_path, name, CSV))
    assert hint in str(error)
    assert "data.format" in str(error.fix)


def test_format_setting_overrules_the_ending(tmp_path: Path) -> None:
    assert read(DataConfig(format="csv"), write(tmp_path, "a.data", CSV)).rows_read == 2


def test_every_format_of_the_settings_has_a_reader() -> None:
    formats = set(DataConfig.model_fields["format"].annotation.__args__)  # type: ignore[union-attr]
    assert formats - {"auto"} == set(READERS)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.txt.gz"])
def test_gzip(tmp_path: Path, name: str) -> None:
    content = {"csv": CSV, "jsonl": '{"text": "a"}\n{"text": "b"}\n', "txt": "one\n\ntwo\n"}[name.split(".")[1]]
    table = read(DataConfig(), write(tmp_path, name, gzip.compress(content.encode())))
    assert table.rows_read == 2


def test_gzip_of_several_members(tmp_path: Path) -> None:
    packed = gzip.compress(CSV.encode()) + gzip.compress(b"third?,yes\n")
    assert read(DataConfig(), write(tmp_path, "a.csv.gz", packed)).rows_read == 3


def test_gzip_of_thousands_of_members(tmp_path: Path) -> None:
    """As bgzip writes them. To go over the rest of the file for each took 8 seconds, in one pass it is 0.03."""
    one = random.Random(0).randbytes(4096)
    started = time.process_time()
    assert unpack(tmp_path / "a.gz", gzip.compress(one, 1) * 4000) == one * 4000
    assert time.process_time() - started < 4


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-12], lambda b: b"\x1f\x8b" + b[9:], lambda b: b[:20] + b"xx" + b[22:]]
)
def test_damaged_gzip(tmp_path: Path, damage: object) -> None:
    content = damage(gzip.compress(CSV.encode() * 50))  # type: ignore[operator]
    assert "not a whole gzip file" in failure(write(tmp_path, "a.csv.gz", content)).message


ACCENTED = "question,answer\nOù est le café ?,Près de l’école\n"


@pytest.mark.parametrize(
    ("encoding", "reported"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("cp1252", "cp1252"),
    ],
)
def test_encoding_is_found(tmp_path: Path, encoding: str, reported: str) -> None:
    content = ACCENTED if encoding != "utf-16-be" else ACCENTED.replace("’", "'")
    table = read(DataConfig(), write(tmp_path, "a.csv", content.encode(encoding)))
    assert table.columns == ("question", "answer")
    assert table.records[0].cells["question"] == "Où est le café ?"
    assert table.encoding == reported
    assert [finding.code for finding in table.findings] == (["encoding"] if encoding == "cp1252" else [])


def test_encoding_setting_overrules(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "question,answer\nда?,нет\n".encode("cp1251"))
    assert read(DataConfig(encoding="cp1251"), path).records[0].cells == {"question": "да?", "answer": "нет"}


def test_encoding_setting_that_does_not_fit_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"question,answer\nok,ok\nbad,\xff\xfe\n")
    assert "byte 0xff in line 3" in str(failure(path, encoding="utf-8").cause)


def test_unknown_encoding(tmp_path: Path) -> None:
    assert "no text encoding 'utf-9'" in failure(write(tmp_path, "a.csv", CSV), encoding="utf-9").message


def test_damaged_utf8_is_not_taken_for_cp1252(tmp_path: Path) -> None:
    content = ("question,answer\n" + "é,ü\n" * 20).encode() + b"\xe9,x\n"
    assert "line 22" in str(failure(write(tmp_path, "a.csv", content)).cause)


@pytest.mark.parametrize(
    ("encoding", "question", "shown"),
    [
        ("cp1251", "Как изменить пароль?", "Как"),
        ("cp1250", "Jak zmienić hasło źdźbła?", "zmienić"),
        ("shift_jis", "パスワードを変更する方法", "パスワード"),
        ("gb18030", "如何更改密码", "如何"),
        ("cp1253", "Πώς αλλάζω τον κωδικό;", "Πώς"),
    ],
)
def test_other_alphabets_are_not_read_as_western(tmp_path: Path, encoding: str, question: str, shown: str) -> None:
    content = f"question,answer\n{question},ok\n".encode(encoding)
    error = failure(write(tmp_path, "a.csv", content))
    assert f"{encoding}: {shown}" in str(error.cause)
    assert "--data.encoding" in str(error.fix)


@settings(max_examples=200)
@given(st.text(st.sampled_from("aeinrst éèàçüöäßñ'’-–.,?!0123456789€°²½"), max_size=300))
def test_what_western_languages_write_is_not_odd(text: str) -> None:
    words = [word for word in text.split() if not re.search(r"[éèàçüöäßñ]{3}|[^\W\d_][€°²½]", word)]
    assert odd_word(" ".join(words)) is None


def test_words_of_western_text_are_shown(tmp_path: Path) -> None:
    table = read(DataConfig(), write(tmp_path, "a.csv", "question,answer\nWo?,Über Köln\n".encode("cp1252")))
    assert '"Über", "Köln"' in table.findings[0].message


def test_bytes_of_no_encoding(tmp_path: Path) -> None:
    assert "neither UTF-8 nor cp1252" in failure(write(tmp_path, "a.csv", b"question,answer\na,\x81\n")).message


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"PK\x03\x04rest", "workbook"), (b"%PDF-1.7", "PDF"), (b"PAR1xx", "parquet"), (b"a,b\n\0\0\0x", "zero bytes")],
)
def test_binary_content_is_no_text(tmp_path: Path, content: bytes, named: str) -> None:
    assert named in failure(write(tmp_path, "a.csv", content)).message


def archive_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return stream.getvalue()


OLE = b"\xd0\xcf\x11\xe0" + bytes(600)


@pytest.mark.parametrize(
    ("name", "content", "is_called", "fix"),
    [
        ("a.xlsx", b"%PDF-1.7", "a PDF", "two columns"),
        ("a.docx", archive_of("word/document.xml"), "a Word document", "two columns"),
        ("a.xml", b"<?xml version='1.0'?><faq/>", "an XML file", "csv or JSON"),
        (
            "a.xls",
            b'<?xml version="1.0"?>\n<Workbook xmlns="urn:schemas-microsoft-com:office:spreadsheet"/>',
            "an XML spreadsheet of Excel 2003",
            "save it as .xlsx",
        ),
        ("a.numbers", archive_of("Index/Document.iwa"), "an Apple Numbers", "Export To > Excel"),
        ("a.odt", archive_of("mimetype", "content.xml"), "an OpenDocument file, but no spreadsheet", "two columns"),
        ("a.zip", archive_of("b.xlsx", "c.csv"), "a zip archive with b.xlsx, c.csv", "unpack it"),
        ("a.xlsx", b"PK\x03\x04cut", "damaged or cut off", "again"),
        ("a.xlsx", OLE + "EncryptedPackage".encode("utf-16-le"), "a workbook with a password", "without the password"),
        ("a.xls", OLE, "a compound file, but no workbook", "save it as .xlsx"),
        ("a.xls", b"<html><table>", "an HTML page", "save it as .xlsx"),
        ("a.gift", b"Who wrote it? {=Anna ~Bert}", "a quiz in GIFT", "columns Question, A, B, .. and Answer"),
        ("~$faq.xlsx", b"\x06Sabine" + b" " * 50, "beside an open file", "name faq.xlsx itself"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, is_called: str, fix: str) -> None:
    error = failure(write(tmp_path, name, content))
    assert is_called in error.message
    assert fix in str(error.fix)


def test_content_decides_where_the_name_is_wrong(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in (["Question", "Answer"], ["What?", "That."]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    (tmp_path / "a.xlsx").rename(tmp_path / "a.csv")
    table = read(DataConfig(), tmp_path / "a.csv")
    assert (table.format, table.rows_read) == ("xlsx", 1)


def test_sha256_is_that_of_the_file_on_disk(tmp_path: Path) -> None:
    import hashlib

    packed = gzip.compress(CSV.encode(), mtime=0)
    for name, content in (("a.csv", CSV.encode()), ("a.csv.gz", packed)):
        assert read(DataConfig(), write(tmp_path, name, content)).sha256 == hashlib.sha256(content).hexdigest()
