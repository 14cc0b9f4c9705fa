"""A model ready to answer, with its base beside it if it is tuned. What eval, chat, ask and ModelFinetuner stand on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel

from tunesmith.api.look import check_finished, is_base, is_pretrained
from tunesmith.config import RunConfig, load_config, quantize_of
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.generate import Choice, Completion, Engine, choose
from tunesmith.model import (
    LoadedModel,
    check_switch,
    context_tokens,
    load_adapter,
    load_base,
    switch_adapter,
    virtual_tokens,
)
from tunesmith.prompts import Template, check_template, prepare_tokenizer
from tunesmith.runs import Run
from tunesmith.types import Message


class Session:
    """A model that answers.

    loaded: the model with its tokenizer. template: the one it was trained with. is_tuned: whether it has a base beside
    it; of a base alone, `base=True` and `base=False` are the same model. labels: training rows of each label of a run
    that classifies; empty where answers are written.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        template: Template,
        config: RunConfig,
        *,
        is_tuned: bool = True,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        self.loaded = loaded
        self.template = template
        self.config = config
        self.is_tuned = is_tuned
        self.labels = labels or {}
        self._base: LoadedModel | None = None

    @property
    def context(self) -> int:
        """Longest sequence the tuned model takes, in tokens; virtual ones come on top."""
        return (context_tokens(self.loaded.model) or sys.maxsize) - virtual_tokens(self.loaded.model)

    @contextmanager
    def engine(self, *, base: bool = False) -> Iterator[Engine]:
        """The model that answers: tuned, or untuned with the same template and tokenizer."""
        model = self.loaded.model
        if not base or not self.is_tuned:
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

    def stream(
        self,
        messages: Sequence[Message],
        *,
        base: bool = False,
        seed: int | None = None,
        on_end: Callable[[Completion], None] | None = None,
    ) -> Iterator[str]:
        """The same answer in pieces, as it is written; `on_end` is called with the whole of it."""
        if self.labels:
            label = self.choose(messages, base=base).label
            yield label
            if on_end:
                on_end(Completion(label, (), "stop", prompt_tokens=0))
            return
        with self.engine(base=base) as engine:
            seed = self.config.seed if seed is None else seed
            pieces = engine.stream(messages, self.config.generate, seed=seed, on_end=on_end)
        while True:
            # Entered for each piece: between two of them the other model may be asked, whose weights are the same.
            with self.engine(base=base):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def choose(self, messages: Sequence[Message], *, base: bool = False) -> Choice:
        """The run's labels with their probabilities, for a conversation that ends with a user turn."""
        with self.engine(base=base) as engine:
            return choose(engine, [messages], tuple(self.labels), batch_size=self.config.eval.batch_size)[0]

    def conversation(self, question: str) -> list[Message]:
        """A question as training put it: with the run's system prompt, if it had one."""
        system = self.config.prompt.system
        return [*([Message("system", system)] if system else []), Message("user", question)]

    def set_generation(self, name: str, value: object) -> None:
        """Change one of the settings under `generate`, from the next answer on.

        Raises:
            SettingsError: the value is out of range.
        """
        self.config = with_generation(self.config, name, value)

    def use_adapter(self, reference: str) -> None:
        """Answer with the adapter of another run from here on; the base stays loaded.

        Args:
            reference: a run's name or folder, or an adapter's folder.

        Raises:
            SettingsError: there is no such run. ResourceError: it was trained whole or on another base; the adapter
                that was in use still is.
        """
        found = _find(reference, {})
        if found.folder is None:
            raise SettingsError(
                f"{reference} is a model and not a run", fix="name a run that was trained with an adapter"
            )
        is_whole = self.is_tuned and not isinstance(self.loaded.model, PeftModel)
        base = self._load_base() if is_whole else self.loaded  # of a model trained whole, the base is another model
        check_switch(base, found.folder)
        try:
            loaded, template = _adapted(switch_adapter(base, found.folder))
        except (ResourceError, SettingsError):
            self._base = None
            if not is_whole:
                self.loaded, _ = _load(Path(self.loaded.path) if self.is_tuned else None, self.config)
            raise
        self.loaded, self.template, self.is_tuned, self._base = loaded, template, True, None
        self.labels = found.labels
        self.config = found.config.replaced("generate", self.config.generate, "as before")

    def _load_base(self) -> LoadedModel:
        if self._base is None:
            settings = self.config.model
            self._base = load_base(
                settings.path,
                revision=settings.revision,
                dtype=_dtype(self.config),
                device=settings.device,
                quantize=quantize_of(self.config.method.name, settings.quantize),
            )
        return self._base


def with_generation(config: RunConfig, name: str, value: object) -> RunConfig:
    """The same with another value, as text or as it is, of one of the settings under `generate`.

    Raises:
        SettingsError: the value is out of range.
    """
    checked = getattr(load_config(overrides={f"generate.{name}": value}).generate, name)
    return config.replaced(f"generate.{name}", checked, "chosen while asking")


def open_session(reference: str | Path, overrides: dict[str, object] | None = None) -> Session:
    """Load what a run made, or any base.

    Args:
        reference: a run's name or folder, a model folder that a run (or any PEFT trainer) has written, or a base: a
            local folder, builtin:nano or a hub id whose files are on this machine.
        overrides: settings to change, such as {"temperature": 0.7}.

    Raises:
        SettingsError: there is no such run or model. ResourceError: the run has no finished model yet, or its base is
            not there.
    """
    found = _find(str(reference), overrides or {})
    loaded, template = _load(found.folder, found.config)
    return Session(loaded, template, found.config, is_tuned=found.folder is not None, labels=found.labels)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a reference names. folder: of a tuned model, None for a base. labels: as in `Session`."""

    folder: Path | None
    config: RunConfig
    labels: Mapping[str, int] = field(default_factory=dict)


def _load(folder: Path | None, config: RunConfig) -> tuple[LoadedModel, Template]:
    """The tuned model of a folder, or the base of the settings."""
    settings = config.model
    quantize = quantize_of(config.method.name, settings.quantize)
    if folder is not None:
        return _adapted(load_adapter(folder, dtype=_dtype(config), device=settings.device, quantize=quantize))
    loaded = load_base(
        settings.path, revision=settings.revision, dtype=_dtype(config), device=settings.device, quantize=quantize
    )
    prepare_tokenizer(loaded.tokenizer, loaded.model.config.vocab_size)
    return loaded, check_template(config.prompt.template, loaded.tokenizer)


def _find(reference: str, overrides: dict[str, object]) -> _Found:
    folder = Path(reference).expanduser()
    if (folder / "adapter_config.json").exists():
        return _Found(folder, load_config(overrides={"model.path": str(folder), **overrides}))
    if is_base(reference):
        return _Found(None, load_config(overrides={"model.path": reference, **overrides}))
    run = Run.open(reference)
    check_finished(run)
    labels = run.manifest.get("data", {}).get("labels", {})
    config = load_config(stored=run.config_path, overrides=overrides)
    if is_pretrained(run):  # a base, as its folder is
        return _Found(None, config.replaced("model.path", str(run.model_dir), "the run"))
    trained_with = load_config(stored=run.config_path).prompt.template
    if config.prompt.template != trained_with:
        raise SettingsError(
            f"{reference} was trained with the template {trained_with}, and is asked with it",
            fix="leave out prompt.template, or train again with the other one",
        )
    return _Found(run.model_dir, config, labels)


def _dtype(config: RunConfig) -> str:
    """The number format that was asked for. What was detected on another machine need not suit this one."""
    return "auto" if config.was_detected("model.dtype") else config.model.dtype


def _adapted(loaded: LoadedModel) -> tuple[LoadedModel, Template]:
    """A tuned model and the template that it was trained with, which its folder carries."""
    prepare_tokenizer(loaded.tokenizer, loaded.model.config.vocab_size)
    if loaded.tokenizer.chat_template is None:
        raise SettingsError(
            f"{loaded.path} does not say how messages become text: its tokenizer has no chat template",
            fix="train with tunesmith, which stores it, or add chat_template.jinja to the folder",
        )
    return loaded, check_template("chat", loaded.tokenizer)
