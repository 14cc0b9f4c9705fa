"""recipes, settings, init, runs, and what all commands print with."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from tunesmith.cli.scores import answers_side_by_side, comparison_table
from tunesmith.cli.terminal import (
    count_text,
    hanging,
    plain,
    seconds_text,
    shell,
    shorten,
    show_json,
)
from tunesmith.config import METHODS, describe, load_config, recipe_paths


def drawn(renderable, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return out.getvalue()


def test_recipes_are_listed_and_shown(cli) -> None:
    listed = cli("recipes").out
    assert all(name in listed for name in recipe_paths())
    document = json.loads(cli("recipes", "--json").out)
    assert {recipe["name"]: recipe["command"] for recipe in document["recipes"]}["nano"] == "pretrain"
    text = cli("recipes", "quickstart").out
    assert yaml.safe_load(text) == yaml.safe_load(recipe_paths()["quickstart"].read_text(encoding="utf-8"))
    shown = json.loads(cli("recipes", "quickstart", "--json").out)
    assert shown["settings"]["model"] == {"path": "builtin:nano"}


def test_a_recipe_of_ones_own_can_be_shown(cli, home: Path) -> None:
    text = "description: mine\ntrain: {epochs: 2, learning_rate: 1e-4}\n"
    (home / "own.yaml").write_text(text, encoding="utf-8")
    shown = json.loads(cli("recipes", "own.yaml", "--json").out)
    assert shown["description"] == "mine"
    assert shown["settings"] == {"train": {"epochs": 2, "learning_rate": 1e-4}}


@pytest.mark.parametrize("columns", ["60", "200"])
def test_settings_are_all_listed_whatever_the_width(columns: str, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = cli("settings").out
    for setting in describe():
        assert setting.name in out
    assert max(map(len, out.splitlines()[:-1])) <= int(columns)


def test_settings_of_a_section(cli) -> None:
    names = [entry["name"] for entry in json.loads(cli("settings", "data", "--json").out)["settings"]]
    assert names == [setting.name for setting in describe() if setting.name.startswith("data.")]
    run = json.loads(cli("settings", "run", "--json").out)["settings"]
    assert [entry["name"] for entry in run] == ["name", "output_dir", "seed"]
    (one,) = json.loads(cli("settings", "train.batch_size", "--json").out)["settings"]
    assert set(one) == {"name", "type", "default", "unit", "sentence", "allowed"}
    assert one["default"] == 4


def test_methods_are_those_of_the_table(cli) -> None:
    found = json.loads(cli("methods", "--json").out)["methods"]
    assert [entry["name"] for entry in found] == list(METHODS)
    assert {entry["name"]: entry["gguf"] for entry in found}["dora"] == "whole"
    assert {entry["name"]: entry["reads"] for entry in found}["prompt"] == ["num_virtual_tokens", "init_text"]
    out = cli("methods").out
    assert all(f"\n{name} " in out for name in METHODS)
    (ia3,) = (line for line in out.splitlines() if line.startswith("ia3 "))
    assert "0.005" in ia3


def test_layers_that_are_alike_are_shown_once(cli, api) -> None:
    out = cli("layers", "org/name", "--method.r", "8", "--method.layers", "0-1,3").out
    config = api.calls[-1][1]["config"]
    assert (config.model.path, config.method.r, config.method.layers) == ("org/name", 8, "0-1,3")
    titles = [line for line in out.splitlines() if line.startswith(("block", "outside"))]
    assert titles == ["outside the blocks", "blocks 0-1, each:", "block 2", "block 3"]
    assert out.count("*  self_attn.q_proj") == 2
    assert "lora, rank 16: 768 in all" in out
    document = json.loads(cli("layers", "--json").out)
    assert [layer["block"] for layer in document["layers"]] == [None, 0, 1, 2, 3]
    assert (document["parameters"], document["chosen_parameters"]) == (768, 768)


def test_init_writes_the_defaults_once(cli, home: Path) -> None:
    assert cli("init", "own.yaml").code == 0
    assert load_config(file=home / "own.yaml").model_dump() == load_config().model_dump()
    (home / "own.yaml").write_text("train: {epochs: 1}\n", encoding="utf-8")
    refused = cli("init", "own.yaml")
    assert (refused.code, refused.out) == (2, "")
    assert "own.yaml exists already" in refused.err
    assert "epochs: 1" in (home / "own.yaml").read_text(encoding="utf-8")
    assert cli("init", "own.yaml", "--force").code == 0
    assert "epochs: null" in (home / "own.yaml").read_text(encoding="utf-8")
    (home / "folder").mkdir()
    assert cli("init", "folder").code == 2


def test_init_has_a_default_name(cli, home: Path) -> None:
    assert "tunesmith.yaml" in cli("init").out
    assert (home / "tunesmith.yaml").is_file()


def test_runs_are_listed_with_damaged_ones(cli, api, home: Path) -> None:
    empty = cli("runs")
    assert (empty.code, empty.out) == (0, "")
    assert "there are no runs" in empty.err
    api.make_run(load_config(overrides={"name": "one"}), status="stopped")
    api.make_run(load_config(overrides={"name": "two", "method": "full"}))
    (home / "runs" / "two" / "manifest.json").write_text("{", encoding="utf-8")
    outcome = cli("runs")
    assert [line.split()[:2] for line in outcome.out.splitlines()[2:]] == [["one", "stopped"], ["two", "damaged"]]
    assert "two: cannot read the manifest" in outcome.err
    listed = json.loads(cli("runs", "--json").out)["runs"]
    assert [(run["name"], run["path"], run["status"]) for run in listed] == [
        ("one", "runs/one", "stopped"),
        ("two", "runs/two", "damaged"),
    ]


def test_long_names_of_runs_are_not_cut(cli, api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model = "/a/very/long/path/to/a/model/that/does/not/fit/into/any/column"
    api.make_run(load_config(overrides={"name": "x" * 50, "model": model}))
    out = cli("runs").out
    assert "".join(line.split("finished")[0].split("  ")[0].strip() for line in out.splitlines()[2:]).startswith(
        "x" * 50
    )
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


# --- terminal


def change(title: str, base: float, tuned: float, verdict: str = "no evidence") -> SimpleNamespace:
    ends = {"low": tuned - base - 0.125, "high": tuned - base + 0.125}
    is_share = title not in ("perplexity", "log loss")
    return SimpleNamespace(
        title=title, is_share=is_share, base=base, tuned=tuned, change=tuned - base, verdict=verdict, **ends
    )


def test_the_table_shows_scores_out_of_100_and_the_verdict_it_is_given() -> None:
    changes = [
        change("perplexity", 10.0, 12.0, "worse"),
        change("exact match", 0.5, 0.25, "worse"),
        change("BLEU", 0.25, 0.5, "better"),
        change("token F1", 0.5, 0.5),
        change("ROUGE-L", 0.1, math.nan),
    ]
    lines = [line.split() for line in drawn(comparison_table(changes, rows=3)).splitlines()]
    assert ["ROUGE-L", "10.0", "n/a", "n/a", "n/a", "to", "n/a", "no", "evidence"] in lines
    assert ["perplexity", "10.00", "12.00", "+2.00", "+1.88", "to", "+2.12", "worse"] in lines
    assert ["exact", "match", "50.0", "25.0", "-25.0", "-37.5", "to", "-12.5", "worse"] in lines
    assert ["BLEU", "25.0", "50.0", "+25.0", "+12.5", "to", "+37.5", "better"] in lines
    assert ["token", "F1", "50.0", "50.0", "+0.0", "-12.5", "to", "+12.5", "no", "evidence"] in lines
    infinite = drawn(comparison_table([change("perplexity", math.inf, 123456.0, "better")], rows=1))
    assert ["perplexity", "inf", "123,456", "-inf", "-inf", "to", "-inf", "better"] in [
        line.split() for line in infinite.splitlines()
    ]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_answers_fit_the_window(width: int) -> None:
    base = {"row": 4, "sheet": None, "question": "Why [bold]not[/]? " * 30, "reference": "x" * 500, "prediction": ""}
    tuned = {**base, "prediction": "\x1b[31mred\nand green " * 60}
    text = drawn(answers_side_by_side([(base, tuned)] * 3), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("base") == 3
    assert "(nothing)" in text
    assert "[bold]not[/]" in text
    assert "\x1b" not in text


def test_answers_in_a_chat_come_after_what_was_said() -> None:
    turns = [
        {"role": "user", "content": "How?\nSay"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Why?"},
    ]
    row = {"row": 4, "sheet": None, "question": "Why?", "conversation": turns, "reference": "x", "prediction": "y"}
    lines = [line.rstrip() for line in drawn(answers_side_by_side([(row, row)]), 80).splitlines()]
    assert lines[:3] == ["user: How? Say", "assistant: So.", "Why?  (row 4)"]


def test_long_lines_hang_below_their_text() -> None:
    lines = drawn(hanging("data     " + "word " * 30 + "\n         next"), 40).splitlines()
    assert lines[0].startswith("data     word")
    assert all(line.startswith("         word") for line in lines[1:-1])
    assert lines[-1].rstrip() == "         next"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.44, "9.4 s"),
        (59.96, "1 min 00 s"),
        (80, "1 min 20 s"),
        (3599.9, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(950, "950"), (999.6, "1 k"), (12_345, "12.3 k"), (999_999, "1 M"), (2.7e9, "2.7 B")]
)
def test_counts(count: float, text: str) -> None:
    assert count_text(count) == text


def test_small_helpers() -> None:
    assert plain("a\x1b[0m\x07b\tc\r\nd\x9b") == "a␛[0m␇b\tc\nd�"
    assert shorten("how do I reset it", 12) == "how do I ..."
    assert shorten("x" * 20, 10) == "xxxxxxx..."
    assert shell("ask", "Who is it?", "it's", "$HOME") == 'ask "Who is it?" "it\'s" \'$HOME\''


def test_json_holds_what_json_can(capsys) -> None:
    show_json({"a": math.nan, "b": [math.inf, 1.5], "c": Path("x/y"), "d": {"e": (1, "é")}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": "x/y", "d": {"e": [1, "é"]}}


def test_json_is_ascii_where_the_stream_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    show_json({"a": "é\u2028"})
    stream.seek(0)
    assert json.loads(stream.read()) == {"a": "é\u2028"}
