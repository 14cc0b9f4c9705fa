"""Checks of answers: JSON schemas without a network, and what is wrong with a check is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import EvalConfig, load_config
from tunesmith.errors import DataError, ResourceError, SettingsError
from tunesmith.evaluate.checks import CHECKS, build_check
from tunesmith.evaluate.evaluators import EVALUATORS
from tunesmith.evaluate.material import Rows, Tools

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def test_every_check_is_a_score_of_all_rows() -> None:
    assert {name for name, evaluator in EVALUATORS.items() if evaluator.setting == "eval.checks"} == set(CHECKS)


@pytest.mark.parametrize(
    ("name", "wanted", "share"),
    [
        ("contains", ["red", "blue"], 2 / 4),
        ("equals", "the red one", 1 / 4),
        ("regex", r"^\w+ \d$", 1 / 4),
        ("number", 7, 1 / 4),
    ],
)
def test_the_score_is_the_share_of_answers_that_pass(name: str, wanted: Any, share: float) -> None:
    answers = ["Red one!", "blue", "seven 7", ""]
    rows = Rows(predictions=answers, tools=Tools.of(EvalConfig(checks={name: wanted})))
    assert EVALUATORS[name].measure(rows).value == pytest.approx(share)


@pytest.mark.parametrize(
    ("answer", "is_valid"),
    [
        ('{"name": "Ann", "age": 3}', True),
        (' \n{"name": "Ann"}\n', True),
        ('{"name": "Ann", "age": -1}', False),
        ('{"age": 3}', False),
        ('{"name": "Ann", "x": 1}', False),
        ("[]", False),
        ('```json\n{"name": "Ann"}\n```', False),
        ('{"name": "Ann"} and so on', False),
        ('{"name": "Ann", "age": NaN}', False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_json_by_a_schema(answer: str, is_valid: bool, tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    path = tmp_path / "person.json"
    path.write_text(json.dumps(SCHEMA))
    assert build_check("json_schema", SCHEMA)(answer) is is_valid
    assert build_check("json_schema", str(path))(answer) is is_valid


def test_a_schema_is_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jsonschema")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    passes = build_check("json_schema", {"$ref": "http://127.0.0.1:9/person.json"})
    with pytest.raises(DataError, match="names what is not in it"):
        passes("{}")


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("regx", "a", "unknown check regx, did you mean 'regex'?"),
        ("regex", "(", "is no regular expression"),
        ("regex", None, "regex needs a text, found None"),
        ("regex", ["a"], "regex needs a text"),
        ("contains", [], "contains needs a text"),
        ("number", "7", "number needs a number"),
        ("equals", [1], "equals needs a text"),
        ("json_schema", 7, "json_schema needs a schema or the path of one"),
        ("json_schema", "/nowhere.json", "json_schema '/nowhere.json' cannot be read"),
    ],
)
def test_what_is_wrong_with_a_check_is_told(name: str, wanted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?").replace("(", r"\(")):
        build_check(name, wanted)


def test_a_schema_that_is_none_is_told() -> None:
    pytest.importorskip("jsonschema")
    with pytest.raises(ValueError, match="is no JSON schema: 'strin' is not valid"):
        build_check("json_schema", {"type": "strin"})


def test_wrong_checks_of_the_settings_are_told_before_anything_is_asked() -> None:
    with pytest.raises(SettingsError, match=r"eval\.checks: unknown check regx, did you mean 'regex'"):
        Tools.of(EvalConfig(checks={"regx": "a"}))
    found = load_config(overrides={"eval.checks.regex": "^a", "eval.checks.contains": ["a", "b"]}).eval
    assert found.checks == {"regex": "^a", "contains": ["a", "b"]}


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("tunesmith.optional.importlib.import_module", missing)
    with pytest.raises(ResourceError) as caught:
        build_check("json_schema", SCHEMA)
    assert caught.value.fix == 'pip install "tunesmith[schema]"'
