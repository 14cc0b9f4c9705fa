"""Settings: every source, every name, every problem together, and where each value came from."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tunesmith.config import MethodConfig, RunConfig, commented_yaml, describe, dump_config, load_config, recipe_paths
from tunesmith.config.aliases import ALIASES, NO_COUNTERPART, canonical
from tunesmith.errors import SettingsError


def problems(**sources: object) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_config(**sources)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_later_sources_win_and_origins_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  epochs: 7\n  batch_size: 3\n")
    config = load_config(recipe="quickstart", file=file, overrides={"train.batch_size": "9"})
    assert (config.train.epochs, config.train.batch_size) == (7, 9)
    assert config.origin("train.epochs") == f"{file}:2"
    assert config.origin("train.batch_size") == "flag"
    assert config.origin("train.gradient_accumulation_steps").startswith("recipe quickstart (")
    assert config.origin("seed") == "default"


def test_all_problems_at_once_with_place_nearest_and_range(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("train:\n  lerning_rate: 1e-4\n  epochs: -1\nmodel:\n  dtype: int3\n")
    found = problems(file=file, overrides={"train.bach_size": "4", "data.max_length": "2"})
    assert len(found) == 5
    text = "\n".join(found)
    assert f"{file}:2: unknown setting 'train.lerning_rate', did you mean 'train.learning_rate'?" in text
    assert f"{file}:3: train.epochs = -1" in text
    assert "allowed: number | null, > 0" in text
    assert "flag: unknown setting 'train.bach_size', did you mean 'train.batch_size'?" in text
    assert "allowed: auto | float32 | bfloat16 | float16" in text
    assert "data.max_length = 2" in text


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("epoch", "train.epochs"), ("learning_rat", "train.learning_rate"), ("lora_rnk", "lora_rank"), ("sed", "seed")],
)
def test_nearest_without_the_section(name: str, nearest: str) -> None:
    assert f"did you mean {nearest!r}?" in problems(overrides={name: 1})[0]


@pytest.mark.parametrize("name", ["logging-steps", "stage", "sample_packing"])
def test_a_name_without_counterpart_is_answered_instead_of_guessed_at(name: str) -> None:
    assert f"unknown setting {name!r}: {NO_COUNTERPART[name.replace('-', '_')]}" in problems(overrides={name: 1})[0]


def test_an_axolotl_file_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "axolotl.yml"
    file.write_text(
        "base_model: org/name\nadapter: qlora\nlora_r: 8\nsequence_len: 256\nmicro_batch_size: 2\n"
        "lr_scheduler: cosine\nval_set_size: 0.2\nnum_epochs: 2\n"
    )
    config = load_config(file=file)
    assert (config.method.name, config.method.r, config.data.max_length) == ("qlora", 8, 256)
    assert (config.train.batch_size, config.train.schedule, config.data.split.validation) == (2, "cosine", 0.2)
    assert (config.data.split.train, config.data.split.test) == (0.7, 0.1)  # what is left, and what no training sees


@pytest.mark.parametrize(
    ("text", "dtype", "quantize"),
    [
        ("bf16: true\nfp16: false\n", "bfloat16", "auto"),
        ("fp16: false\nbf16: true\n", "bfloat16", "auto"),
        ("bf16: true\nload_in_8bit: true\nload_in_4bit: false\n", "bfloat16", "int8"),
        ("model: {dtype: float32, quantize: nf4}\nfp16: false\nload-in-8bit: false\n", "float32", "nf4"),
        ("fp16: false\nload_in_4bit: false\n", "auto", "auto"),
    ],
)
def test_a_no_to_one_number_format_is_none_to_another(tmp_path: Path, text: str, dtype: str, quantize: str) -> None:
    file = tmp_path / "lora.yml"
    file.write_text(text)
    config = load_config(file=file)
    assert (config.model.dtype, config.model.quantize) == (dtype, quantize)
    assert load_config(file=file, overrides={"bf16": "false"}).model.dtype == dtype.replace("bfloat16", "auto")


@pytest.mark.parametrize("section", ["train", "data", "data:\n  split", "model", "method", "prompt"])
def test_a_section_of_comments_alone_sets_nothing(tmp_path: Path, section: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"seed: 7\n{section}:\n    # epochs: 3\n")
    assert load_config(file=file).model_dump() == RunConfig(seed=7).model_dump()
    file.write_text("data: {path: a.csv}\n")
    assert load_config(file=file, overrides={"data": "null"}).data.path is None  # here it is data.path


def test_a_key_that_is_there_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("train:\n  epochs: 3\nseed: 1\ntrain:\n  batch_size: 2\n")
    with pytest.raises(SettingsError, match="'train' is there twice, in lines 1 and 4"):
        load_config(file=file)
    file.write_text("train: {epochs: 3, epochs: 4}\n")
    with pytest.raises(SettingsError, match="'epochs' is there twice, in lines 1 and 1"):
        load_config(file=file)
    file = tmp_path / "a.json"
    file.write_text('{"train": {"epochs": 3}, "seed": 1, "train": {"batch_size": 2}}')
    with pytest.raises(SettingsError, match="'train' is there twice"):
        load_config(file=file)


@pytest.mark.parametrize("split", [{"validation": 0.5, "test": 0.6}, {"train": 0.8, "validation": 0.3}])
def test_shares_that_do_not_add_up_are_refused(split: dict[str, float]) -> None:
    found = problems(overrides={f"data.split.{name}": share for name, share in split.items()})
    assert "train + validation + test must be 1" in found[0]


def test_shares_are_assigned_one_by_one() -> None:
    split = RunConfig().data.split
    split.validation = 0.2
    assert (split.train, split.validation, split.test) == (0.7, 0.2, 0.1)
    split.test = 0
    assert split.train == 0.8
    split = load_config(overrides={"data.split.train": 0.8}).data.split  # what was set stays
    with pytest.raises(SettingsError, match=r"must be 1, found 1\.1"):
        split.validation = 0.2


def test_every_alias_leads_to_a_setting() -> None:
    names = {setting.name for setting in describe()}
    for alias in ALIASES:
        name = canonical(alias, "true")[0]
        assert name in names or name.rpartition(".")[0] in ("data.columns", "train.learning_rates"), alias


def test_names_of_hugging_face_scripts() -> None:
    config = load_config(
        overrides={
            "model_name": "gpt2",
            "train_file": "train.json",
            "validation_file": "valid.json",
            "use_lora": False,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 2e-4,
            "lora-r": 8,
            "bf16": True,
        }
    )
    assert (config.model.path, config.model.dtype, config.method.name) == ("gpt2", "bfloat16", "full")
    assert (config.data.path, config.data.validation_path) == ("train.json", "valid.json")
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate) == (3, 4, 2e-4)
    assert config.method == MethodConfig(name="full")  # the switch says that lora-r is not meant
    assert load_config(overrides={"use_lora": True, "lora-r": 8}).method == MethodConfig(name="lora", r=8)


def test_json_file_with_flat_names(tmp_path: Path) -> None:
    file = tmp_path / "finetune_config.json"
    file.write_text(
        json.dumps({"model": "Qwen/Qwen2.5-7B", "iters": 2000, "lora_rank": 96, "batch_size": 2}, indent="\t")
    )
    config = load_config(file=file)
    assert (config.train.max_steps, config.method.r, config.train.batch_size) == (2000, 96, 2)
    assert config.origin("train.max_steps") == f"{file}:3"


@pytest.mark.parametrize(
    ("content", "part"),
    [("{", "is not valid JSON"), ("[1, 2]", "holds a list"), ('{"nme": 1}', "unknown setting 'nme'")],
)
def test_bad_files(tmp_path: Path, content: str, part: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_config(file=file)
    assert part in str(caught.value)


def test_missing_file_and_unknown_recipe() -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings file nowhere\.yaml"):
        load_config(file="nowhere.yaml")
    with pytest.raises(SettingsError, match="no recipe 'quikstart', did you mean 'quickstart'"):
        load_config(recipe="quikstart")


@pytest.mark.parametrize("recipe", sorted(recipe_paths()))
def test_recipes_that_ship_are_valid_and_described(recipe: str) -> None:
    load_config(recipe=recipe)
    assert yaml.safe_load(recipe_paths()[recipe].read_text())["description"]


def test_stored_settings_come_back_with_their_origins(tmp_path: Path) -> None:
    config = load_config(overrides={"epochs": 2, "data.columns.question": "Frage"})
    config = config.resolved("train.learning_rate", 1e-3, "small model")
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    again = load_config(stored=path, overrides={"seed": "7"})
    assert again.model_dump() == {**config.model_dump(), "seed": 7}
    assert again.origins == {**config.origins, "seed": "flag"}
    assert again.origin("train.learning_rate") == "detected: small model"


def test_an_older_run_goes_on_without_what_was_not_there(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    content = yaml.safe_load(dump_config(load_config()))
    for native in ("auto", "on", "off"):
        content["train"]["native"] = native
        path.write_text(yaml.safe_dump(content))
        assert load_config(stored=path).train.native == native
    del content["train"]["native"]
    path.write_text(yaml.safe_dump(content))
    old = load_config(stored=path)
    assert (old.train.native, old.origin("train.native")) == ("off", "detected: the run is older than this setting")
    assert load_config(stored=path, overrides={"train.native": "on"}).train.native == "on"
    assert load_config(file=path).train.native == "auto"  # a new run with its settings


@pytest.mark.parametrize("text", ["1e-4", "7e12", "08", "010", "no", "null", "2024-01-31", "~", "1:30", "=", "é: - #"])
def test_stored_text_comes_back_as_text(tmp_path: Path, text: str) -> None:
    config = RunConfig()
    config.model.revision = text
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(stored=tmp_path / "config.yaml").model.revision == text
    assert yaml.safe_load(dump_config(config))["model"]["revision"] == text  # which other programs use


def test_entries_of_a_mapping_add_up_and_change_nothing_of_the_callers() -> None:
    given = {"question": "Frage"}
    config = load_config(overrides={"data.columns": given, "data.columns.answer": "Antwort"})
    assert config.data.columns == {"question": "Frage", "answer": "Antwort"}
    assert given == {"question": "Frage"}
    assert "data.columns = 'x'" in problems(overrides={"data.columns": "x", "data.columns.answer": "Antwort"})[0]


def test_the_commented_file_holds_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "tunesmith.yaml"
    path.write_text(commented_yaml())
    assert load_config(file=path).model_dump() == RunConfig().model_dump()
    assert all(setting.sentence in commented_yaml() for setting in describe())


@pytest.mark.parametrize("name", ["pretrain.documents", "pretrain.qa", "eval.suites", "generate.stop"])
def test_one_text_is_a_list_of_one(tmp_path: Path, name: str) -> None:
    section, leaf = name.split(".")
    file = tmp_path / "settings.yaml"
    file.write_text(f"{section}:\n  {leaf}: one, two.txt\n")
    config = load_config(file=file)
    assert getattr(getattr(config, section), leaf) == ["one, two.txt"]
    setattr(getattr(config, section), leaf, "three")
    assert getattr(getattr(config, section), leaf) == ["three"]
    with pytest.raises(SettingsError, match=r"= 3"):
        load_config(overrides={name: 3})


def test_text_stays_text() -> None:
    config = load_config(overrides={"data.sheet": "2024-01-31", "name": "007", "data.columns": "{question: no}"})
    assert load_config(overrides={"data.columns.answer": "2024"}).data.columns == {"answer": "2024"}
    assert (config.data.sheet, config.name) == ("2024-01-31", "007")


def test_digits_behind_a_zero_are_no_octal_number(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("seed: 010\nname: 007\ndata: {sheet: 08}\ntrain: {warmup_ratio: 00.5}\n")
    config = load_config(file=file, overrides={"train.max_steps": "08"})
    assert (config.seed, config.name, config.data.sheet) == (10, "007", "08")
    assert (config.train.warmup_ratio, config.train.max_steps) == (0.5, 8)


@given(value=st.integers(1, 10**6))
def test_numbers_from_flags_are_numbers(value: int) -> None:
    assert load_config(overrides={"train.max_steps": str(value)}).train.max_steps == value


@given(
    name=st.sampled_from([*(setting.name for setting in describe()), *ALIASES]),
    text=st.text(min_size=1, max_size=30) | st.text("0123456789.-+eE_:[]{}~", min_size=1, max_size=9),
)
@example("seed", "08")
@example("seed", "9" * 5000)
@example("data.sets", "[" * 5000)
def test_any_flag_text_is_taken_or_refused_with_a_settings_error(name: str, text: str) -> None:
    with suppress(SettingsError):
        assert load_config(overrides={name: text}).origins


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("method.name", "lroa", "no such choice, did you mean 'lora'?"),
        ("model.dtype", "bf16", "no such choice, did you mean 'bfloat16'?"),
        ("model.dtype", "int4", "no such choice (allowed: auto"),
        ("name", "a/b", "takes letters, digits"),
    ],
)
def test_a_wrong_choice_is_answered_with_the_nearest(name: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_config(overrides={name: value})
    assert words in str(caught.value)
    assert "Input should" not in str(caught.value)


@pytest.mark.parametrize("name", ["export.quantize", "quantization_method", "outtype"])
@pytest.mark.parametrize("value", ["q8_0,Q4_K_M", ["Q8_0", "q4_k_m"], "[q8_0, q4_k_m]"])
def test_types_are_written_in_any_way(name: str, value: object) -> None:
    assert load_config(overrides={name: value}).export.quantize == ["q8_0", "q4_k_m"]
    with pytest.raises(SettingsError, match="quantize = 4"):
        load_config(overrides={name: 4})
