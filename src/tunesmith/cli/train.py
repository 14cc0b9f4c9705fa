"""`tunesmith train`: fine-tune on a file, or continue a run."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import NO_PLACE, NO_SOURCES, Json, Overrides, Place, Sources, given
from tunesmith.errors import SettingsError

if TYPE_CHECKING:
    from tunesmith.config import DataConfig, RunConfig
    from tunesmith.runs import Run

SETTINGS_FILES = (".yaml", ".yml")


Files = Annotated[
    str, Parameter(help="Examples: xlsx, xls, ods, csv, tsv, json, jsonl, parquet, txt; several are mixed.")
]


def train(
    *files: Files,
    model: Annotated[str | None, Parameter(help="Base model: a local folder, a hub id, or builtin:nano.")] = None,
    method: Annotated[
        str | None, Parameter(help="full (every weight), lora, rslora ... (tunesmith methods), or auto.")
    ] = None,
    continue_: Annotated[
        str | None, Parameter(name="--continue", help="Go on from what this finished run learned, on other examples.")
    ] = None,
    sources: Sources = NO_SOURCES,
    place: Place = NO_PLACE,
    json: Json = False,
    overrides: Overrides,
) -> None:
    """Fine-tune a model on a file of examples, or on several as tasks of one model.

    Any setting is a flag, by its own name or by the one that other tools use:
    --train.epochs 3, --num_train_epochs 3. All of them: tunesmith settings

        tunesmith train faq.xlsx
        tunesmith train faq.xlsx maths.jsonl --data.temperature 2
        tunesmith train faq.xlsx --model org/name --epochs 3 --learning_rate 1e-4
        tunesmith train --resume faq
        tunesmith train more.xlsx --continue faq
    """
    from tunesmith.cli.report import is_complete, report, run_to_resume
    from tunesmith.config import load_config

    settings = given(
        overrides,
        **named_files(files),
        model=model,
        method=method,
        continual__parent=continue_,
        seed=sources.seed,
        name=place.name,
        output_dir=place.output_dir,
    )
    if place.resume is None:
        _check_is_data(files)
        config = load_config(recipe=sources.recipe, file=sources.config, overrides=settings)
        check_data_files(config.data, files)
    else:
        run = run_to_resume(place, sources, kind="finetune")
        if is_complete(run):
            report(run, as_json=json)
            return
        config = load_config(stored=run.config_path, overrides=settings)
    report(run_training(config, resume=place.resume, allow_drift=place.allow_drift), as_json=json)


def run_training(config: RunConfig, *, resume: str | None = None, allow_drift: bool = False) -> Run:
    """Train, showing the plan and the progress on standard error. Returns the finished run."""
    from tunesmith.cli.progress import watch_evaluation, watch_training
    from tunesmith.cli.report import announce
    from tunesmith.cli.terminal import tell

    tell(f"reading {', '.join(config.data.files)}, loading {config.model.path} ...")
    from tunesmith import api

    with watch_training() as watch, watch_evaluation() as on_progress:
        result = api.train(
            config,
            resume=resume,
            announce=announce,
            observers=[watch],
            allow_drift=allow_drift,
            on_progress=on_progress,
        )
    return result.run


def named_files(files: Sequence[str]) -> dict[str, str]:
    """The setting, by its name in `given`, that the arguments FILE ... stand for."""
    if len(files) > 1:
        return {"data__sets": json_text(list(files), ensure_ascii=False)}
    return {"data__path": files[0]} if files else {}


def check_data_files(data: DataConfig, files: Sequence[str]) -> None:
    """A command that reads examples needs a file, and every one that is named.

    Args:
        data: as resolved. files: the arguments of the command.

    Raises:
        SettingsError: there is none, or FILE and a flag name different ones. DataError: one is not there.
    """
    if not data.has_file:
        raise SettingsError(
            "there is no data file",
            fix="tunesmith train FILE, or set data.path; to try it without data of your own: tunesmith quickstart",
        )
    if files and list(files) != data.files:
        raise SettingsError(
            f"two data files are given: {' '.join(files)} and {' '.join(data.files)}", fix="give one of them"
        )
    from tunesmith import api

    for path in data.files:
        api.check_data_file(path)  # before torch is imported, which takes seconds


def _check_is_data(files: Sequence[str]) -> None:
    for file in files:
        if Path(file).suffix.lower() in SETTINGS_FILES:
            raise SettingsError(
                f"{file} holds settings, not examples",
                fix=f"tunesmith train FILE --config {file}, or only --config {file} when it names data.path",
            )
