"""Data to a model in Ollama in one call: data, train, eval, merge, GGUF, quantise, verify, create.

What a stage has finished lies on disk whole, so the same call again does only what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.api.exporter import Export, export_products, model_names
from tunesmith.api.measuring import evaluate
from tunesmith.api.records import asked_with
from tunesmith.api.verbs import new_folder, train, with_absolute_paths
from tunesmith.config import RunConfig, load_config
from tunesmith.data import prepare
from tunesmith.errors import SettingsError
from tunesmith.export import Ollama, Product, check_wishes, refuse_early
from tunesmith.model import load_skeleton
from tunesmith.runs import Run, read_json
from tunesmith.train import Observer, Plan
from tunesmith.types import Progress

STAGES = ("data", "train", "eval", "merge", "gguf", "quantise", "verify", "create")
# What may differ from the run's settings when it is called again: it changes no weight.
_FREE = ("eval", "generate", "export")
_IDENTITY = ("seed", "model", "data", "prompt", "method", "train", "continual")
_STAGE_OF = {"merged": "merge", "gguf": "gguf", "ollama": "quantise"}


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of STAGES. what: it does or did, in words. is_done: in an earlier call."""

    name: str
    what: str
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what: see `to_ollama`."""

    on_stage: Callable[[Stage], None] = lambda stage: None
    announce: Callable[[Plan], None] = lambda plan: None
    observers: Sequence[Observer] = ()
    on_answers: Progress = lambda who, done, total: None
    on_work: Progress = lambda what, done, total: None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What came of it: the stages in their order, and the exports."""

    run: Run
    stages: tuple[Stage, ...]
    export: Export

    def to_json(self) -> dict[str, object]:
        """What `tunesmith ollama --json` prints."""
        stages = [{"name": one.name, "what": one.what, "done_before": one.is_done} for one in self.stages]
        return {**self.export.to_json(), "stages": stages}


def to_ollama(
    file: str | Path, *, overrides: Mapping[str, object] | None = None, watch: Watch | None = None
) -> Pipeline:
    """From a file of settings to a verified model for Ollama.

    The run is `output_dir`, or runs/<name>, the name without one being the file's. Its exports are the merged weights,
    a float32 GGUF file of them, and for each type of `export.quantize` a file with its Modelfile; `export.create` has a
    running Ollama make a model of it.

    Args:
        file: YAML or JSON, by our names of settings or anybody's. overrides: single settings on top.
        watch: told of each stage before it begins, of the plan of training and its events, of answers and of work.

    Raises:
        SettingsError: a setting is unknown or not allowed, nothing of this can become a model for Ollama, or the run
            of this name was made with other settings. DataError, ResourceError, TrainingError, Stopped: of the stages.
    """
    watch = watch or Watch()
    wanted = _named(load_config(file=file, overrides=overrides), Path(file))
    types = check_wishes(["ollama"], wanted.export.quantize, imatrix=wanted.export.imatrix)
    products = [Product("merged"), Product("gguf", "f32"), *types]
    stages: list[Stage] = []

    def tell(stage: Stage) -> None:
        stages.append(stage)
        watch.on_stage(stage)

    folder = new_folder(wanted)
    if (folder / "manifest.json").exists():
        run = Run.open(folder)
        config = _same_run(run, wanted, load_config(stored=run.config_path, file=file, overrides=overrides))
    else:
        run, config = None, wanted
        if wanted.continual.parent is None:  # else the base is the parent's
            base = load_skeleton(wanted.model.path, wanted.model.revision)
            refuse_early(products, method=wanted.method.name, config=base.config)
    if model_names(config.export.create, products):
        Ollama(config.export.host).version()  # before hours of work, whether there is one
    run = _train(run, config, tell, watch)
    config = load_config(stored=run.config_path).model_copy(update={name: getattr(config, name) for name in _FREE})
    _evaluate(run, config, tell, watch)
    made = export_products(
        run,
        config,
        products,
        on_progress=watch.on_work,
        keep=True,
        on_stage=lambda what, product, is_done: tell(_stage_of(what, product, run, config, is_done)),
    )
    return Pipeline(run, tuple(stages), made)


def _named(config: RunConfig, file: Path) -> RunConfig:
    if config.name is not None or config.output_dir is not None:
        return config
    name = re.sub(r"[^\w-]+", "-", file.stem).strip("-") or "ollama"
    return config.replaced("name", name, "the name of the file of settings")


def _train(run: Run | None, config: RunConfig, tell: Callable[[Stage], None], watch: Watch) -> Run:
    if run is None:
        tell(Stage("data", f"read and divide {', '.join(config.data.files)}"))
        prepare(config)  # told before the model is loaded, what is wrong with it
        tell(Stage("train", f"tune {config.model.path}"))
        return train(config, announce=watch.announce, observers=watch.observers, on_progress=watch.on_answers).run
    split = ", ".join(f"{rows} {side}" for side, rows in run.manifest["data"]["split"].items())
    tell(Stage("data", split, is_done=True))
    is_trained = run.manifest["status"] == "finished" and (run.model_dir / "README.md").exists()
    if is_trained:
        tell(Stage("train", f"{run.manifest['training']['step']} steps", is_done=True))
        return run
    tell(Stage("train", f"go on tuning {config.model.path}"))
    return train(
        config,
        resume=str(run.path),
        announce=watch.announce,
        observers=watch.observers,
        on_progress=watch.on_answers,
    ).run


def _evaluate(run: Run, config: RunConfig, tell: Callable[[Stage], None], watch: Watch) -> None:
    summary, card = run.eval_dir / "summary.json", run.model_dir / "README.md"
    is_same = read_json(summary).get("asked_with") == asked_with(config)
    if is_same and card.stat().st_mtime_ns >= summary.stat().st_mtime_ns:  # these two come last
        tell(Stage("eval", str(run.eval_dir / "report.html"), is_done=True))
    elif not run.manifest["data"]["split"].get("test") and config.data.test_path is None:
        tell(Stage("eval", "left out: there are no test rows", is_done=True))
    else:
        tell(Stage("eval", "ask the tuned model and its base the test rows"))
        free = {f"{name}.{leaf}": value for name in _FREE for leaf, value in getattr(config, name)}
        evaluate(str(run.path), overrides=free, on_progress=watch.on_answers)


def _stage_of(what: str, product: Product, run: Run, config: RunConfig, is_done: bool) -> Stage:
    folder = run.exports_dir / product.name
    if what == "tried":
        against = f"try {product.name} against the trained model, {config.export.prompts} prompts"
        return Stage("verify", against, is_done)
    if what == "created":
        return Stage("create", f"have Ollama make {config.export.create} of {product.name}", is_done)
    words = {
        "merged": "add what was trained to the base's weights",
        "gguf": "write them as one float32 file for llama.cpp",
        "ollama": f"{product.type_name}, with its Modelfile",
    }
    return Stage(_STAGE_OF[product.target], f"{words[product.target]}: {folder}", is_done)


def _same_run(run: Run, wanted: RunConfig, now: RunConfig) -> RunConfig:
    """The settings of the run, with what may differ as it is wanted now.

    Args:
        wanted: the settings on top of the defaults. now: the same on top of the run's.

    Raises:
        SettingsError: what made the weights is wanted otherwise or no longer asked for, setting by setting.
    """
    stored = load_config(stored=run.config_path)
    before, after, defaults = (dict(_leaves(one)) for one in (stored, with_absolute_paths(now), wanted))
    problems = []
    for name, value in before.items():
        is_given = wanted.origin(name) != "default"
        found = after[name] if is_given else defaults[name]
        is_open = _is_chosen(stored, name) and (not is_given or found in (None, "auto"))
        if found == value or is_open or not (is_given or _was_given(stored, name)):
            continue
        said = f"is {found!r}" if is_given else f"is no longer set (without it {found!r})"
        problems.append(f"{name} {said}, the run has {value!r}")
    if problems:
        raise SettingsError(
            f"{run.path} was made with other settings",
            problems=tuple(problems),
            fix="set them back to go on with it, or give this one another name (name: ... in the file)",
        )
    return stored.model_copy(update={name: getattr(wanted, name) for name in _FREE})


def _leaves(config: RunConfig) -> Iterator[tuple[str, Any]]:
    content = config.model_dump(mode="json", include=set(_IDENTITY))
    content["continual"]["parent"] = Path(config.continual.parent or "").name  # a run keeps the whole path
    for section, values in content.items():
        if isinstance(values, dict):
            yield from ((f"{section}.{name}", value) for name, value in values.items())
        else:
            yield section, values


def _is_chosen(stored: RunConfig, name: str) -> bool:
    """Whether the program filled it in: what the run has is what was detected, or what its parent had."""
    return stored.was_detected(name) or stored.origin(name) == f"run {Path(stored.continual.parent or '').name}"


def _was_given(stored: RunConfig, name: str) -> bool:
    """Whether somebody set it; another version's default is no other wish."""
    return stored.origin(name) != "default" and not _is_chosen(stored, name)
