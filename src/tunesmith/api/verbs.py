"""What makes a model: train and pretrain. The CLI parses, calls and prints.

This is where the parts meet: evaluation is handed to training, and model cards are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tunesmith import train as training
from tunesmith.api.arguments import check_config
from tunesmith.api.facts import card_facts
from tunesmith.api.forgetting import write_forgetting
from tunesmith.api.look import check_texts, is_cached
from tunesmith.config import RunConfig, load_config
from tunesmith.data import absolute_pattern
from tunesmith.errors import SettingsError
from tunesmith.evaluate import mean_nll
from tunesmith.export import write_card
from tunesmith.runs import Run, is_writer
from tunesmith.train import Observer, Plan, PretrainPlan, PretrainResult, TrainResult
from tunesmith.types import Progress

_NAMED_FILES = 3  # in the name of a run


def train(
    config: RunConfig,
    *,
    resume: str | None = None,
    announce: Callable[[Plan], None] = lambda plan: None,
    observers: Sequence[Observer] = (),
    allow_drift: bool = False,
    on_progress: Progress = lambda who, done, total: None,
) -> TrainResult:
    """Fine-tune, save and write the model card; with a parent, measure what was forgotten and what was learned.

    Args:
        config: from `load_config`; of a run that is resumed, from `run_config`.
        resume: a run to continue, by name or folder; a finished one is returned as it is.
        allow_drift: continue although data, settings or package versions are not those the run was started with.
        on_progress: of the measurement: called with (what is measured, answers done, answers in all).

    Raises:
        SettingsError, DataError, ResourceError, TrainingError, Stopped: see `tunesmith.errors`.
    """
    check_config(config)
    destination = Run.open(resume) if resume is not None else new_folder(config)
    _refuse_run("model.path", config.model.path)
    config = with_absolute_paths(config if resume is not None else training.continued(config))
    result = training.train(
        config,
        destination=destination,
        mean_nll=mean_nll,
        announce=announce,
        observers=observers,
        allow_drift=allow_drift,
    )
    if is_writer():
        write_forgetting(result.run, result.config, on_progress=on_progress)
        write_card(result.run.model_dir, card_facts(result.run, result.config))
    return result


def pretrain(
    config: RunConfig,
    *,
    resume: str | None = None,
    announce: Callable[[PretrainPlan], None] = lambda plan: None,
    observers: Sequence[Observer] = (),
    allow_drift: bool = False,
) -> PretrainResult:
    """Train a new tokenizer and model, or a base further, on the texts of `config.pretrain`.

    The arguments are those of train.

    Raises:
        SettingsError, DataError, ResourceError, TrainingError, Stopped: see `tunesmith.errors`.
    """
    check_config(config)
    if resume is None:
        config = _named_by_texts(config)
    destination = Run.open(resume) if resume is not None else new_folder(config)
    _refuse_run("pretrain.base", config.pretrain.base)
    config = with_absolute_paths(config)
    return training.train_on_texts(
        config,
        destination=destination,
        mean_nll=mean_nll,
        announce=announce,
        observers=observers,
        allow_drift=allow_drift,
    )


def _named_by_texts(config: RunConfig) -> RunConfig:
    """A new run, if it has no name or folder, with that of its first text.

    Raises:
        SettingsError: there are no texts.
    """
    check_texts(config)
    if config.name is not None or config.output_dir is not None:
        return config
    first = Path(config.pretrain.documents[0])
    stem = first.name.split(".")[0].strip("*?-_ ") or first.parent.name
    return config.resolved("name", Run.free_name(stem or "pretrained"), "by the first text")


def run_config(reference: str, overrides: Mapping[str, object] | None = None) -> RunConfig:
    """The settings a run was made with, and whatever is overridden now."""
    return load_config(stored=Run.open(reference).config_path, overrides=overrides)


def new_folder(config: RunConfig) -> Path:
    """Where a new run goes: output_dir, or runs/<name>, or runs/<file name> with a number when that exists."""
    if config.output_dir is not None:
        return Path(config.output_dir)
    if config.name is not None:
        return Path("runs") / config.name
    if not config.data.has_file:
        raise SettingsError("there is no data file", fix="tunesmith train FILE, or set data.path")
    stems = [Path(path).stem for path in config.data.files]
    more = [f"and-{len(stems) - _NAMED_FILES}-more"] if len(stems) > _NAMED_FILES else []
    return Path("runs") / Run.free_name("-".join([*stems[:_NAMED_FILES], *more]))


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Local files by their full path, so that a run can be measured and loaded from any working directory."""
    for name, path in (
        ("model.path", config.model.path),
        ("data.path", config.data.path),
        ("data.validation_path", config.data.validation_path),
        ("data.test_path", config.data.test_path),
        ("pretrain.base", config.pretrain.base),
    ):
        if path is not None and Path(path).exists():
            config = config.replaced(name, _absolute(path), config.origin(name))
    if config.data.sets:
        sets = [
            one.model_copy(
                update={name: _absolute(getattr(one, name)) for name in ("path", "validation_path", "test_path")}
            )
            for one in config.data.sets
        ]
        config = config.replaced("data.sets", sets, config.origin("data.sets"))
    for name in ("documents", "qa"):
        patterns = [absolute_pattern(pattern) for pattern in getattr(config.pretrain, name)]
        if patterns:
            config = config.replaced(f"pretrain.{name}", patterns, config.origin(f"pretrain.{name}"))
    return config


def _refuse_run(setting: str, reference: str | None) -> None:
    """Tell the name of a run from that of a model, which would be looked for on the hub.

    Raises:
        SettingsError: naming the folder that can be trained on, where the run has one.
    """
    if reference is None or Path(reference).expanduser().joinpath("config.json").exists() or is_cached(reference):
        return
    try:
        run = Run.open(reference)
    except SettingsError:
        return
    fix = f"finish it first, then name its model: {run.model_dir}"
    if (run.model_dir / "config.json").exists():
        fix = f"name its model: {run.model_dir}"
    elif run.model_dir.exists():
        fix = f"name the model it was made on; to go on from its adapter: tunesmith train FILE --continue {reference}"
    raise SettingsError(f"{setting} is {reference}, which is a run and not a model", fix=fix)


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path is not None and Path(path).exists() else path
