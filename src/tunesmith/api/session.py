"""A tuned model ready to answer, with its base beside it. What eval, chat, ask and ModelFinetuner.generate stand on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel

from tunesmith.config import RunConfig, load_config
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.generate import Choice, Engine, choose
from tunesmith.model import LoadedModel, load_adapter, load_base
from tunesmith.prompts import Template, check_template, prepare_tokenizer
from tunesmith.runs import Run
from tunesmith.types import Message


class Session:
    """`loaded` is the tuned model with its tokenizer; `template` is the one it was trained with.

    labels: training rows of each label of a run that classifies; empty where answers are written.
    """

    def __init__(
        self, loaded: LoadedModel, template: Template, config: RunConfig, *, labels: Mapping[str, int] | None = None
    ) -> None:
        self.loaded = loaded
        self.template = template
        self.config = config
        self.labels = labels or {}
        self._base: LoadedModel | None = None

    @property
    def context(self) -> int:
        """Longest sequence the model takes, in tokens."""
        return int(self.loaded.model.config.max_position_embeddings)

    @contextmanager
    def engine(self, *, base: bool = False) -> Iterator[Engine]:
        """The model that answers: tuned, or untuned with the same template and tokenizer."""
        model = self.loaded.model
        if not base:
            yield Engine(model, self.loaded.tokenizer, self.template)
        elif isinstance(model, PeftModel):
            with model.disable_adapter():
                yield Engine(model, self.loaded.tokenizer, self.template)
        else:
            yield Engine(self._load_base().model, self.loaded.tokenizer, self.template)

    def answer(self, messages: Sequence[Message], *, base: bool = False, seed: int | None = None) -> str:
        """One answer to a conversation that ends with a user turn: a label, or by the settings in `config.generate`."""
        if self.labels:
            return self.choose(messages, base=base).label
        with self.engine(base=base) as engine:
            seed = self.config.seed if seed is None else seed
            return engine.generate([messages], self.config.generate, seed=seed)[0].text

    def stream(self, messages: Sequence[Message], *, base: bool = False, seed: int | None = None) -> Iterator[str]:
        """The same answer in pieces, as it is written."""
        if self.labels:
            yield self.choose(messages, base=base).label
            return
        with self.engine(base=base) as engine:
            yield from engine.stream(messages, self.config.generate, seed=self.config.seed if seed is None else seed)

    def choose(self, messages: Sequence[Message], *, base: bool = False) -> Choice:
        """The run's labels with their probabilities, for a conversation that ends with a user turn."""
        with self.engine(base=base) as engine:
            return choose(engine, [messages], tuple(self.labels), batch_size=self.config.eval.batch_size)[0]

    def conversation(self, question: str) -> list[Message]:
        """A question as training put it: with the run's system prompt, if it had one."""
        system = self.config.prompt.system
        return [*([Message("system", system)] if system else []), Message("user", question)]

    def _load_base(self) -> LoadedModel:
        if self._base is None:
            settings = self.config.model
            self._base = load_base(
                settings.path, revision=settings.revision, dtype=settings.dtype, device=settings.device
            )
        return self._base


def open_session(reference: str, overrides: dict[str, object] | None = None) -> Session:
    """Load what a run made.

    Args:
        reference: a run's name or folder, or a model folder that a run (or any PEFT trainer) has written.
        overrides: settings to change, such as {"temperature": 0.7}.

    Raises:
        SettingsError: there is no such run. ResourceError: it has no finished model yet, or its base is not there.
    """
    folder = Path(reference)
    if (folder / "adapter_config.json").exists() or (folder / "config.json").exists():
        config = load_config(overrides={"model.path": str(folder), **(overrides or {})})
        return _session(folder, config)
    run = Run.open(reference)
    if not run.model_dir.is_dir():
        raise ResourceError(
            f"{run.name} has no finished model",
            cause=f"its status is {run.manifest['status']}",
            fix=f"finish it with: tunesmith train --resume {run.path}",
        )
    labels = run.manifest.get("data", {}).get("labels", {})
    return _session(run.model_dir, load_config(stored=run.config_path, overrides=overrides), labels)


def _session(folder: Path, config: RunConfig, labels: Mapping[str, int] | None = None) -> Session:
    loaded = load_adapter(folder, dtype=config.model.dtype, device=config.model.device)
    prepare_tokenizer(loaded.tokenizer, loaded.model.config.vocab_size)
    if loaded.tokenizer.chat_template is None:
        raise SettingsError(
            f"{folder} does not say how messages become text: its tokenizer has no chat template",
            fix="train with tunesmith, which stores it, or add chat_template.jinja to the folder",
        )
    return Session(loaded, check_template("chat", loaded.tokenizer), config, labels=labels)
