"""What is said of a run before, after and besides training. Shared by train, pretrain, quickstart and eval."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import RenderableType
from rich.text import Text

from tunesmith.cli.overrides import Place, Sources
from tunesmith.cli.scores import forgetting_table
from tunesmith.cli.terminal import (
    commands,
    count_text,
    facts,
    hanging,
    plain,
    seconds_text,
    shell,
    shorten,
    show,
    show_json,
    size_text,
    tell,
    tell_findings,
)
from tunesmith.config import METHODS, RunConfig
from tunesmith.errors import SettingsError
from tunesmith.runs import Run

if TYPE_CHECKING:
    from tunesmith.types import Finding

_LONGEST_TEXT = 300  # characters of a setting
_FILES = (
    ("model", "model"),
    ("model card", "model/README.md"),
    ("curves", "training_visuals"),
    ("measured", "eval"),
    ("settings", "config.yaml"),
    ("every step", "metrics.jsonl"),
    ("checkpoints", "checkpoints"),
)


class _DataReport(Protocol):
    def to_text(self) -> str: ...


class _EncodeReport(Protocol):
    def to_text(self, max_length: int) -> str: ...


class _TaskPlan(Protocol):
    @property
    def task(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def seen(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def passes(self) -> float: ...


class _MemoryNeed(Protocol):
    @property
    def weights_bytes(self) -> int: ...
    @property
    def training_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int | None: ...
    @property
    def fits(self) -> bool: ...


class _AnyPlan(Protocol):
    @property
    def run(self) -> Run: ...
    @property
    def config(self) -> RunConfig: ...
    @property
    def findings(self) -> Sequence[Finding]: ...
    @property
    def parameters(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def memory(self) -> _MemoryNeed | None: ...


class Plan(_AnyPlan, Protocol):
    """What `api.train` announces before its first step."""

    @property
    def data(self) -> _DataReport: ...
    @property
    def encoding(self) -> _EncodeReport: ...
    @property
    def trainable(self) -> int: ...
    @property
    def tasks(self) -> Sequence[_TaskPlan]: ...


class _Corpus(Protocol):
    @property
    def documents(self) -> Sequence[str]: ...
    @property
    def held_out(self) -> Sequence[str]: ...
    @property
    def pairs(self) -> Sequence[object]: ...
    @property
    def reports(self) -> Sequence[_DataReport]: ...


class PretrainPlan(_AnyPlan, Protocol):
    """What `api.pretrain` announces before its first step."""

    @property
    def corpus(self) -> _Corpus: ...
    @property
    def tokens(self) -> int: ...
    @property
    def measures_base(self) -> bool: ...


def announce(plan: Plan) -> None:
    """The data report, the plan, and each setting that is not a default with its origin."""
    config = plan.config
    share = plan.trainable / plan.parameters
    method: str = config.method.name
    if METHODS[method].has_rank:
        method += f", rank {config.method.r}, alpha {config.method.alpha:g}"
    rows = [
        ("run", str(plan.run.path)),
        ("model", f"{config.model.path}, {count_text(plan.parameters)} parameters"),
        ("method", f"{method}: {count_text(plan.trainable)} of them are trained ({share:.2%})" + _why_method(config)),
        ("numbers", f"{_dtype_text(config)}; on {plan.device}"),
        *((("memory", _memory_text(plan.memory, config)),) if plan.memory else ()),
        ("data", plan.encoding.to_text(config.data.max_length)),
        ("steps", _steps_text(config, plan.steps)),
        *((("order", _order_text(config)),) if config.train.order != "random" else ()),
        *((f"task {one.task}", _task_text(one)) for one in plan.tasks),
        *([("goes on from", _continual_text(config))] if config.continual.parent else []),
    ]
    tell("", hanging(plan.data.to_text()), "", facts(rows, title="plan"), "")
    tell(facts(_not_defaults(config), title="settings that are not defaults, and where they come from"), "")
    tell_findings(plan.findings)


def announce_texts(plan: PretrainPlan) -> None:
    """What was read, the plan, and each setting that is not a default with its origin."""
    config, corpus = plan.config, plan.corpus
    for report in corpus.reports:
        tell("", hanging(report.to_text()))
    texts = f"texts: {len(corpus.documents)} to train on, {len(corpus.held_out)} held out to measure on"
    pairs = f"; {len(corpus.pairs)} questions with answers" if corpus.pairs else ""
    tokens = f"{count_text(plan.tokens)} tokens in blocks of {config.pretrain.context}"
    base = config.pretrain.base or "a new one"
    rows = [
        ("run", str(plan.run.path)),
        ("model", f"{base}, {count_text(plan.parameters)} parameters, all of them trained"),
        ("numbers", f"{_dtype_text(config)}; on {plan.device}"),
        *((("memory", _memory_text(plan.memory, config)),) if plan.memory else ()),
        ("data", f"{texts}{pairs}; {tokens}"),
        ("steps", _steps_text(config, plan.steps)),
    ]
    tell("", facts(rows, title="plan"), "")
    tell(facts(_not_defaults(config), title="settings that are not defaults, and where they come from"), "")
    tell_findings(plan.findings)
    if plan.measures_base:
        tell(f"measuring {base} on the held-out texts ...")


def _memory_text(memory: _MemoryNeed, config: RunConfig) -> str:
    free = f"; {size_text(memory.free_bytes)} are free" if memory.free_bytes is not None else ""
    too_little = "" if memory.fits else f": too little, take {_less_memory(config)}"
    need = f"{size_text(memory.weights_bytes)} of weights, {size_text(memory.training_bytes)} to train them"
    return f"{need}, and activations{free}{too_little}"


def _less_memory(config: RunConfig) -> str:
    method = METHODS[config.method.name]
    ways = ["a smaller model"]
    if not method.is_adapter and not config.pretrain.documents:
        ways.insert(0, "--method lora")
    if method.has_rank:
        ways.insert(0, "a lower --method.r")
    if config.train.optimizer != "adamw_8bit":
        ways.append("--train.optimizer adamw_8bit")
    return ", or ".join(ways)


def _dtype_text(config: RunConfig) -> str:
    dtype, reason = config.model.dtype, config.origin("model.dtype").removeprefix("detected: ")
    return reason if reason.startswith(f"{dtype}:") else f"{dtype} ({reason})"


def _steps_text(config: RunConfig, steps: int) -> str:
    train = config.train
    window = f"{train.batch_size} rows"
    if train.gradient_accumulation_steps > 1:
        window = f"{train.batch_size} x {train.gradient_accumulation_steps} rows"
    passes = _detected(config, "train.epochs") or f"{train.epochs:g} epochs"
    return f"{steps} of {window} each ({'by train.max_steps' if train.max_steps else passes})"


def _order_text(config: RunConfig) -> str:
    train = config.train
    if train.order != "curriculum":
        return train.order
    by = f"column {train.curriculum_column}" if train.curriculum_by == "column" else train.curriculum_by
    return (
        f"curriculum by {by}, pacing {train.curriculum_pacing}: from the easiest {train.curriculum_start:.0%} of the "
        f"rows to all at {train.curriculum_until:.0%} of the run"
    )


def _task_text(one: _TaskPlan) -> str:
    return f"{one.rows} rows, {one.seen} seen ({one.passes:.3g} passes): {one.share:.1%} of all that is seen"


def _continual_text(config: RunConfig) -> str:
    settings = config.continual
    share = f"{settings.replay_share:.0%} of a step are old rows" if settings.replay_share else "no old rows"
    held = f", elastic weight consolidation {settings.ewc_lambda:g}" if settings.ewc_lambda else ""
    return f"{settings.parent}: {share}{held}"


def _why_method(config: RunConfig) -> str:
    reason = _detected(config, "method.name")
    return f"; {reason}" if reason else ""


def _detected(config: RunConfig, name: str) -> str:
    """Why the program chose a value; empty when it did not."""
    origin = config.origin(name)
    return origin.removeprefix("detected: ") if origin.startswith("detected: ") else ""


def _not_defaults(config: RunConfig) -> list[tuple[str, Text]]:
    values = config.model_dump(mode="json")
    rows = []
    for name, origin in sorted(config.origins.items()):
        value: Any = values
        for part in name.split("."):
            value = value[part]
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if len(shown) > _LONGEST_TEXT or "\n" in shown:  # a system prompt
            shown = shorten(shown, _LONGEST_TEXT)
        source = origin.split(" (")[0] if origin.startswith("recipe ") else origin
        rows.append((name, Text(plain(shown)).append(f"  {plain(source)}", style="dim")))
    return rows


def report(run: Run, *, as_json: bool) -> None:
    """A finished run: what came out, where every file is, what to do next."""
    training: dict[str, Any] = run.manifest["training"]
    table = run.eval_dir / "forgetting.json"
    forgetting: dict[str, Any] = json.loads(table.read_text(encoding="utf-8")) if table.exists() else {}
    if as_json:
        show_json(
            {
                "schema_version": 1,
                "run": str(run.path),
                "steps": training["step"],
                "best_validation_loss": training["best_loss"],
                "seconds": round(training["seconds"], 3),
                **({"forgetting": forgetting} if forgetting else {}),
            }
        )
        return
    loss = training["best_loss"]
    best = f"; best validation loss {loss:.4f} at step {training['best_step']}" if loss is not None else ""
    show(f"{run.name}: {training['step']} steps in {seconds_text(training['seconds'])}{best}", "")
    if forgetting:
        show(*_forgetting(forgetting))
    show(files(run), "", next_commands(run))


def _forgetting(content: dict[str, Any]) -> Iterator[RenderableType]:
    """The forgetting table, and why tasks are missing in it."""
    yield f"before and after going on from {plain(content['parent'])}"
    yield forgetting_table(content["tasks"], content["titles"], content.get("shares", _old_shares(content)))
    yield from (f"not measured: {plain(task)}: {plain(why)}" for task, why in content["not_measured"].items())
    yield ""


def _old_shares(content: dict[str, Any]) -> list[str]:
    """Of a file from before it named them: then all scores but these two were."""
    return [metric for metric in content["titles"] if metric not in ("perplexity", "log_loss")]


def files(run: Run) -> RenderableType:
    """Where everything is, of what is there."""
    found = [(label, run.path / name) for label, name in _FILES if (run.path / name).exists()]
    return facts([(label, f"{path}/" if path.is_dir() else str(path)) for label, path in found], title="files")


def next_commands(run: Run, *, measured: bool = False) -> RenderableType:
    """What can be done with a finished run."""
    name = reference(run)
    rows = [
        (shell("tunesmith", "ask", name, "your question"), "one answer"),
        (shell("tunesmith", "chat", name), "talk to it"),
    ]
    has_test_rows = run.manifest.get("data", {}).get("split", {}).get("test", 1) > 0
    if not measured and has_test_rows:
        rows.insert(0, (shell("tunesmith", "eval", name), "measure it against its base"))
    return commands(rows)


def reference(run: Run) -> str:
    """The shortest way to name a run on the command line."""
    is_listed = run.path.absolute().parent == Path("runs").absolute()
    return run.name if is_listed else str(run.path)


def check_reference(name: str) -> None:
    """Tell a misspelt run at once, not after everything heavy is imported. A folder may also be a bare model.

    Raises:
        SettingsError: there is no such run or folder.
    """
    if not Path(name).is_dir():
        Run.open(name)


def run_to_resume(place: Place, sources: Sources, *, kind: str) -> Run:
    """The run of --resume. Its own settings go on being used.

    Raises:
        SettingsError: there is no such run, it is of the other kind, or options are given that only a new run takes.
    """
    run = Run.open(str(place.resume))
    options = {"recipe": sources.recipe, "config": sources.config, "name": place.name, "output-dir": place.output_dir}
    extra = [f"--{name}" for name, value in options.items() if value is not None]
    if extra:
        raise SettingsError(
            f"--resume does not go with {', '.join(extra)}",
            cause=f"{run.name} has its settings and its folder already",
            fix="leave them out; single settings can be changed, such as --train.epochs 8 --allow-drift",
        )
    if run.manifest.get("kind", kind) != kind:
        raise SettingsError(
            f"{run.name} was made by tunesmith {run.verb}",
            fix=shell("tunesmith", run.verb, "--resume", reference(run)),
        )
    return run


def is_complete(run: Run) -> bool:
    """Whether there is nothing left to resume; says so."""
    is_finetuned = run.manifest.get("kind") != "pretrain"
    if run.manifest["status"] != "finished" or (is_finetuned and not (run.model_dir / "README.md").exists()):
        return False  # the card is written after everything else, the forgetting table included
    more = (
        f"; to learn more: {shell('tunesmith', 'train', 'FILE', '--continue', reference(run))}" if is_finetuned else ""
    )
    tell(f"{run.path} is already complete{more}")
    return True
