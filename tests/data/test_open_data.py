"""The open data sets as they are: shape, columns and row counts of every file, and that reading them is quick."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tunesmith.config import RunConfig
from tunesmith.data import Prepared, prepare

QA = {"question": "question", "answer": "answer"}
TITLED = {"question": "Question", "answer": "Answer"}
ALPACA = {"instruction": "instruction", "output": "output"}
PROMPT = {"prompt": "prompt", "completion": "completion"}
LABEL = {"text": "text", "label": "category"}

# file -> shape, columns, rows read, rows kept
EXPECTED: dict[str, tuple[str, dict[str, str], int, int]] = {
    "azure_qnamaker_sample_faq.xlsx": ("qa", TITLED, 9, 9),
    "azure_sample_qnas.xlsx": ("qa", TITLED, 11, 11),
    "azure_sample_qnas_bom.tsv": ("qa", TITLED, 11, 11),
    "azure_scenario_responses_friendly.tsv": ("qa", {"question": "Scenario", "answer": "Response"}, 161, 161),
    "azure_support_workbook_derived.xlsx": ("qa", TITLED, 201, 199),
    "banking77_test.csv": ("label", LABEL, 3080, 3079),
    "banking77_train.csv": ("label", LABEL, 10_003, 9_999),
    "dolly_templated_sample.jsonl": ("prompt", {"prompt": "prompt", "completion": "answer"}, 151, 151),
    "gsm8k_test.jsonl": ("qa", QA, 1319, 1319),
    "gsm8k_test_socratic_derived.parquet": ("qa", QA, 1319, 1319),
    "gsm8k_train.jsonl": ("qa", QA, 7473, 7473),
    "llamafactory_alpaca_en_demo.json": ("instruction", {**ALPACA, "input": "input"}, 999, 985),
    "llamafactory_c4_demo.jsonl": ("text", {"text": "text"}, 300, 300),
    "llamafactory_dpo_en_demo.json": ("sharegpt", {"conversations": "conversations", "chosen": "chosen"}, 300, 295),
    "llamafactory_glaive_toolcall_en_demo.json": ("sharegpt", {"conversations": "conversations"}, 300, 262),
    "llamafactory_identity.json": ("instruction", ALPACA, 91, 91),
    "llamafactory_kto_en_demo.json": ("messages", {"messages": "messages"}, 300, 300),
    "llamafactory_wiki_demo.txt": ("text", {"text": "text"}, 30, 30),
    "mental_health_faq.csv": ("qa", {"question": "Questions", "answer": "Answers"}, 98, 98),
    "mental_health_prompt_completion.jsonl": ("prompt", PROMPT, 98, 98),
    "nlu_home_domain_semicolon.csv": ("label", {"text": "answer_from_user", "label": "intent"}, 9960, 9933),
    "openbookqa_test.jsonl": ("qa", QA, 500, 500),
    "sms_spam_collection.tsv": ("label", {"text": "column2", "label": "column1"}, 5574, 5160),
    "tinyshakespeare.txt": ("text", {"text": "text"}, 7222, 7222),
    "toy_chat_fine_tuning.jsonl": ("messages", {"messages": "messages"}, 5, 5),
    "truthfulqa.csv": ("qa", {"question": "Question", "answer": "Best Answer"}, 817, 817),
    "truthfulqa_finetune_truth.jsonl": ("prompt", PROMPT, 22_434, 18_337),
    "xquad_en_squad_format.json": ("qa", {**QA, "context": "context"}, 1190, 1187),
}

# file -> findings that it must give, and how many rows they name (None: no matter)
FINDINGS: dict[str, dict[str, int | None]] = {
    "azure_sample_qnas_bom.tsv": {"escaped_newlines": 5},
    "azure_support_workbook_derived.xlsx": {"hidden_sheet": 0, "empty_sheet": 0, "notes_sheet": 0, "title_rows": 1},
    "dolly_templated_sample.jsonl": {"end_marker": 151, "template_inside": 151},
    "llamafactory_dpo_en_demo.json": {"rejected_answers": 0},
    "llamafactory_glaive_toolcall_en_demo.json": {"tools_left_out": 0},
    "llamafactory_identity.json": {"placeholders": 85},
    "llamafactory_kto_en_demo.json": {"labels_left_out": 150},
    "mental_health_faq.csv": {"mojibake": 4},
    "openbookqa_test.jsonl": {"flattened": 0},
    "sms_spam_collection.tsv": {"quotes": 0, "no_header": 0},
    "truthfulqa_finetune_truth.jsonl": {"several_answers": None},
}


def prepared(folder: Path, name: str) -> Prepared:
    path = folder / name
    if not path.is_file():
        pytest.skip(f"{name} is not among the open data sets")
    config = RunConfig()
    config.data.path = str(path)
    return prepare(config)


@pytest.mark.parametrize("name", EXPECTED)
def test_shape_columns_and_rows(open_data: Path, name: str) -> None:
    started = time.process_time()
    result = prepared(open_data, name)
    seconds = time.process_time() - started
    report = result.report
    assert (report.shape, dict(report.columns), report.rows_read, report.rows_kept) == EXPECTED[name]
    assert report.rows_read == report.rows_kept + sum(map(len, report.dropped.values()))
    assert sum(report.split.values()) == report.rows_kept
    assert all(report.split.values())
    found = {finding.code: len(finding.rows) for finding in report.findings}
    for code, rows in FINDINGS.get(name, {}).items():
        assert code in found
        assert rows is None or found[code] == rows
    assert seconds < 5


def test_every_file_is_expected(open_data: Path) -> None:
    names = {path.name for path in open_data.iterdir() if path.suffix != ".md"}
    assert names <= set(EXPECTED)


def test_merged_scenarios_equal_the_same_table_unmerged(open_data: Path) -> None:
    merged = prepared(open_data, "azure_support_workbook_derived.xlsx")
    plain = prepared(open_data, "azure_scenario_responses_friendly.tsv")

    def pairs(result: Prepared) -> set[tuple[str, str]]:
        examples = [*result.train, *result.validation, *result.test]
        return {(example.question, example.answer) for example in examples}

    assert pairs(plain) <= pairs(merged)


def test_xlsx_and_tsv_of_the_same_rows_agree(open_data: Path) -> None:
    results = [prepared(open_data, name) for name in ("azure_sample_qnas.xlsx", "azure_sample_qnas_bom.tsv")]
    assert results[0].train == [
        type(example)(messages=example.messages, row=example.row, sheet="QnAs") for example in results[1].train
    ]


def test_parquet_and_jsonl_of_the_same_questions_are_divided_alike(open_data: Path) -> None:
    results = [prepared(open_data, name) for name in ("gsm8k_test.jsonl", "gsm8k_test_socratic_derived.parquet")]
    questions = [[example.question for example in result.test] for result in results]
    assert questions[0] == questions[1]


def test_no_text_of_the_messages_is_lost(open_data: Path) -> None:
    result = prepared(open_data, "toy_chat_fine_tuning.jsonl")
    everything = [*result.train, *result.validation, *result.test]
    assert max(len(example.answer) for example in everything) == 26_000
    assert any(all(message.role != "user" for message in example.messages) for example in everything)


def test_sample_workbook() -> None:
    path = Path(__file__).resolve().parents[2] / "examples" / "presscrafters_faq.xlsx"
    if not path.is_file():
        pytest.skip("the sample workbook is not in examples/")
    report = prepared(path.parent, path.name).report
    assert (report.shape, report.rows_read, report.rows_kept) == ("qa", 504, 490)
    assert {reason: len(rows) for reason, rows in report.dropped.items()} == {
        "blank row": 6,
        "empty answer": 2,
        "empty question": 1,
        "exact duplicate": 5,
    }
    assert report.split == {"train": 392, "validation": 49, "test": 49}
