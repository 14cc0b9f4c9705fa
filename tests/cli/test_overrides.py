"""Settings are taken out of the arguments: what goes where, and nothing is lost or invented."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.cli.overrides import split_overrides
from tunesmith.config import describe, load_config
from tunesmith.config.aliases import ALIASES
from tunesmith.errors import SettingsError

OWN = {"recipe": True, "config": True, "output_dir": True, "resume": True, "seed": True, "json": False}


@pytest.mark.parametrize(
    ("line", "rest", "overrides"),
    [
        ("a.xlsx", "a.xlsx", {}),
        ("a.xlsx --train.epochs 3", "a.xlsx", {"train.epochs": "3"}),
        ("--train.epochs=3 a.xlsx", "a.xlsx", {"train.epochs": "3"}),
        ("--model.path org/name a.xlsx --json", "a.xlsx --json", {"model.path": "org/name"}),
        ("--recipe nano --epochs 2", "--recipe nano", {"epochs": "2"}),
        ("--output_dir out --json", "--output-dir out --json", {}),
        ("--output-dir=out", "--output-dir=out", {}),
        # as the guides write them
        (
            "--dataset_path d.jsonl --batch_size 4 --epochs 3 --lora_r 8 --gradient_checkpointing",
            "",
            {
                "dataset_path": "d.jsonl",
                "batch_size": "4",
                "epochs": "3",
                "lora_r": "8",
                "gradient_checkpointing": "true",
            },
        ),
        ("--num-train-epochs 3 --lora-r 8", "", {"num_train_epochs": "3", "lora_r": "8"}),
        # true or false: a value only where one is written
        ("--gradient_checkpointing a.xlsx", "a.xlsx", {"gradient_checkpointing": "true"}),
        ("--gradient_checkpointing false a.xlsx", "a.xlsx", {"gradient_checkpointing": "false"}),
        ("--train.keep_best --train.epochs 1", "", {"train.keep_best": "true", "train.epochs": "1"}),
        ("--train.keep_best=no", "", {"train.keep_best": "no"}),
        ("--fp16 a.xlsx --use-lora 0", "a.xlsx", {"fp16": "true", "use_lora": "0"}),
        # values that look like something else
        ("--learning_rate -1", "", {"learning_rate": "-1"}),
        ("--prompt.system=--be-brief", "", {"prompt.system": "--be-brief"}),
        ("--prompt.system ''", "", {"prompt.system": ""}),
        ("--prompt.template 'Q: {question}=A: {answer}'", "", {"prompt.template": "Q: {question}=A: {answer}"}),
        ("- -5", "- -5", {}),
        # misspelt settings are for load_config to answer, with their value
        ("--train.epoch 3", "", {"train.epoch": "3"}),
        ("--epoch 3 a.xlsx", "a.xlsx", {"epoch": "3"}),
        ("--learning_rat=3", "", {"learning_rat": "3"}),
        # the last one wins, also under another name
        ("--lr 1 --lr 2", "", {"lr": "2"}),
        # everything after -- is the command's own
        ("run -- --train.epochs 3", "run -- --train.epochs 3", {}),
        # lists
        (
            "--pretrain.documents a.txt --pretrain.documents 'b c.txt'",
            "",
            {"pretrain.documents": '["a.txt", "b c.txt"]'},
        ),
        ("--generate.stop '[x, y]'", "", {"generate.stop": "[x, y]"}),
        ("--generate.stop '[x, y]' --generate.stop z", "", {"generate.stop": '["z"]'}),
        ("--generate.stop z --generate.stop '[x, y]'", "", {"generate.stop": "[x, y]"}),
        ("--data.columns.question Frage", "", {"data.columns.question": "Frage"}),
    ],
)
def test_what_goes_where(line: str, rest: str, overrides: dict[str, str]) -> None:
    assert split_overrides(shlex.split(line), OWN) == (shlex.split(rest), overrides)


def test_the_last_name_of_a_setting_wins() -> None:
    _, overrides = split_overrides(shlex.split("--lr 0.1 --learning_rate 0.2 --lr 0.3"), OWN)
    assert load_config(overrides=overrides).train.learning_rate == 0.3


@pytest.mark.parametrize(
    ("line", "problems"),
    [
        ("--train.epochs", ["--train.epochs needs a value"]),
        ("--model --json", ["--model needs a value"]),
        ("--recipie nano", ["there is no option --recipie, did you mean --recipe?"]),
        ("--output-dr x", ["there is no option --output-dr, did you mean --output-dir?"]),
        ("--lr --recipie nano", ["--lr needs a value", "there is no option --recipie, did you mean --recipe?"]),
    ],
)
def test_what_cannot_be_read_is_told_together(line: str, problems: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        split_overrides(shlex.split(line), OWN)
    assert list(caught.value.problems) == problems
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [("--epoch", "train.epochs"), ("--learning_rat", "learning_rate"), ("--train.epoch", "train.epochs")],
)
def test_a_misspelt_setting_is_answered_with_the_nearest(flag: str, nearest: str) -> None:
    _, overrides = split_overrides([flag, "3"], OWN)
    with pytest.raises(SettingsError, match=f"did you mean '.*{nearest}'"):
        load_config(overrides=overrides)


def test_every_alias_and_setting_is_taken() -> None:
    names = [*ALIASES, *(setting.name for setting in describe())]
    for name in names:
        if name in OWN:
            continue
        for spelling in (name, name.replace("_", "-")):
            rest, overrides = split_overrides(["a.xlsx", f"--{spelling}=1"], OWN)
            assert rest == ["a.xlsx"]
            assert list(overrides) == [name]


def test_every_flag_setting_needs_no_value() -> None:
    for setting in describe():
        if setting.is_flag:
            assert split_overrides([f"--{setting.name}", "a.xlsx"], OWN) == (["a.xlsx"], {setting.name: "true"})


SAFE = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)
PLAIN = SAFE.filter(lambda text: not text.startswith("--"))
NAMES = st.sampled_from([setting.name for setting in describe() if not setting.is_flag and setting.name not in OWN])


@settings(max_examples=200)
@given(st.lists(PLAIN))
def test_without_options_nothing_changes(tokens: list[str]) -> None:
    assert split_overrides(tokens, OWN) == (tokens, {})


@settings(max_examples=200)
@given(st.lists(SAFE, max_size=8))
def test_any_arguments_are_divided_or_refused(tokens: list[str]) -> None:
    try:
        rest, overrides = split_overrides(tokens, OWN)
    except SettingsError:
        return
    assert all(isinstance(value, str) for value in overrides.values())
    before = rest[: rest.index("--")] if "--" in rest else rest
    options = [token[2:].partition("=")[0].replace("-", "_") for token in before if token.startswith("--")]
    assert all(name in OWN for name in options)


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, PLAIN, st.booleans()), max_size=5), PLAIN)
def test_settings_come_out_as_they_went_in(pairs: list[tuple[str, str, bool]], file: str) -> None:
    tokens = [file]
    for name, value, joined in pairs:
        tokens += [f"--{name}={value}"] if joined else [f"--{name}", value]
    rest, overrides = split_overrides(tokens, OWN)
    assert rest == [file]
    lists = {setting.name for setting in describe() if setting.type.startswith("list of")}
    for name in {name for name, _, _ in pairs}:
        values = [value for other, value, _ in pairs if other == name]
        if name not in lists:
            assert overrides[name] == values[-1]
        elif not any(value.lstrip().startswith("[") for value in values):
            assert json.loads(overrides[name]) == values
