"""train, pretrain and quickstart: what they hand to the api, what they show before, during and after."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import yaml

from tunesmith.cli.quickstart import sample_workbook
from tunesmith.config import load_config, recipe_paths
from tunesmith.errors import ResourceError


def last_config(api):
    return api.calls[-1][1]["config"]


def test_train_hands_over_every_kind_of_setting(cli, api, home: Path) -> None:
    (home / "mine.yaml").write_text("train: {batch_size: 2, epochs: 9}\nprompt: {template: qa}\n", encoding="utf-8")
    arguments = (
        "train faq.xlsx --recipe quickstart --config mine.yaml --epochs 3 --model org/name --seed 7 --name first"
    )
    assert cli(*arguments.split(), "--method", "full", "--output_dir", "out").code == 0
    config = last_config(api)
    assert (config.data.path, config.model.path, config.method.name) == ("faq.xlsx", "org/name", "full")
    assert (config.seed, config.name, config.output_dir) == (7, "first", "out")
    assert (config.train.epochs, config.train.batch_size, config.prompt.template) == (3, 2, "qa")
    assert config.train.early_stopping_patience is None  # the recipe's, which neither file nor flag changes
    assert config.origin("train.epochs") == "flag"


def test_train_as_the_guides_write_it(cli, api) -> None:
    line = "train --output_dir ./output/my_model --dataset_path d.jsonl --batch_size 4 --epochs 20"
    assert cli(*line.split(), "--gradient_checkpointing").code == 0
    config = last_config(api)
    assert (config.data.path, config.output_dir) == ("d.jsonl", "./output/my_model")
    assert (config.train.batch_size, config.train.epochs, config.train.gradient_checkpointing) == (4, 20, True)


def test_several_files_are_data_sets(cli, api, home: Path) -> None:
    answer = cli("train", "faq.xlsx", "d.jsonl", "--data.temperature", "2", "--method", "full")
    assert answer.code == 0
    config = last_config(api)
    assert (config.data.path, config.data.files, config.data.temperature) == (None, ["faq.xlsx", "d.jsonl"], 2.0)
    assert "task faq  40 rows, 60 seen (1.5 passes): 50.0% of all that is seen" in answer.err
    assert "order" not in answer.err.split("plan")[1].split("settings")[0]
    answer = cli("train", "faq.xlsx", "missing.csv")
    assert (answer.code, "missing.csv" in answer.err) == (3, True)
    answer = cli("train", "faq.xlsx", "d.jsonl", "--data.path", "faq.jsonl")
    assert (answer.code, "data.path is faq.jsonl" in answer.err) == (2, True)
    answer = cli("train", "faq.xlsx", "mine.yaml")
    assert (answer.code, "mine.yaml holds settings, not examples" in answer.err) == (2, True)


def test_a_curriculum_is_told_before_it_starts(cli, api) -> None:
    options = "--train.order curriculum --train.curriculum_by length --train.curriculum_pacing root"
    more = "--train.curriculum_start 0.2 --train.curriculum_until 0.5"
    messages = cli("train", "faq.xlsx", *options.split(), *more.split()).err
    assert "curriculum by length, pacing root: from the easiest 20% of the rows to all at 50% of the run" in messages


def test_train_shows_data_plan_and_origins_before_it_starts(cli, api) -> None:
    messages = cli(
        "train", "faq.xlsx", "--recipe", "quickstart", "--method", "lora", "--lora_r", "32", "--epochs", "3"
    ).err
    for text in (
        "6 rows read, 6 kept",
        "builtin:nano, 50 k parameters",
        "lora, rank 32, alpha 32: 1 k of them are trained (2.00%)",
        "20 of 8 x 2 rows each (3 epochs)",
        "; on cpu",
        "train.epochs                       3.0  flag",
        "train.batch_size                   8  recipe quickstart",
        "warning: the template is odd; take another",
        "200.0 MB of weights, 600.0 MB to train them, and activations; 300.0 MB are free: too little",
    ):
        assert text in messages
    assert messages.index("plan") < messages.index("step")


@pytest.mark.parametrize(
    ("flags", "ways"),
    [
        ("--method full", "--method lora, or a smaller model, or --train.optimizer adamw_8bit"),
        ("--method lora", "a lower --method.r, or a smaller model, or --train.optimizer adamw_8bit"),
        ("--method ia3 --train.optimizer adamw_8bit", "a smaller model"),
    ],
)
def test_what_would_take_less_memory_is_not_what_the_run_does_already(cli, api, flags: str, ways: str) -> None:
    messages = " ".join(cli("train", "faq.xlsx", *flags.split()).err.split())
    assert f"300.0 MB are free: too little, take {ways} data " in messages


def test_train_says_why_it_chose_method_and_passes(cli, api) -> None:
    messages = cli("train", "faq.xlsx").err
    assert "full: 1 k of them are trained (2.00%); 50K parameters are cheap to train whole\n" in messages
    assert "20 of 4 x 4 rows each (18 passes: 4 rows, small model)\n" in messages


def test_train_ends_with_files_and_next_commands_on_standard_output(cli, api) -> None:
    lines = cli("train", "faq.xlsx").out.splitlines()
    assert lines[0] == "faq: 20 steps in 1 min 15 s; best validation loss 1.2500 at step 15"
    assert any(line.split() == ["model", "runs/faq/model/"] for line in lines)
    assert [line.split("  ")[1].strip() for line in lines[lines.index("next") + 1 :]] == [
        "tunesmith eval faq",
        'tunesmith ask faq "your question"',
        "tunesmith chat faq",
    ]


def test_a_run_without_test_rows_is_not_sent_to_eval(cli, api, monkeypatch) -> None:
    make = api.make_run
    monkeypatch.setattr(api, "make_run", lambda config: make(config, data={"split": {"train": 1, "test": 0}}))
    assert "tunesmith eval" not in cli("train", "faq.xlsx").out


def test_next_commands_name_a_run_elsewhere_by_its_folder(cli, api) -> None:
    out = cli("train", "faq.xlsx", "--output-dir", "some where/else").out
    assert 'tunesmith eval "some where/else"' in out


def test_train_json_is_the_summary(cli, api) -> None:
    assert json.loads(cli("train", "faq.xlsx", "--json").out) == {
        "schema_version": 1,
        "run": "runs/faq",
        "steps": 20,
        "best_validation_loss": 1.25,
        "seconds": 75.0,
    }


def steps_shown(messages: str) -> list[int]:
    lines = [line for line in messages.splitlines() if line.startswith("step")]
    return [int(line.removeprefix("step").split("/")[0]) for line in lines]


def test_progress_in_a_pipe_is_a_line_at_every_validation(cli, api, make_events) -> None:
    api.events = make_events(20, validate_every=5)
    messages = cli("train", "faq.xlsx").err
    lines = [line for line in messages.splitlines() if line.startswith("step")]
    validated = [line for line in lines if "validation" in line]
    assert steps_shown("\n".join(validated)) == [5, 10, 15, 20]
    assert validated[0].startswith("step  5/20  loss 2.0000  validation 4.0000  1.23 k tokens/s")
    assert steps_shown(messages) == sorted(set(steps_shown(messages)))  # no step twice


@pytest.mark.parametrize(
    ("total", "expected"),
    [(100, [2, *range(10, 101, 10)]), (3, [1, 2, 3]), (25, [2, 3, 6, 9, 12, 15, 18, 21, 24, 25])],
)
def test_progress_in_a_pipe_without_validation_is_about_ten_lines(total, expected, cli, api, make_events) -> None:
    api.events = make_events(total)
    assert steps_shown(cli("train", "faq.xlsx").err) == expected


def test_commands_work_where_tunesmith_was_started_by_its_path(cli, api, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", [".venv/bin/tunesmith", "train"])
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    assert "source .venv/bin/activate" in cli("train", "faq.xlsx").out
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "tunesmith").touch(mode=0o755)
    assert "activate" not in cli("train", "faq.xlsx").out


def test_progress_of_a_resumed_run_counts_from_where_it_resumes(cli, api, make_events) -> None:
    api.events = make_events(100, first=55)
    assert steps_shown(cli("train", "faq.xlsx").err) == [57, 65, 75, 85, 95, 100]


def test_early_stopping_and_resuming_are_said(cli, api, make_events) -> None:
    api.events = make_events(20, first=4, stop_early_at=9)
    messages = cli("train", "faq.xlsx").err
    assert "resumed after step 4 of 20" in messages
    assert "stopped early after step 9 of 20: the validation loss has not improved since step 3 (0.5000)" in messages


def test_resume_continues_with_the_settings_of_the_run(cli, api) -> None:
    config = load_config(overrides={"name": "half", "data.path": "faq.xlsx", "train.epochs": 9})
    run = api.make_run(config, status="stopped")
    assert cli("train", "--resume", "half", "--train.save_steps", "7").code == 0
    verb, arguments = api.calls[-1]
    assert (verb, arguments["resume"]) == ("train", "half")
    assert (arguments["config"].train.epochs, arguments["config"].train.save_steps) == (9, 7)
    assert run.manifest["status"] == "finished"


def test_resuming_a_finished_run_says_so_and_trains_nothing(cli, api) -> None:
    api.make_run(load_config(overrides={"name": "done", "data.path": "faq.xlsx"}))
    outcome = cli("train", "--resume", "done")
    assert outcome.code == 0
    assert "runs/done is already complete" in outcome.err
    assert "done: 20 steps" in outcome.out
    assert api.calls == []


@pytest.mark.parametrize(
    "option", [["--recipe", "nano"], ["--config", "x.yaml"], ["--name", "x"], ["--output-dir", "x"]]
)
def test_resume_refuses_what_only_a_new_run_takes(option: list[str], cli, api) -> None:
    api.make_run(load_config(overrides={"name": "half"}), status="stopped")
    outcome = cli("train", "--resume", "half", *option)
    assert (outcome.code, api.calls) == (2, [])
    assert f"--resume does not go with {option[0]}" in outcome.err


def test_resume_names_the_command_that_made_the_run(cli, api) -> None:
    api.make_run(load_config(overrides={"name": "base"}), kind="pretrain", status="stopped")
    outcome = cli("train", "--resume", "base")
    assert outcome.code == 2
    assert "fix:   tunesmith pretrain --resume base" in outcome.err


def test_pretrain_takes_texts_or_a_file_of_settings(cli, api, home: Path) -> None:
    assert cli("pretrain", "books/b*.txt", "more.jsonl.gz", "--pretrain.layers", "2").code == 0
    config = last_config(api)
    assert config.pretrain.documents == ["books/b*.txt", "more.jsonl.gz"]
    assert config.pretrain.layers == 2
    (home / "small.yaml").write_text("name: small\npretrain: {documents: [a.txt], layers: 3}\n", encoding="utf-8")
    assert cli("pretrain", "small.yaml").code == 0
    assert (last_config(api).name, last_config(api).pretrain.layers) == ("small", 3)


def test_pretrain_json_and_text_tell_bits_per_byte(cli, api) -> None:
    document = json.loads(cli("pretrain", "a.txt", "--json").out)
    assert (document["run"], document["bits_per_byte"], document["steps"]) == ("runs/a", 1.5, 20)
    outcome = cli("pretrain", "b.txt")
    assert "texts: 1 to train on, 1 held out to measure on; 1 questions with answers; 12 k tokens" in outcome.err
    assert "20 of 4 x 4 rows each (1 pass: pre-training reads every text once)" in outcome.err
    assert "take a smaller model, or --train.optimizer adamw_8bit" in " ".join(outcome.err.split())  # no adapters
    assert "measuring" not in outcome.err
    assert "note: its last 9 of 900 characters are held out" in outcome.err
    assert "measuring builtin:nano on the held-out" in cli("pretrain", "c.txt", "--pretrain.base", "builtin:nano").err
    out = outcome.out
    assert "1.5000 bits per byte on 2000 bytes" in out
    assert "tunesmith train data.xlsx --model runs/b/model" in out


@pytest.mark.parametrize(("before", "is_told"), [(None, False), (1.6, False), (1.5, True), (1.4, True)])
def test_pretrain_tells_when_a_base_has_not_become_better(cli, api, before: float | None, is_told: bool) -> None:
    api.bits_before = before
    assert ("it has not become better" in cli("pretrain", "a.txt").out) == is_told


def test_quickstart_is_training_and_measuring_on_the_sample(cli, api) -> None:
    outcome = cli("quickstart", "--train.max_steps", "3")
    assert outcome.code == 0
    assert [verb for verb, _ in api.calls] == ["train", "evaluate"]
    config = api.calls[0][1]["config"]
    assert config.data.path.endswith("presscrafters_faq.xlsx")
    assert (config.name, config.model.path, config.train.max_steps) == ("quickstart", "builtin:nano", 3)
    assert api.calls[1][1]["reference"] == "runs/quickstart"
    said = outcome.err.splitlines()[1]
    assert said.startswith("  tunesmith train ")
    assert said.endswith("presscrafters_faq.xlsx --recipe quickstart --name quickstart --train.max_steps 3")
    for text in (
        "perplexity",
        "base",
        "tuned",
        'tunesmith ask quickstart "Who?"',
        "tunesmith chat quickstart",
        "runs/quickstart/model/",
    ):
        assert text in outcome.out


def test_quickstart_leaves_an_earlier_one_alone(cli, api) -> None:
    cli("quickstart")
    assert cli("quickstart").code == 0
    assert [call["config"].name for verb, call in api.calls if verb == "train"] == ["quickstart", "quickstart-2"]


def test_the_sample_is_found_and_its_absence_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample_workbook().is_file()
    monkeypatch.setattr("tunesmith.cli.quickstart.SAMPLE", "none.xlsx")
    with pytest.raises(ResourceError, match=r"none\.xlsx is not installed"):
        sample_workbook()


def test_the_fake_api_takes_what_the_real_one_takes(api) -> None:
    import importlib
    import sys

    fake = sys.modules.pop("tunesmith.api")
    real = importlib.import_module("tunesmith.api")
    try:
        for verb in (
            "check_data_file",
            "check_texts",
            "inspect",
            "preview",
            "train",
            "pretrain",
            "evaluate",
            "open_session",
        ):
            theirs = inspect.signature(getattr(real, verb)).parameters
            ours = inspect.signature(getattr(fake, verb)).parameters
            assert list(ours) == list(theirs), verb
    finally:
        sys.modules["tunesmith.api"] = fake


@pytest.mark.parametrize("name", recipe_paths())
def test_every_recipe_fits_the_settings_and_says_what_it_is(name: str) -> None:
    load_config(recipe=name)
    content = yaml.safe_load(recipe_paths()[name].read_text(encoding="utf-8"))
    assert len(content["description"].split()) > 5


def test_phi2_recipe_is_the_guides_configuration() -> None:
    config = load_config(recipe="phi2-qa")
    train, method, data = config.train, config.method, config.data
    assert (config.model.path, config.model.dtype, config.prompt.template) == ("microsoft/phi-2", "float16", "qa")
    assert (train.learning_rate, train.batch_size, train.gradient_accumulation_steps) == (2e-4, 4, 4)
    assert (train.epochs, train.warmup_steps, train.weight_decay, train.schedule) == (5, 100, 0.01, "linear")
    assert (train.eval_steps, train.save_steps, train.early_stopping_patience is None) == (50, 50, False)
    assert (method.name, method.r, method.alpha, method.dropout) == ("lora", 16, 32, 0.05)
    assert (data.max_length, data.split.train, data.split.validation, data.split.test) == (512, 0.9, 0.1, 0)
