"""What a row is and which column is which: by name, by content, as set; and what is said when nothing fits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import DataConfig
from tunesmith.data import Table, detect_columns
from tunesmith.data.columns import SHAPES
from tunesmith.data.facts import is_code
from tunesmith.data.names import PART_NAMES, normalise_name
from tunesmith.data.table import columns_of
from tunesmith.errors import DataError, SettingsError
from tunesmith.types import Record

QUESTIONS = ["What is a press?", "Who made it?", "When was it built?", "Where does it stand?"]
ANSWERS = ["A machine that prints.", "Our founder did.", "It was built in 1910.", "In the hall, by the door."]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHARE = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
TURN = {"from": "gpt", "value": "Hello"}


def table_of(columns: dict[str, list[Any]], sheet: str | None = None) -> Table:
    rows = zip(*columns.values(), strict=True)
    records = tuple(
        Record(row, dict(zip(columns, cells, strict=True)), sheet) for row, cells in enumerate(rows, start=2)
    )
    return Table("a.csv", "csv", records, tuple(columns))


def two(first: str, second: str) -> Table:
    return table_of({first: QUESTIONS, second: ANSWERS})


def named(*names: str) -> Table:
    """Columns that can be told apart by nothing but their names."""
    return table_of({name: [f"{name} {index} text" for index in range(4)] for name in names})


@pytest.mark.parametrize(
    ("names", "shape", "columns"),
    [
        (["Question", "Answer"], "qa", {"question": "Question", "answer": "Answer"}),
        (["QUESTIONS:", "answers"], "qa", {"question": "QUESTIONS:", "answer": "answers"}),
        (["Nr", "Frage", "Antwort"], "qa", {"question": "Frage", "answer": "Antwort"}),
        (["Réponse", "Question"], "qa", {"question": "Question", "answer": "Réponse"}),
        (["Pregunta", "Respuesta"], "qa", {"question": "Pregunta", "answer": "Respuesta"}),
        (["Domanda", "Risposta"], "qa", {"question": "Domanda", "answer": "Risposta"}),
        (["Pytanie", "Odpowiedź"], "qa", {"question": "Pytanie", "answer": "Odpowiedź"}),
        (["Вопрос", "Ответ"], "qa", {"question": "Вопрос", "answer": "Ответ"}),
        (["问题", "答案"], "qa", {"question": "问题", "answer": "答案"}),
        (["質問", "回答"], "qa", {"question": "質問", "answer": "回答"}),
        (["Kundenfrage", "Musterantwort"], "qa", {"question": "Kundenfrage", "answer": "Musterantwort"}),
        (["Question", "Bot answer", "Corrected answer"], "qa", {"question": "Question", "answer": "Corrected answer"}),
        (["Q", "A"], "qa", {"question": "Q", "answer": "A"}),
        (["user", "assistant"], "qa", {"question": "user", "answer": "assistant"}),
        (["Question text", "Answer (EN)"], "qa", {"question": "Question text", "answer": "Answer (EN)"}),
        (
            ["Question_ID", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"],
            "qa",
            {"question": "Question", "answer": "Best Answer"},
        ),
        (
            ["question", "Incorrect Answer", "Correct Answer"],
            "qa",
            {"question": "question", "answer": "Correct Answer"},
        ),
        (["Question", "Answer", "IsContextOnly"], "qa", {"question": "Question", "answer": "Answer"}),
        (
            ["Nr", "Question (ID)", "Question", "Answer (full sentences, at most 300 words, no names)"],
            "qa",
            {"question": "Question", "answer": "Answer (full sentences, at most 300 words, no names)"},
        ),
        (["番号", "ご質問", "ご回答"], "qa", {"question": "ご質問", "answer": "ご回答"}),
        (["Lp.", "Otázka zákazníka", "Odpověď"], "qa", {"question": "Otázka zákazníka", "answer": "Odpověď"}),
        (["question", "context", "answer"], "qa", {"question": "question", "answer": "answer", "context": "context"}),
        (["instruction", "output"], "instruction", {"instruction": "instruction", "output": "output"}),
        (
            ["instruction", "context", "response", "category"],
            "instruction",
            {"instruction": "instruction", "output": "response", "input": "context"},
        ),
        (
            ["system", "instruction", "input", "output"],
            "instruction",
            {"instruction": "instruction", "output": "output", "input": "input", "system": "system"},
        ),
        (["prompt", "completion"], "prompt", {"prompt": "prompt", "completion": "completion"}),
        (["prompt", "answer"], "prompt", {"prompt": "prompt", "completion": "answer"}),
        (["input", "output"], "prompt", {"prompt": "input", "completion": "output"}),
        (["prompt", "chosen", "rejected"], "prompt", {"prompt": "prompt", "completion": "chosen"}),
        (["id", "source", "target"], "prompt", {"prompt": "source", "completion": "target"}),
        (["Article", "Highlights", "Source"], "prompt", {"prompt": "Article", "completion": "Highlights"}),
        (["Question", "Answer", "Source"], "qa", {"question": "Question", "answer": "Answer"}),
        (["document", "source"], "text", {"text": "document"}),
        (["text", "url", "timestamp"], "text", {"text": "text"}),
        (["title", "text"], "text", {"text": "text"}),
    ],
)
def test_shape_and_columns_by_name(names: list[str], shape: str, columns: dict[str, str]) -> None:
    detection = detect_columns(named(*names), DataConfig())
    assert (detection.shape, dict(detection.columns)) == (shape, columns)
    assert "by name" in detection.reason


@pytest.mark.parametrize(
    ("column", "cell", "extra", "shape"),
    [
        ("messages", CHAT, {}, "messages"),
        ("anything", CHAT, {}, "messages"),
        ("messages", '[{"role": "user", "content": "Hi"}]', {}, "messages"),
        ("conversations", SHARE, {"tools": "[]"}, "sharegpt"),
        ("chat", SHARE, {}, "sharegpt"),
        ("messages", CHAT, {"label": "true", "question": "What?", "answer": "That."}, "messages"),
    ],
)
def test_conversations_go_by_their_cells(column: str, cell: Any, extra: dict[str, str], shape: str) -> None:
    table = table_of({column: [cell] * 3, **{name: [value] * 3 for name, value in extra.items()}})
    detection = detect_columns(table, DataConfig())
    assert detection.shape == shape
    assert column in detection.columns.values()


def test_chosen_answers_belong_to_the_conversation() -> None:
    table = table_of({"conversations": [SHARE[:1]] * 3, "chosen": [TURN] * 3, "rejected": [TURN] * 3})
    detection = detect_columns(table, DataConfig())
    assert dict(detection.columns) == {"conversations": "conversations", "chosen": "chosen"}
    assert [finding.code for finding in detection.findings] == ["rejected_answers"]


def test_what_chat_data_say_beside_the_conversation_is_told() -> None:
    table = table_of({"messages": [CHAT] * 3, "label": ["true", "false", "true"], "tools": ["[]"] * 3})
    findings = {finding.code: finding.rows for finding in detect_columns(table, DataConfig()).findings}
    assert findings == {"tools_left_out": (), "labels_left_out": (3,)}


def labelled(text: str, label: str, **others: list[str]) -> Table:
    texts = [f"The parcel number {index} has not come yet" for index in range(20)]
    return table_of({label: ["late", "lost", "late", "early"] * 5, text: texts, **others})


@pytest.mark.parametrize(
    ("text", "label"), [("text", "category"), ("column2", "column1"), ("question", "label"), ("Satz", "Kategorie")]
)
def test_labels_by_name_or_by_few_values(text: str, label: str) -> None:
    detection = detect_columns(labelled(text, label), DataConfig())
    assert (detection.shape, dict(detection.columns)) == ("label", {"text": text, "label": label})
    assert detection.reason.endswith("20 rows, 3 labels")


def test_the_text_of_a_label_is_the_one_that_people_wrote() -> None:
    marked = [f"the [thing : parcel] number {index}" for index in range(20)]
    plain = [f"the parcel number {index} annotated by hand, at length" for index in range(20)]
    table = labelled("said_by_user", "intent", said_in_brackets=marked, text_annotation=plain)
    assert detect_columns(table, DataConfig()).columns["text"] == "said_by_user"
    table = labelled("said", "intent", original=marked)
    assert detect_columns(table, DataConfig()).columns["text"] == "said"


def test_where_a_text_is_from_is_no_prompt_of_its_label() -> None:
    columns = {"text": QUESTIONS * 5, "source": ["web", "mail"] * 10, "target": ["good", "bad", "good", "bad"] * 5}
    assert detect_columns(table_of(columns), DataConfig()).columns == {"text": "text", "label": "target"}


def test_a_column_called_target_with_sentences_is_no_label() -> None:
    table = table_of({"text": [f"one {i}" for i in range(30)], "target": [f"a sentence number {i}" for i in range(30)]})
    assert detect_columns(table, DataConfig()).shape != "label"


@pytest.mark.parametrize("order", [("x", "y"), ("y", "x")])
def test_question_marks_tell_the_question(order: tuple[str, str]) -> None:
    columns = dict(zip(order, (QUESTIONS, ANSWERS), strict=True))
    detection = detect_columns(table_of({name: columns[name] for name in sorted(columns)}), DataConfig())
    assert dict(detection.columns) == {"question": order[0], "answer": order[1]}
    assert "100% of its cells end with a question mark" in detection.reason
    assert [finding.code for finding in detection.findings] == ([] if detection.score >= 0.55 else ["columns_guessed"])


def test_one_known_name_and_one_odd_one() -> None:
    detection = detect_columns(two("Scenario", "Response"), DataConfig())
    assert (detection.shape, dict(detection.columns)) == ("qa", {"question": "Scenario", "answer": "Response"})
    assert '"Response" (by name)' in detection.reason


def test_questions_without_answers_are_told() -> None:
    assert (
        "no column answers" in codes(table_of({"Question": QUESTIONS, "Id": ["1", "2", "3", "4"]}))["questions_alone"]
    )
    assert "questions_alone" not in codes(table_of({"Text": QUESTIONS}))
    assert detect_columns(table_of({"Question": QUESTIONS}), DataConfig(shape="text")).findings == ()


def test_a_text_beside_one_that_asks_nothing_is_told_as_a_guess() -> None:
    columns = {"Name": ["Press", "Roller", "Blanket", "Gripper"], "Description": ANSWERS}
    assert "columns_guessed" in codes(table_of(columns))
    assert "columns_guessed" not in codes(table_of({"Description": QUESTIONS, "Name": ANSWERS}))


@pytest.mark.parametrize("cell", [CHAT, str(CHAT), json.dumps(CHAT)])
def test_turns_may_be_written_as_text(cell: Any) -> None:
    detection = detect_columns(table_of({"id": ["1"] * 4, "chat": [cell] * 4}), DataConfig())
    assert (detection.shape, detection.columns) == ("messages", {"messages": "chat"})


def test_text_that_nests_too_deep_for_turns_is_text() -> None:
    cell = '[{"a":' * 100_000
    assert detect_columns(table_of({"question": [cell] * 3, "answer": ["b"] * 3}), DataConfig()).shape == "qa"


def test_a_completion_of_turns_ends_the_conversation() -> None:
    table = table_of({"prompt": [CHAT[:1]] * 4, "completion": [CHAT[1:]] * 4})
    assert detect_columns(table, DataConfig()).columns == {"messages": "prompt", "chosen": "completion"}


def test_turns_that_were_chosen_answer_those_of_the_prompt() -> None:
    table = table_of({"prompt": [CHAT[:1]] * 4, "chosen": [CHAT[1:]] * 4, "rejected": [CHAT[1:]] * 4})
    assert detect_columns(table, DataConfig()).columns == {"messages": "prompt", "chosen": "chosen"}
    whole = table_of({"prompt": ["Hi"] * 4, "chosen": [CHAT] * 4, "rejected": [CHAT] * 4})
    assert detect_columns(whole, DataConfig()).columns == {"messages": "chosen"}


def test_a_context_is_no_answer() -> None:
    columns = {"question": QUESTIONS, "context": ["A long text about presses."] * 4, "spans": [[1], [2], [3], [4]]}
    with pytest.raises(DataError, match="cannot tell which columns"):
        detect_columns(table_of(columns), DataConfig(shape="qa"))


def test_ids_numbers_and_links_are_never_guessed() -> None:
    table = table_of(
        {
            "n": ["1590140", "2110618", "6361820", "9434130"],
            "where": [f"https://example.org/{index}" for index in range(4)],
            "x": QUESTIONS,
            "when": ["2024-01-05", "2024-01-06", "2024-01-07", "2024-01-08"],
            "y": ANSWERS,
        }
    )
    assert dict(detect_columns(table, DataConfig()).columns) == {"question": "x", "answer": "y"}


def test_reason_is_a_sentence_for_people() -> None:
    answers = [*ANSWERS[:2], "Two\nlines", "Three\nmore\nlines"]
    detection = detect_columns(table_of({"Questions": QUESTIONS, "Answers": answers}), DataConfig())
    assert detection.reason == (
        'question/answer: columns "Questions" and "Answers" by name; 4 rows, 2 answers with several lines'
    )
    assert detection.score == pytest.approx(1, abs=0.02)


def test_nothing_fits_lists_the_columns_and_says_how_to_set_them() -> None:
    table = table_of({"height": ["1", "2"], "width": ["3", "4"]})
    with pytest.raises(DataError, match="cannot tell which columns") as caught:
        detect_columns(table, DataConfig())
    assert "'height', 'width'" in str(caught.value.cause)
    assert "--data.columns.question NAME --data.columns.answer NAME" in str(caught.value.fix)


def test_three_columns_of_text_without_names_are_not_guessed() -> None:
    table = table_of({name: [f"{name} is some text {index}" for index in range(4)] for name in ("x", "y", "z")})
    with pytest.raises(DataError, match="cannot tell which columns"):
        detect_columns(table, DataConfig())


def test_columns_setting_overrules_and_brings_its_shape() -> None:
    settings = DataConfig(columns={"prompt": "Answer", "completion": "Question"})
    detection = detect_columns(two("Question", "Answer"), settings)
    assert (detection.shape, dict(detection.columns)) == ("prompt", {"prompt": "Answer", "completion": "Question"})
    assert detection.reason.startswith('prompt/completion: columns "Answer" and "Question" as set')


def test_part_of_the_columns_may_be_set() -> None:
    detection = detect_columns(
        named("Question", "Answer", "Long answer"), DataConfig(columns={"answer": "Long answer"})
    )
    assert dict(detection.columns) == {"question": "Question", "answer": "Long answer"}


def test_shape_setting_overrules() -> None:
    detection = detect_columns(two("Question", "Answer"), DataConfig(shape="instruction"))
    assert dict(detection.columns) == {"instruction": "Question", "output": "Answer"}
    with pytest.raises(DataError, match="as messages"):
        detect_columns(two("Question", "Answer"), DataConfig(shape="messages"))


def test_unknown_column_lists_columns_and_names_the_nearest() -> None:
    with pytest.raises(
        DataError, match=r"no column 'Anwser' \(data.columns.answer\), did you mean 'Answer'\?"
    ) as caught:
        detect_columns(two("Question", "Answer"), DataConfig(columns={"answer": "Anwser"}))
    assert "'Question', 'Answer'" in str(caught.value.cause)
    assert caught.value.exit_code == 3


def test_unknown_part_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"'questoin', which is no part of any shape, did you mean 'question'\?"):
        detect_columns(two("Question", "Answer"), DataConfig(columns={"questoin": "Question"}))
    with pytest.raises(SettingsError, match="no shape has the parts question and label together"):
        detect_columns(two("Question", "Answer"), DataConfig(columns={"question": "Question", "label": "Answer"}))


def joined(**sheets: Table) -> Table:
    records = tuple(
        Record(record.row, record.cells, name) for name, table in sheets.items() for record in table.records
    )
    return Table("a.xlsx", "xlsx", records, columns_of(records), tuple(sheets))


def test_every_sheet_has_its_own_columns() -> None:
    table = joined(FAQ=named("Question", "Answer", "Source"), Talk=two("Scenario", "Response"))
    detection = detect_columns(table, DataConfig())
    assert detection.by_sheet == {
        "FAQ": {"question": "Question", "answer": "Answer"},
        "Talk": {"question": "Scenario", "answer": "Response"},
    }
    assert 'sheet "Talk"' in detection.reason


def test_sheets_of_something_else_are_skipped_and_told() -> None:
    table = joined(
        FAQ=two("Question", "Answer"), Glossary=named("Word", "Meaning"), Prices=table_of({"Item": ["1"] * 3})
    )
    detection = detect_columns(table, DataConfig())
    assert list(detection.by_sheet) == ["FAQ"]
    assert [finding.code for finding in detection.findings] == ["skipped_sheet", "skipped_sheet"]
    assert 'sheet "Glossary" (4 rows)' in detection.findings[0].message


def test_named_columns_without_a_cell_are_still_found() -> None:
    table = table_of({"Question": QUESTIONS, "Answer": [""] * 4})
    assert dict(detect_columns(table, DataConfig()).columns) == {"question": "Question", "answer": "Answer"}


def test_names_are_compared_without_case_accents_punctuation_and_plural() -> None:
    assert normalise_name("  Réponses : ") == normalise_name("REPONSE") == "reponse"
    assert normalise_name("userQuestion") == normalise_name("user_questions") == "user question"


def test_every_part_of_every_shape_has_names() -> None:
    parts = {part for shape in SHAPES.values() for part in (*shape.required, *shape.optional)}
    assert parts == set(PART_NAMES)
    assert set(SHAPES) == set(DataConfig.model_fields["shape"].annotation.__args__) - {"auto"}  # type: ignore[union-attr]


@given(st.permutations(["Id", "Question", "Answer", "Source", "Date"]))
def test_the_order_of_columns_does_not_matter(names: list[str]) -> None:
    assert dict(detect_columns(named(*names), DataConfig()).columns) == {"question": "Question", "answer": "Answer"}


def codes(table: Table) -> dict[str, str]:
    return {finding.code: finding.message for finding in detect_columns(table, DataConfig()).findings}


def test_the_text_below_the_subject_is_the_question() -> None:
    columns = {"Subject": ["Press", "Ink", "Paper", "Shop"], "Body": QUESTIONS, "Resolution": ANSWERS}
    assert detect_columns(table_of(columns), DataConfig()).columns == {"question": "Body", "answer": "Resolution"}
    as_set = DataConfig(columns={"question": "Subject"})
    assert detect_columns(table_of(columns), as_set).columns == {"question": "Subject", "answer": "Resolution"}


def test_a_category_beside_question_and_answer_is_no_label() -> None:
    columns = {
        "Category": ["Shop", "", ""] * 10,
        "Customer asks": [f"the press number {index} is stuck" for index in range(30)],
        "Our reply": [f"turn the press number {index} off" for index in range(30)],
    }
    assert detect_columns(table_of(columns), DataConfig()).shape == "qa"
    del columns["Our reply"]
    columns["Category"] = ["Shop", "Ink", "Paper"] * 10
    assert detect_columns(table_of(columns), DataConfig()).shape == "label"


def test_codes_and_times_are_no_answers() -> None:
    columns = {"Message": [*QUESTIONS] * 5, "Time": ["2024-01-01T10:00:00", "2024-01-01T10:01:00"] * 10}
    assert "answer" not in detect_columns(table_of(columns), DataConfig()).columns


@pytest.mark.parametrize(
    "moment",
    [
        "2024-03-01 10:0{}:00",
        "3/1/24 9:0{} AM GMT+1",
        "5. Jan 202{}, 9:15 Uhr",
        "Tue Mar  {} 10:00:00 UTC 2024",
        "ann{}@example.org",
    ],
)
def test_moments_and_addresses_are_nothing_to_read(moment: str) -> None:
    assert all(is_code(moment.format(digit)) for digit in range(1, 7))
    columns = {
        "Wann": [moment.format(index % 7 + 1) for index in range(8)],
        "Was": QUESTIONS * 2,
        "Dann": ["Do it so."] * 8,
    }
    found = detect_columns(table_of(columns), DataConfig()).columns
    assert "Wann" not in found.values()


def test_columns_that_are_not_trained_on_are_told() -> None:
    found = codes(named("Nr", "Question EN", "Answer EN", "Question DE", "Answer DE", "Empty"))
    assert '"Question EN"; column "Question DE" could be it too' in found["other_question"]
    assert '"Answer EN"; column "Answer DE" could be it too' in found["other_answer"]
    assert found["columns_left_out"] == 'not trained on: columns "Nr", "Empty"'
    assert codes(two("Question", "Answer")) == {}


@pytest.mark.parametrize(
    ("names", "is_told"),
    [
        (["prompt", "response_a", "response_b", "winner"], True),
        (["Question", "Answer 1", "Answer 2", "Preferred answer"], True),
        (["Question", "Answer", "Note", "Winner"], False),
        (["prompt", "response_a", "response_b", "Author"], False),
    ],
)
def test_the_better_of_two_answers_is_not_passed_over(names: list[str], is_told: bool) -> None:
    others = [f"Another answer, number {n}." for n in range(len(ANSWERS))]
    cells = [QUESTIONS, ANSWERS, others, ["a", "b"] * (len(ANSWERS) // 2)]
    found = codes(table_of(dict(zip(names, cells, strict=True))))
    assert ("better_answer" in found) is is_told


@pytest.mark.parametrize(
    ("name", "marks", "bad"),
    [
        ("feedback", ["thumbs_up", "thumbs_down", "", "Thumbs down"], (3, 5)),
        ("user_reaction", ["👍", "👎", "👍", "👍"], (3,)),
        ("Votes", ["1", "-1", "0", "2"], (3,)),
        ("feedback", ["Nice.", "More of it!", "I see.", "Bad luck."], ()),
        ("Status", ["good", "bad", "good", "bad"], ()),
    ],
)
def test_answers_that_people_found_bad_are_told(name: str, marks: list[str], bad: tuple[int, ...]) -> None:
    table = table_of({"user_message": QUESTIONS, "bot_response": ANSWERS, name: marks})
    found = {finding.code: finding.rows for finding in detect_columns(table, DataConfig()).findings}
    assert found.get("labels_left_out", ()) == bad


def test_an_old_answer_is_not_the_answer() -> None:
    columns = {"Question": QUESTIONS, "Old answer": ANSWERS, "New answer": [f"{text} Today." for text in ANSWERS]}
    assert detect_columns(table_of(columns), DataConfig()).columns["answer"] == "New answer"
