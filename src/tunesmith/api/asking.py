"""What one model of a comparison answers: read where it is kept as a whole, else the model is opened and asked.

Answers of a run, of its base and of its checkpoints are known by what is on disk, without loading anything; those of
other models of this machine are kept too, but the model is opened to know which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.api.held_out import encoded_for
from tunesmith.api.models import BASE, checkpoint_folder, open_model, run_of, weight_bytes
from tunesmith.api.records import answered_file, answers_file
from tunesmith.config import RunConfig, load_config
from tunesmith.evaluate import Answer, AnswerLog, answer_all, ask_all, choose_all, fitting_prompts, likelihood_of
from tunesmith.generate import OLLAMA, Endpoint
from tunesmith.runs import Run, keep_result, kept_result
from tunesmith.types import Example

_SCHEMA_VERSION = 2  # 1 had no likelihood
_Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What every model is asked. labels: to choose from; empty to let it write. settings: see `models.opening`.

    run: the first one, whose settings `config` are. Of plain texts, which ask nothing, the likelihood is measured.
    """

    examples: Sequence[Example]
    labels: tuple[str, ...]
    config: RunConfig
    settings: Mapping[str, object]
    run: Run | None

    @property
    def is_text(self) -> bool:
        return self.examples[0].text is not None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers in the order of the questions. weight_bytes: memory of the weights; None where it is not known.

    nll: of plain texts instead, (texts, 3) as `likelihood_rows` has it; zeros for one of a single token.
    """

    answers: list[Answer]
    weight_bytes: int | None
    nll: list[list[float]] = field(default_factory=list)

    def keep(self, path: Path) -> None:
        """Write it.

        Raises:
            ResourceError: the disk is full, read-only, over quota or closed to us.
        """
        keep_result(path, asdict(self), version=_SCHEMA_VERSION)

    @staticmethod
    def kept(path: Path) -> Answered | None:
        """What was written; None where nothing was, or nothing that this version reads."""

        def build(content: dict[str, Any]) -> Answered:
            answers = [Answer(**answer) for answer in content["answers"]]
            return Answered(answers, content["weight_bytes"], content["nll"])

        return kept_result(path, build, version=_SCHEMA_VERSION)


def ask_model(reference: str, asked: Asked, folder: Path, on_progress: _Tell) -> Answered:
    """The answers of one model.

    Args:
        folder: where answers are kept.

    Raises:
        ResourceError: it is not there or does not answer; what was answered before is kept. DataError: a question is
            too long for it.
    """
    endpoint = Endpoint.parse(reference)
    if endpoint is not None:
        return _ask_server(reference, endpoint, asked, folder, on_progress)
    run = asked.run if reference == BASE else run_of(reference)
    if run is None:
        return _ask_here(reference, asked, folder, on_progress)
    path = _file(reference, run, asked, folder)
    found = Answered.kept(path)
    if found is None:
        found = _ask_here(reference, asked, folder, on_progress)
        found.keep(path)
    return found


def _file(reference: str, run: Run, asked: Asked, folder: Path) -> Path:
    """Where the answers of a run, its base or its checkpoint to all questions are."""
    own = load_config(stored=run.config_path, overrides=dict(asked.settings))
    how = [asked.config.generate.model_dump(), asked.config.seed, asked.labels]
    prompts = [example.text or [asdict(message) for message in example.prompt] for example in asked.examples]
    return answered_file(
        folder, reference, run, own, checkpoint=checkpoint_folder(reference, run), asked=[how, prompts]
    )


def _ask_here(reference: str, asked: Asked, folder: Path, on_progress: _Tell) -> Answered:
    config, is_base = asked.config, reference == BASE
    name = str(asked.run.path) if is_base and asked.run else reference
    session = open_model(name, {**asked.settings, "seed": config.seed})
    log = AnswerLog(answers_file(folder, reference, config, session))
    size, context = config.eval.batch_size, session.context  # of the base too: see `held_out.ask_session`
    encoded = encoded_for(session, asked.examples) if asked.is_text else []
    with session.engine(base=is_base) as engine:
        if asked.is_text:
            nll = np.zeros((len(asked.examples), 3))
            places, found = likelihood_of(engine, encoded, log=log)
            nll[places] = found
            return Answered([], weight_bytes(engine.model, without_adapter=is_base), nll.tolist())
        fitting = fitting_prompts(asked.examples, engine, asked.labels, context_tokens=context)
        # a question without an answer has none to leave room for
        prompts = [prompt or example.prompt for prompt, example in zip(fitting, asked.examples, strict=True)]
        if asked.labels:
            choices = choose_all(engine, prompts, asked.labels, batch_size=size, log=log, on_progress=on_progress)
            answers = [Answer(choice.label, ended=True, tokens=0, seconds=0.0) for choice in choices]
        else:
            answers = answer_all(
                engine, prompts, config.generate, seed=config.seed, batch_size=size, log=log, on_progress=on_progress
            )
        return Answered(answers, weight_bytes(engine.model, without_adapter=is_base))


def _ask_server(reference: str, endpoint: Endpoint, asked: Asked, folder: Path, on_progress: _Tell) -> Answered:
    config = asked.config
    answers = ask_all(
        endpoint,
        [example.prompt for example in asked.examples],
        config.generate,
        seed=config.seed,
        requests=config.eval.requests,
        log=AnswerLog(answers_file(folder, reference, config, endpoint)),
        on_progress=on_progress,
    )
    return Answered(answers, endpoint.loaded_bytes() if reference.startswith(OLLAMA) else None)
