"""The command line driven in this process, with the api replaced where a real one would be slow."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import tunesmith
from tunesmith.api.contest import CaseResult, Compared
from tunesmith.api.leaks import LeakReport
from tunesmith.api.look import check_texts, is_base
from tunesmith.api.panel import Panel, Reply
from tunesmith.cli import main
from tunesmith.config import dump_config, load_config
from tunesmith.data import Corpus, check_path
from tunesmith.errors import DataError, ResourceError
from tunesmith.evaluate import Answer, hold
from tunesmith.generate import Completion
from tunesmith.model import Layer, LayerGuide
from tunesmith.runs import Run
from tunesmith.types import Example, Finding, Message

EXAMPLES = [
    Example((Message("user", f"Question {n}?"), Message("assistant", f"Answer {n}.")), row=n, sheet="FAQ")
    for n in range(2, 8)
]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the command is called in; of the files that tests name there are only empty ones."""
    for name in ("faq.xlsx", "faq.jsonl", "d.jsonl", "maths.jsonl"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for name in ("TUNESMITH_TRACE", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """cli("train", "x.xlsx") -> exit code, standard output, standard error."""

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@dataclass
class Event:
    kind: str
    step: int
    total_steps: int
    values: dict[str, Any] = field(default_factory=dict)


def events(total: int, *, first: int = 0, validate_every: int = 0, stop_early_at: int | None = None) -> Iterator[Event]:
    """What the loop tells in a run of `total` steps."""
    yield Event("start", first, total, {"resumed_from": first})
    step = first
    while step < (stop_early_at or total):
        step += 1
        yield Event("train", step, total, {"loss": 10 / step, "tokens_per_second": 1234.0, "epoch": step / total})
        if validate_every and (step % validate_every == 0 or step == total):
            yield Event("eval", step, total, {"validation_loss": 20 / step})
            yield Event("checkpoint", step, total, {"path": "x"})
            yield Event("best", step, total, {"validation_loss": 20 / step})
    if stop_early_at:
        yield Event("early_stop", step, total, {"best_step": 3, "validation_loss": 0.5})
    yield Event("end", step, total)


class FakeReport:
    def to_text(self) -> str:
        return "data     faq.xlsx (xlsx): 6 rows read, 6 kept\nsplit    4 train, 1 validation, 1 test"

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": 1, "shape": "qa", "columns": {"question": "Q"}, "rows_read": 6, "rows_kept": 6}


class FakeSession:
    """Answers "<model> answer to <question> after <n> messages", a word at a time."""

    def __init__(self, overrides: dict[str, object]) -> None:
        self.overrides = overrides
        self.config = load_config()
        self.is_tuned = True
        self.labels: dict[str, int] = {}
        self.longest = 100
        self.interrupt_after: int | None = None
        self.adapter = "tuned"
        self.finish_reason: Any = "stop"

    def conversation(self, question: str) -> list[Message]:
        return [Message("user", question)]

    def answer(self, messages: Sequence[Message], *, base: bool = False, seed: int | None = None) -> str:
        return "".join(self.stream(messages, base=base))

    def stream(
        self, messages: Sequence[Message], *, base: bool = False, seed: int | None = None, on_end: Any = None
    ) -> Iterator[str]:
        if len(messages) > self.longest:
            raise DataError("the prompt is too long")
        system = f"[{messages[0].content}] " if messages[0].role == "system" else ""
        who = "base" if base or not self.is_tuned else self.adapter
        words = f"{system}{who} answer to {messages[-1].content} after {len(messages)} messages".split(" ")
        for number, word in enumerate(words):
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            yield word if number == 0 else f" {word}"
        if on_end:
            on_end(Completion(" ".join(words), tuple(range(len(words))), self.finish_reason, 5))

    def set_generation(self, name: str, value: object) -> None:
        config = load_config(overrides={f"generate.{name}": value})
        self.config = self.config.replaced(f"generate.{name}", getattr(config.generate, name), "x")

    def use_adapter(self, reference: str) -> None:
        if reference == "other":
            raise ResourceError("the adapter in 'other' belongs to another base")
        self.adapter, self.is_tuned = reference, True


class FakeApi(ModuleType):
    """Stands in for tunesmith.api: the same names, runs that take no time. `raises` is raised by every verb."""

    def __init__(self) -> None:
        super().__init__("tunesmith.api")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.raises: BaseException | None = None
        self.warns: str | None = None
        self.events: list[Event] = list(events(20, validate_every=5))
        self.session: FakeSession | None = None
        self.tasks: dict[str, Any] = {}  # scores of each task in an evaluation
        self.skipped_rows: tuple[int, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self.leakage = LeakReport(())
        self.failed_checks: list[tuple[str, ...]] = []
        self.suites: list[Any] = []
        self.bits_before: float | None = None  # bits per byte of what pre-training goes on from

    def _called(self, verb: str, **arguments: Any) -> None:
        self.calls.append((verb, arguments))
        if self.warns is not None:
            warnings.warn(self.warns, FutureWarning, stacklevel=2)
        if self.raises is not None:
            raise self.raises

    def make_run(self, config: Any, kind: str = "finetune", status: str = "finished", **fields: Any) -> Run:
        """A run directory as a finished training leaves it, as far as the command line looks."""
        path = Path(config.output_dir) if config.output_dir else Path("runs") / (config.name or "faq")
        training = {"step": 20, "tokens": 999, "seconds": 75.0, "best_loss": 1.25, "best_step": 15}
        manifest = {"kind": kind, "status": status, "training": training, "total_steps": 20, **fields}
        run = Run.create(path, config_text=dump_config(config), manifest=manifest)
        run.model_dir.mkdir()
        (run.model_dir / "README.md").write_text("a card")
        return run

    def check_data_file(self, path: str) -> None:
        check_path(Path(path))

    def check_texts(self, config: Any) -> None:
        check_texts(config)

    def inspect(self, config: Any) -> Any:
        self._called("inspect", config=config)
        return SimpleNamespace(train=EXAMPLES, validation=[], test=[], report=FakeReport())

    def schedule_curve(self, config: Any) -> Any:
        self._called("schedule_curve", config=config)
        spans = [SimpleNamespace(name="up\x1b[31m", first=0, end=2), SimpleNamespace(name="down", first=2, end=4)]
        return SimpleNamespace(
            group_rates={},
            schedule="phases",
            rates=[1e-4, 2e-4, 2e-4, 1e-4],
            spans=spans,
            is_share=True,
            is_assumed=True,
            to_json=lambda: {"total_steps": 4, "points": []},
        )

    def preview(self, config: Any, prepared: Any, examples: Any) -> Any:
        self._called("preview", config=config)
        if config.model.path == "far/away":
            return None
        return [
            SimpleNamespace(
                example=example, pieces=(("<u>" + example.question, False), (example.answer + "</a>", True))
            )
            for example in examples
        ]

    def layers(self, config: Any) -> LayerGuide:
        """Of a model of four blocks, the third one without an adapter."""
        self._called("layers", config=config)
        embeddings = Layer("model.embed_tokens", None, "embeddings", "tokens", (64, 8), 512, None, False)
        blocks = [
            Layer(f"model.layers.{n}.self_attn.q_proj", n, "attention", "query", (8, 8), 64, 256, n != 2)
            for n in range(4)
        ]
        return LayerGuide("llama", "lora", 16, (embeddings, *blocks))

    def train(
        self,
        config: Any,
        *,
        resume: str | None = None,
        announce: Any = None,
        observers: Any = (),
        allow_drift: bool = False,
        on_progress: Any = None,
    ) -> Any:
        self._called("train", config=config, resume=resume, allow_drift=allow_drift)
        if config.method.name == "auto":
            method = "full" if config.method.r == 16 else "lora"
            config = config.resolved("method.name", method, "50K parameters are cheap to train whole")
        if config.train.epochs is None:
            config = config.resolved("train.epochs", 18.0, "18 passes: 4 rows, small model")
        if config.train.order == "curriculum" and config.train.curriculum_by is None:
            values = {"by": "length", "pacing": "root", "start": 0.1, "until": 0.5}
            for name, value in values.items():
                config = config.resolved(f"train.curriculum_{name}", value, "left open")
        run = Run.open(resume) if resume else self.make_run(config)
        encoding = SimpleNamespace(to_text=lambda max_length: "4 sequences")
        findings = (Finding("warning", "odd", "the template is odd", fix="take another"),)
        announce(
            SimpleNamespace(
                run=run,
                config=config,
                data=FakeReport(),
                encoding=encoding,
                findings=findings,
                trainable=1000,
                parameters=50_000,
                steps=20,
                device="cpu",
                memory=SimpleNamespace(weights_bytes=2e8, training_bytes=6e8, free_bytes=3e8, fits=False),
                tasks=[
                    SimpleNamespace(task=task, rows=40, seen=60, passes=1.5, share=0.5) for task in config.data.weights
                ],
            )
        )
        for event in self.events:
            for observe in observers:
                observe(event)
        if resume:
            training = {"step": 20, "tokens": 999, "seconds": 75.0, "best_loss": 1.25, "best_step": 15}
            run.update_manifest(status="finished", training=training, total_steps=20)
        return SimpleNamespace(run=run, config=config)

    def pretrain(
        self, config: Any, *, resume: str | None = None, announce: Any, observers: Any = (), allow_drift: bool = False
    ) -> Any:
        self._called("pretrain", config=config, resume=resume, allow_drift=allow_drift)
        finding = Finding("note", "end_held_out", "its last 9 of 900 characters are held out")
        pair = Example((Message("user", "Who?"), Message("assistant", "Me.")), row=1)
        named = config.replaced("name", config.name or Path(config.pretrain.documents[0]).stem.strip("*"), "x")
        run = self.make_run(
            named, kind="pretrain", bits_per_byte=1.5, base_bits_per_byte=self.bits_before, held_out_bytes=2000
        )
        config = config.resolved("train.epochs", 1.0, "1 pass: pre-training reads every text once")
        config = config.resolved("method.name", "full", "pre-training trains every weight")
        announce(
            SimpleNamespace(
                run=run,
                config=config,
                corpus=Corpus(["A text."], ["An end."], [pair], "ab" * 32),
                tokens=12_000,
                parameters=50_000,
                steps=20,
                device="cpu",
                measures_base=config.pretrain.base is not None,
                findings=(finding,),
                memory=SimpleNamespace(weights_bytes=2e8, training_bytes=6e8, free_bytes=3e8, fits=False),
            )
        )
        for event in self.events:
            for observe in observers:
                observe(event)
        return SimpleNamespace(run=run)

    def compare(self, models: Any, *, folder: Any = None, on_progress: Any = None, **arguments: Any) -> Any:
        self._called("compare", models=models, folder=folder, **arguments)
        asked = [Example((Message("user", f"Q{n}?"), Message("assistant", "Me.")), row=n) for n in range(12)]
        texts = {name: "Me." if place else "You." for place, name in enumerate(models)}
        answers = {name: [Answer(text, True, 1, 0.1)] * len(asked) for name, text in texts.items()}
        for name in models:
            on_progress(name, len(asked), len(asked))
        cases = [CaseResult("Q0?", "Me.", failed, checks=1) for failed in self.failed_checks]
        return Compared(folder or Path("comparisons/x"), hold(asked, answers), (), tuple(cases))

    def open_panel(self, models: Any, overrides: Any = None) -> Panel:
        """Models that say their names and what they were asked."""
        self._called("open_panel", models=models, overrides=overrides)

        def member(name: str) -> Any:
            return lambda messages, config: Reply(name, f"{name} heard {messages[-1].content}", 5, 0.5, is_cut=True)

        return Panel({name: member(name) for name in models}, load_config())

    def evaluate_cases(self, reference: str, questions: str, **arguments: Any) -> Any:
        return self.compare(["base", reference], questions=questions, **arguments)

    def evaluate(
        self, reference: str, *, data: str | None = None, overrides: Any = None, on_progress: Any = None
    ) -> Any:
        self._called("evaluate", reference=reference, data=data, overrides=overrides)
        row = {"row": 3, "sheet": "FAQ", "question": "Who?", "reference": "Me.", "prediction": "You."}
        tasks = self.tasks
        base = SimpleNamespace(
            metrics={"perplexity": 80.0, "exact_match": 0.0}, rows=[row], row_count=1, by_label=None, tasks=tasks
        )
        tuned = SimpleNamespace(
            metrics={"perplexity": 8.0, "exact_match": 1.0},
            rows=[{**row, "prediction": "Me."}],
            row_count=1,
            by_label=None,
            tasks=tasks,
            skipped_rows=self.skipped_rows,
            deciding="exact_match",
            why="answers of 1 words (median) are facts, codes or names",
        )
        for who in ("the base model", "the tuned model"):
            on_progress(who, 1, 1)
        return SimpleNamespace(
            run=Run.open(reference),
            data=data,
            findings=self.findings,
            asked=FakeReport() if data else None,
            folder=Path("runs/faq/eval/files/other.csv"),
            base=base,
            tuned=tuned,
            changes=[
                SimpleNamespace(
                    metric="perplexity",
                    title="perplexity",
                    is_share=False,
                    base=80.0,
                    tuned=8.0,
                    change=-72.0,
                    low=-80.0,
                    high=-60.0,
                    verdict="better",
                ),
                SimpleNamespace(
                    metric="exact_match",
                    title="exact match",
                    is_share=True,
                    base=0.0,
                    tuned=1.0,
                    change=1.0,
                    low=1.0,
                    high=1.0,
                    verdict="better",
                ),
            ],
            leakage=self.leakage,
            others=None,
            is_excluding=False,
            suites=self.suites,
            to_json=lambda: {"schema_version": 1, "rows": 1},
        )

    def is_base(self, reference: str) -> bool:
        return is_base(reference)

    def open_session(self, reference: str, overrides: dict[str, object] | None = None) -> FakeSession:
        self._called("open_session", reference=reference, overrides=overrides)
        self.session = self.session or FakeSession(overrides or {})
        return self.session


@pytest.fixture
def api(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "tunesmith.api", fake)
    monkeypatch.setattr(tunesmith, "api", fake, raising=False)
    return fake


@pytest.fixture
def make_events() -> Callable[..., list[Event]]:
    return lambda *arguments, **options: list(events(*arguments, **options))
