"""A model ready to answer, with its base beside it if it is tuned. What eval, chat, ask and ModelFinetuner stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel

from tunesmith.api.look import is_base
from tunesmith.config import RunConfig, load_config
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.generate import Completion, Engine
from tunesmith.model import LoadedModel, check_switch, load_adapter, load_base, switch_adapter
from tunesmith.prompts import Template, check_template, prepare_tokenizer
from tunesmith.runs import Run
from tunesmith.types import Message


class Session:
    """A model that answers.

    loaded: the model with its tokenizer. template: the one it was trained with. is_tuned: whether it has a base beside
    it; of a base alone, `base=True` and `base=False` are the same model.
    """

    def __init__(self, loaded: LoadedModel, template: Template, config: RunConfig, *, is_tuned: bool = True) -> None:
        self.loaded = loaded
        self.template = template
        self.config = config
        self.is_tuned = is_tuned
        self._base: LoadedModel | None = None

    @property
    def context(self) -> int:
        """Longest sequence the model takes, in tokens."""
        return int(self.loaded.model.config.max_position_embeddings)

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
        """One answer to a conversation that ends with a user turn, by the settings in `config.generate`."""
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
        with self.engine(base=base) as engine:
            seed = self.config.seed if seed is None else seed
            yield from engine.stream(messages, self.config.generate, seed=seed, on_end=on_end)

    def conversation(self, question: str) -> list[Message]:
        """A question as training put it: with the run's system prompt, if it had one."""
        system = self.config.prompt.system
        return [*([Message("system", system)] if system else []), Message("user", question)]

    def set_generation(self, name: str, value: object) -> None:
        """Change one of the settings under `generate`, from the next answer on.

        Raises:
            SettingsError: the value is out of range.
        """
        config = load_config(overrides={f"generate.{name}": value})
        found = getattr(config.generate, name)
        self.config = self.config.replaced(f"generate.{name}", found, "chosen while asking")

    def use_adapter(self, reference: str) -> None:
        """Answer with the adapter of another run from here on; the base stays loaded.

        Args:
            reference: a run's name or folder, or an adapter's folder.

        Raises:
            SettingsError: there is no such run. ResourceError: it was trained whole or on another base; the adapter
                that was in use still is.
        """
        folder, config = _find(reference, {})
        if folder is None:
            raise SettingsError(
                f"{reference} is a model and not a run", fix="name a run that was trained with an adapter"
            )
        is_whole = self.is_tuned and not isinstance(self.loaded.model, PeftModel)
        base = self._load_base() if is_whole else self.loaded  # of a model trained whole, the base is another model
        check_switch(base, folder)
        try:
            loaded, template = _adapted(switch_adapter(base, folder))
        except (ResourceError, SettingsError):
            self._base = None
            if not is_whole:
                self.loaded, _ = _load(Path(self.loaded.path) if self.is_tuned else None, self.config)
            raise
        self.loaded, self.template, self.is_tuned, self._base = loaded, template, True, None
        self.config = config.replaced("generate", self.config.generate, "as before")

    def _load_base(self) -> LoadedModel:
        if self._base is None:
            settings = self.config.model
            self._base = load_base(
                settings.path, revision=settings.revision, dtype=settings.dtype, device=settings.device
            )
        return self._base


def open_session(reference: str, overrides: dict[str, object] | None = None) -> Session:
    """Load what a run made, or any base.

    Args:
        reference: a run's name or folder, a model folder that a run (or any PEFT trainer) has written, or a base: a
            local folder, builtin:nano or a hub id whose files are on this machine.
        overrides: settings to change, such as {"temperature": 0.7}.

    Raises:
        SettingsError: there is no such run or model. ResourceError: the run has no finished model yet, or its base is
            not there.
    """
    folder, config = _find(reference, overrides or {})
    loaded, template = _load(folder, config)
    return Session(loaded, template, config, is_tuned=folder is not None)


def _load(folder: Path | None, config: RunConfig) -> tuple[LoadedModel, Template]:
    """The tuned model of a folder, or the base of the settings."""
    settings = config.model
    if folder is not None:
        return _adapted(load_adapter(folder, dtype=settings.dtype, device=settings.device))
    loaded = load_base(settings.path, revision=settings.revision, dtype=settings.dtype, device=settings.device)
    prepare_tokenizer(loaded.tokenizer, loaded.model.config.vocab_size)
    return loaded, check_template(config.prompt.template, loaded.tokenizer)


def _find(reference: str, overrides: dict[str, object]) -> tuple[Path | None, RunConfig]:
    """The folder of a tuned model and its settings; no folder for a base."""
    folder = Path(reference).expanduser()
    if (folder / "adapter_config.json").exists():
        return folder, load_config(overrides={"model.path": str(folder), **overrides})
    if is_base(reference):
        return None, load_config(overrides={"model.path": reference, **overrides})
    run = Run.open(reference)
    if not run.model_dir.is_dir():
        raise ResourceError(
            f"{run.name} has no finished model",
            cause=f"its status is {run.manifest['status']}",
            fix=f"finish it with: tunesmith train --resume {run.path}",
        )
    return run.model_dir, load_config(stored=run.config_path, overrides=overrides)


def _adapted(loaded: LoadedModel) -> tuple[LoadedModel, Template]:
    """A tuned model and the template that it was trained with, which its folder carries."""
    prepare_tokenizer(loaded.tokenizer, loaded.model.config.vocab_size)
    if loaded.tokenizer.chat_template is None:
        raise SettingsError(
            f"{loaded.path} does not say how messages become text: its tokenizer has no chat template",
            fix="train with tunesmith, which stores it, or add chat_template.jinja to the folder",
        )
    return loaded, check_template("chat", loaded.tokenizer)
