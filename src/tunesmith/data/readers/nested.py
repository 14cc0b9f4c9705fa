"""Nestings that are not one object a row, of JSON and parquet: which items they hold, and well-known ones laid flat.

Works on parsed values; knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, product
from math import prod
from typing import Any

from tunesmith.data.choices import with_choices
from tunesmith.data.names import BESIDE, ORDINARY_WEIGHT, is_known_name, name_weight, normalise_name
from tunesmith.data.readers.chatgpt import is_chatgpt, unfold_chatgpt
from tunesmith.data.table import cell_text
from tunesmith.errors import DataError
from tunesmith.types import Finding, Record

_CHAT_KEYS = ("messages", "conversations")
_MOST_PAIRS = 2_000  # of one object; an intent has tens of each
_ASKING = ("question", "instruction", "prompt")
_ANSWERING = ("answer", "output", "completion")
_TEXT_KEYS = (
    "text",
    "answer",
    "value",
    "body",
)  # of an object that holds the text of an answer, with what is known of it
_LANGUAGE = re.compile(r"[a-z]{2}([-_]\w{2,4})?")

Items = list[Any]


def keep_nested(value: object) -> object:
    """Scalars as text, lists and objects as they are."""
    return value if isinstance(value, (list, dict)) else cell_text(value)


def items_of(value: object) -> Items:
    """The rows of a JSON document.

    An array of objects; columns as arrays, {"question": [..], "answer": [..]}; objects by id, {"q1": {..}, "q2": {..}};
    a wrapper, {"version": 1, "data": [..]}; SQuAD's articles; lists of cells, [["question", "answer"], [.., ..]];
    answers by question, {"Where is it?": "There.", ..}; a single object. Where none of these has questions with
    answers: every object at any depth that has, with what is above it, {"by": {..}, "topics": [{"faqs": [..]}, ..]}.

    Raises:
        DataError: columns of unequal length, or no object at all.
    """
    if isinstance(value, list):
        if value and all(map(_is_squad_article, value)):
            return _unfold_squad(value)
        if value and all(map(is_list_of_cells, value)):
            return _named_cells(value)
        return (
            value
            if any(is_pair(item) or is_chatgpt(item) for item in _dicts(value))
            else list(_gather(value, {})) or value
        )
    if not isinstance(value, dict) or not value:
        raise DataError(
            f"the JSON holds {_kind(value)}, not rows",
            fix='write an array of objects: [{"question": .., "answer": ..}]',
        )
    if any(isinstance(value.get(key), list) for key in _CHAT_KEYS) or is_chatgpt(value):
        return [value]
    for form in (_wrapped, _columns, _keyed):
        items = form(value)
        if items is not None:
            return items
    return [value] if is_pair(value) else list(_gather(value, {})) or _answer_by_question(value) or [value]


def _wrapped(value: Mapping[str, Any]) -> Items | None:
    """{"version": "1.1", "data": [{..}, ..]}, also several deep: {"data": {"rows": [..]}}."""
    lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
    if len(lists) == 1 and not any(isinstance(item, dict) for item in value.values()):
        return None if is_pair(value) else items_of(lists[0])
    if len(value) == 1:
        (only,) = value.values()
        if isinstance(only, dict) and any(isinstance(item, (dict, list)) for item in only.values()):
            return items_of(only)
    return None


def _columns(value: Mapping[str, Any]) -> Items | None:
    """{"question": ["a", "b"], "answer": ["c", "d"]} and data frames: {"question": {"0": "a", "1": "b"}, ..}."""
    if all(isinstance(item, dict) and item and all(key.isdigit() for key in item) for item in value.values()):
        keys = list(dict.fromkeys(key for column in value.values() for key in column))
        return [{name: column.get(key) for name, column in value.items()} for key in keys]
    if not all(isinstance(item, list) for item in value.values()):
        return None
    lengths = {name: len(column) for name, column in value.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items())
        if all(isinstance(item, dict) for column in value.values() for item in column):
            raise DataError(
                "it holds several lists of rows",
                cause=counts,
                fix="write each to a file; see data.validation_path, data.test_path",
            )
        raise DataError("the columns are not equally long", cause=counts, fix="give every column one value a row")
    return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def _keyed(value: Mapping[str, Any]) -> Items | None:
    """{"q1": {"question": ..}, "q2": {..}}: the name of each object becomes its column "key"."""
    if not all(isinstance(item, dict) for item in value.values()):
        return None
    return [{"key": key, **item} for key, item in value.items()]


def is_pair(item: Mapping[str, Any]) -> bool:
    """Whether an object has a question, or an instruction or prompt, and an answer to it, by the names of both."""
    return bool(_named(item, _ASKING)) and bool(_named(item, _ANSWERING))


def _named(item: Mapping[str, Any], parts: tuple[str, ...]) -> list[str]:
    """Keys that are a part by name and hold text, a number, or a list of such."""
    return [
        key for key, value in item.items() if _is_cells(value) and any(name_weight(str(key), part) for part in parts)
    ]


def _is_cells(value: object) -> bool:
    return not isinstance(value, dict) and (not isinstance(value, list) or is_list_of_cells(value))


def is_list_of_cells(value: object) -> bool:
    """Whether it is a list of texts, numbers and the like, one at least."""
    return isinstance(value, list) and bool(value) and not any(isinstance(cell, (list, dict)) for cell in value)


def _gather(value: object, above: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for item in value:
            yield from _gather(item, above)
    elif isinstance(value, dict):
        if is_pair(value):
            yield {**above, **value}
            return
        written = {**above, **{key: item for key, item in value.items() if not isinstance(item, (list, dict))}}
        for item in value.values():
            yield from _gather(item, written)


def _named_cells(rows: list[list[Any]]) -> Items:
    """Columns are named by the first row if all its cells are names of parts, else by number."""
    has_header = len(rows) > 1 and all(isinstance(cell, str) and is_known_name(cell) for cell in rows[0])
    width = max(map(len, rows))
    names = rows[0] if has_header else [f"column{number}" for number in range(1, width + 1)]
    return [dict(zip(names, row, strict=False)) for row in rows[has_header:]]


def _answer_by_question(value: Mapping[str, Any]) -> Items | None:
    """{"Where is it?": "There.", ..}: every value a text, and no key the name of a part."""
    if len(value) < 2 or not all(isinstance(item, str) for item in value.values()) or any(map(is_known_name, value)):
        return None
    return [{"question": question, "answer": answer} for question, answer in value.items()]


def records_of(path: str, items: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[tuple[Record, ...], list[Finding]]:
    """The rows that numbered objects stand for, under the numbers of their objects, and notes on what was laid flat.

    Raises:
        DataError: an object lists more questions and answers than can belong together.
    """
    records: list[Record] = []
    of_form: dict[str, int] = {}
    for number, item in items:
        form = next((name for name, form in ITEM_FORMS.items() if form.matches(item)), None)
        if form is not None:
            of_form[form] = of_form.get(form, 0) + 1
        try:
            rows = _each_answer(ITEM_FORMS[form].unfold(item) if form else _laid_flat(item))
        except DataError as error:
            raise DataError(f"{path}, row {number}: {error.message}", cause=error.cause, fix=error.fix) from error
        records += (Record(number, {str(name): keep_nested(value) for name, value in row.items()}) for row in rows)
    return tuple(records), [
        Finding("note", "flattened", f"{count} rows are {form}: {ITEM_FORMS[form].told}")
        for form, count in of_form.items()
    ]


def _each_answer(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each question and each answer of an object that lists them: {"patterns": [..], "responses": [..]}.

    A list is left alone beside a single text of the same part, such as all correct answers beside the best one. What is
    listed twice is one row.

    Raises:
        DataError: there are too many of both to be meant so.
    """
    if not any(isinstance(value, list) for value in item.values()):
        return [dict(item)]
    listed: dict[str, list[Any]] = {}
    for parts in (_ASKING, _ANSWERING):
        keys = _named(item, parts)
        if len(keys) == 1 and isinstance(item[keys[0]], list):
            listed[keys[0]] = item[keys[0]]
    if prod(map(len, listed.values())) > _MOST_PAIRS:
        counts = ", ".join(f"{key} {len(values)}" for key, values in listed.items())
        raise DataError(
            "one object lists so many questions and answers that they cannot all belong together",
            cause=counts,
            fix="write an object for each question with its answer",
        )
    each = product(*(dict.fromkeys(values) for values in listed.values()))
    return [{**item, **dict(zip(listed, chosen, strict=True))} for chosen in each]


def _laid_flat(item: Mapping[str, Any]) -> dict[str, Any]:
    """Objects inside an object as columns "outer.inner", but for the turns of a chat and records to answer with.

    {"answer": {"text": "Here.", "score": 1}} -> {"answer.text": "Here.", "answer.score": 1}
    {"answer": [{"text": "Here."}, {"text": "There."}]} -> {"answer": ["Here.", "There."]}
    {"output": {"name": "Ann", "age": 30}} stays: it is learnt as JSON.
    """
    flat: dict[str, Any] = {}
    for key, value in item.items():
        answers = any(name_weight(str(key), part) > ORDINARY_WEIGHT for part in _ANSWERING)
        is_turn = isinstance(value, dict) and bool({"role", "from", "parts"} & set(value))
        if isinstance(value, dict) and value and not is_turn and not (answers and _is_record(value)):
            flat.update({f"{key}.{inner}": part for inner, part in _laid_flat(value).items()})
        else:
            flat[key] = (_texts(value) or value) if answers else value
    return flat


def _is_record(value: Mapping[str, Any]) -> bool:
    """Whether an object is an answer as a whole: it neither holds its text nor one in each of several languages."""
    return not any(key in value for key in _TEXT_KEYS) and not all(_LANGUAGE.fullmatch(str(key)) for key in value)


def _texts(value: object) -> list[str]:
    """Of a list of objects that each hold a text, the texts."""
    found = [next((item[key] for key in _TEXT_KEYS if isinstance(item.get(key), str)), None) for item in _dicts(value)]
    texts = [text for text in found if text is not None]
    return texts if isinstance(value, list) and len(texts) == len(value) else []


def _is_squad_article(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("paragraphs"), list)


def _unfold_squad(articles: Items) -> Items:
    """article > paragraph > question > answers -> {"question", "context", "answer", "id"}, with the first answer.

    Rajpurkar et al. 2016 (v1.1) and 2018 (v2.0, where unanswerable questions have no answer).
    """
    return [
        {
            "question": question.get("question"),
            "context": paragraph.get("context"),
            "answer": next((answer.get("text") for answer in _dicts(question.get("answers"))), ""),
            "id": question.get("id"),
        }
        for article in articles
        for paragraph in _dicts(article["paragraphs"])
        for question in _dicts(paragraph.get("qas"))
    ]


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _choices(item: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """(letter, text) of a multiple-choice item, under its question or beside it, as a list or as two."""
    question = item.get("question")
    choices = question.get("choices") if isinstance(question, dict) else item.get("choices")
    if isinstance(choices, dict) and isinstance(choices.get("text"), list) and isinstance(choices.get("label"), list):
        choices = [
            {"text": text, "label": label} for text, label in zip(choices["text"], choices["label"], strict=False)
        ]
    if not isinstance(choices, list) or not choices:
        return None
    pairs = [(cell_text(choice.get("label")), cell_text(choice.get("text"))) for choice in _dicts(choices)]
    return pairs if len(pairs) == len(choices) and all(letter and text for letter, text in pairs) else None


def _is_multiple_choice(item: Mapping[str, Any]) -> bool:
    return "answerKey" in item and _choices(item) is not None


def _unfold_choices(item: Mapping[str, Any]) -> dict[str, Any]:
    """The form of ARC and OpenBookQA (Clark et al. 2018) -> the question with its choices, the text of the right one.

    {"question": {"stem": "Ice is", "choices": [{"text": "hot", "label": "A"}, {"text": "cold", "label": "B"}]},
    "answerKey": "B"} -> {"question": "Ice is\\nA. hot\\nB. cold", "answer": "cold"}
    """
    question = item.get("question", item.get("question_stem"))
    stem = question.get("stem") if isinstance(question, dict) else question
    choices = _choices(item) or []
    rest = {name: value for name, value in item.items() if name not in {"question", "question_stem", "choices"}}
    return {
        "question": with_choices(cell_text(stem), choices),
        "answer": dict(choices).get(cell_text(item["answerKey"]), ""),
        **rest,
    }


def _said_in_turn(item: Mapping[str, Any]) -> list[str]:
    """Keys called as conversations are, of texts of which every other one answers; none beside a question or answer."""
    said = [
        key
        for key, value in item.items()
        if name_weight(str(key), "conversations") > ORDINARY_WEIGHT and isinstance(value, list) and _take_turns(value)
    ]
    others = {key: value for key, value in item.items() if key not in said}
    is_about = any(("dialogue", normalise_name(str(key))) in BESIDE for key in others)
    return [] if is_about or _named(others, (*_ASKING, *_ANSWERING)) else said


def _take_turns(value: Items) -> bool:
    return len(value) > 0 and len(value) % 2 == 0 and all(isinstance(text, str) and text.strip() for text in value)


def _unfold_said(item: Mapping[str, Any]) -> dict[str, Any]:
    """{"dialog": ["Hi", "Hello"]} -> {"dialog": [{"role": "user", "content": "Hi"}, {"role": "assistant", ..}]}"""
    said = _said_in_turn(item)
    return {
        key: [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), value, strict=False)]
        if key in said
        else value
        for key, value in item.items()
    }


@dataclass(frozen=True, slots=True)
class _Form:
    """A well-known nesting of one row: whether an item has it, the item laid flat, and what that did to it."""

    matches: Callable[[Mapping[str, Any]], bool]
    unfold: Callable[[Mapping[str, Any]], dict[str, Any]]
    told: str


ITEM_FORMS: Mapping[str, _Form] = {
    "multiple choice": _Form(
        _is_multiple_choice, _unfold_choices, "choices went into the question, answers are their text"
    ),
    "dialogues of texts": _Form(
        lambda item: bool(_said_in_turn(item)), _unfold_said, "the first asks, and every other one is the answer"
    ),
    "conversations of ChatGPT": _Form(
        is_chatgpt, unfold_chatgpt, "of each the branch that was seen last, without tools, hidden messages and pictures"
    ),
}


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "an empty object"
    return {str: "one text", bool: "true or false", type(None): "null"}.get(type(value), "one number")
