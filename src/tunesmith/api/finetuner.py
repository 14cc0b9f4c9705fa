"""`FinetuningConfig` and `ModelFinetuner`: the Python API, with the names that Hugging Face scripts use.

config = FinetuningConfig(model_name="builtin:nano", train_file="faq.xlsx", num_train_epochs=3, use_lora=True)
finetuner = ModelFinetuner(config)
finetuner.load_model()
finetuner.train()
print(finetuner.evaluate(), finetuner.generate("How do I reset my password?"))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.api.arguments import check_kind
from tunesmith.api.held_out import encoded_for
from tunesmith.api.rows import examples_of
from tunesmith.api.session import Session, open_session
from tunesmith.api.verbs import train as run_training
from tunesmith.config import RunConfig, load_config, quantize_of
from tunesmith.errors import SettingsError
from tunesmith.evaluate import evaluate as measure
from tunesmith.evaluate import likelihood_rows
from tunesmith.model import LoadedModel, load_base
from tunesmith.prompts import check_template, prepare_tokenizer
from tunesmith.train import Observer, TrainResult
from tunesmith.types import Example


class FinetuningConfig:
    """Settings by our dotted names or by anybody's: `num_train_epochs`, `lora_r`, `dataset_path`, `use_lora` ...

    Every assignment is checked at once and can be repeated, as in a loop over learning rates; the last one holds, by
    whichever name.

    Raises:
        SettingsError: a name is unknown or a value not allowed; the nearest name and the range are told.
    """

    def __init__(self, *, recipe: str | None = None, config_file: str | Path | None = None, **settings: object) -> None:
        object.__setattr__(self, "_base", {"recipe": recipe, "file": config_file})
        object.__setattr__(self, "_settings", settings)
        object.__setattr__(self, "run_config", load_config(recipe=recipe, file=config_file, overrides=settings))

    run_config: RunConfig
    _base: dict[str, Any]
    _settings: dict[str, object]

    def __setattr__(self, name: str, value: object) -> None:
        # its place is at the end now, behind other names of the same setting
        settings = {other: was for other, was in self._settings.items() if other != name} | {name: value}
        object.__setattr__(self, "run_config", load_config(**self._base, overrides=settings))
        object.__setattr__(self, "_settings", settings)

    def __getattr__(self, name: str) -> object:
        if name in self.__dict__.get("_settings", {}):
            return self._settings[name]
        raise AttributeError(f"{name!r} was not set; FinetuningConfig.run_config holds every resolved setting")


class ModelFinetuner:
    """Load, train, evaluate, save and generate. Each `train()` makes a new run under runs/ (or in `output_dir`).

    Raises:
        SettingsError: the config is no FinetuningConfig.
    """

    def __init__(self, config: FinetuningConfig | None = None) -> None:
        self.config = FinetuningConfig() if config is None else config
        fix = 'give FinetuningConfig(model_name="...", train_file="...", ...)'
        check_kind("config", self.config, FinetuningConfig, fix=fix)
        self.result: TrainResult | None = None
        self._base: LoadedModel | None = None
        self._reference: str | None = None  # of the tuned model
        self._session: Session | None = None

    def load_model(self) -> None:
        """Load the base model, so that a wrong path or a missing device is told before anything else is done.

        Raises:
            ResourceError: the model, the device or bitsandbytes is not here. SettingsError: float16 on a CPU.
        """
        config = self.config.run_config
        settings = config.model
        self._base = load_base(
            settings.path,
            revision=settings.revision,
            dtype=settings.dtype,
            device=settings.device,
            quantize=quantize_of(config.method.name, settings.quantize),
        )

    def train(self, *, observers: Iterable[Observer] = ()) -> TrainResult:
        """Fine-tune on the configured file. Returns the finished run, whose model `generate` and `test` load.

        Raises:
            SettingsError, DataError, ResourceError, TrainingError, Stopped: as `tunesmith.api.train`.
        """
        self._base = self._session = None  # training loads a base of its own: these would take as much memory again
        self.result = run_training(self.config.run_config, observers=list(observers))
        self._reference = str(self.result.run.path.absolute())
        return self.result

    def evaluate(self) -> float | None:
        """Best validation loss, in nats per token; None when there are no validation rows.

        It is that of the saved weights, unless `train.keep_best` is off.

        Raises:
            SettingsError: nothing has been trained yet.
        """
        return self._finished().state.best_loss

    def test(self, rows: Iterable[Mapping[str, str]]) -> dict[str, float]:
        """Score the tuned model on rows of {"question", "answer"} (or "prompt"/"completion", "instruction"/"output").

        Returns:
            the scores of `eval.metrics` by name; by default those that suit the rows.

        Raises:
            SettingsError: there is no tuned model yet, or a row has no question or answer. DataError: one is no text.
        """
        session = self._tuned()
        examples = examples_of(rows)
        encoded = encoded_for(session, examples)
        with session.engine() as engine:
            return measure(engine, examples, encoded, config=session.config, labels=session.labels).metrics

    def likelihood_rows(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """Nats, tokens and bytes of the right answers, for a `ModelEvaluator` that is given `generate`: (rows, 3).

        Raises:
            DataError: no row has an answer.
        """
        session = self._answering()
        with session.engine() as engine:
            return likelihood_rows(engine, encoded_for(session, examples))

    def save_model(self) -> Path:
        """Folder of the saved model. Training has saved it already; this tells where.

        Raises:
            SettingsError: nothing has been trained yet.
        """
        return self._finished().run.model_dir

    def load_finetuned_model(self, path: str | Path) -> None:
        """Load a run (folder or name) or a model folder for `generate` and `test`.

        Raises:
            SettingsError, ResourceError: as `tunesmith.open_session`.
        """
        self._reference, self._session = str(path), open_session(path)

    def generate(self, prompt: str, *, max_new_tokens: int | None = None, temperature: float | None = None) -> str:
        """One answer: of the tuned model when there is one, else of the base model that `load_model` loaded.

        Raises:
            SettingsError: no text, or a value out of range. DataError: the model reads no prompt of this length.
            ResourceError: the model is not there.
        """
        check_kind("prompt", prompt, str, fix="give one question as text, and several one after the other")
        session = self._answering()
        asked = Session(session.loaded, session.template, session.config, labels=session.labels)
        for name, value in (("max_new_tokens", max_new_tokens), ("temperature", temperature)):
            if value is not None:
                asked.set_generation(name, value)
        return asked.answer(asked.conversation(prompt))

    def _answering(self) -> Session:
        """The tuned model, else the base."""
        if self._reference is not None:
            return self._tuned()
        if self._base is None:
            self.load_model()
        assert self._base is not None
        base, config = self._base, self.config.run_config
        prepare_tokenizer(base.tokenizer, base.model.config.vocab_size)
        return Session(base, check_template(config.prompt.template, base.tokenizer), config, is_tuned=False)

    def _tuned(self) -> Session:
        if self._reference is None:
            raise SettingsError("there is no tuned model yet", fix="call train() or load_finetuned_model(path) first")
        if self._session is None:
            self._session = open_session(self._reference)
        return self._session

    def _finished(self) -> TrainResult:
        if self.result is None:
            raise SettingsError("nothing has been trained yet", fix="call train() first")
        return self.result
