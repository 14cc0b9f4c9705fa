"""Several models open at once, to be asked one question after the other. Scores nothing and keeps nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tunesmith.api.models import BASE, check_names, first_run, open_model, opening, run_of, unsent_settings
from tunesmith.api.session import Session, with_generation
from tunesmith.config import RunConfig, load_config
from tunesmith.generate import Endpoint
from tunesmith.types import Finding, Message

_Ask = Callable[[Sequence[Message], RunConfig], "Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What one model answered. `tokens` is 0 for a label, which is chosen and not written; `is_cut`: it had more."""

    name: str
    text: str
    tokens: int
    seconds: float
    is_cut: bool = False


class Panel:
    """Models that answer the same question, each on its own and without memory of earlier ones.

    config: how answers are written, by the first run among them. system: the system prompt; None for none.
    """

    def __init__(self, members: dict[str, _Ask], config: RunConfig) -> None:
        self._members = members
        self.config = config
        self.system = config.prompt.system

    @property
    def names(self) -> list[str]:
        return list(self._members)

    @property
    def findings(self) -> list[Finding]:
        """What keeps the models from answering in the same way, by the settings as they are now."""
        return unsent_settings(self.names, self.config.generate)

    def ask(self, question: str) -> Iterator[Reply]:
        """The answer of each model, in order, as soon as it is there.

        Raises:
            DataError: the question is too long for a model. ResourceError: a server does not answer.
        """
        system = [Message("system", self.system)] if self.system else []
        for ask in self._members.values():
            yield ask([*system, Message("user", question)], self.config)

    def set_generation(self, name: str, value: str) -> None:
        """Change one of the settings under `generate`, from the next question on.

        Raises:
            SettingsError: the value is out of range.
        """
        self.config = with_generation(self.config, name, value)


def open_panel(references: Sequence[str], overrides: dict[str, object] | None = None) -> Panel:
    """Open several models. `base` and the run that it is the base of are loaded once.

    Args:
        references: as for `compare`.
        overrides: settings of the writing, such as {"max_new_tokens": 64}.

    Raises:
        SettingsError, ResourceError: as `compare`.
    """
    check_names(references)
    run = first_run(references)
    overrides = overrides or {}
    config = load_config(stored=run.config_path if run else None, overrides=overrides)
    settings = {**opening(overrides), "seed": config.seed}
    sessions = {
        reference: open_model(reference, settings)
        for reference in references
        if reference != BASE and Endpoint.parse(reference) is None
    }
    members: dict[str, _Ask] = {}
    for reference in references:
        endpoint = Endpoint.parse(reference)
        if endpoint is not None:
            members[reference] = partial(_remote, reference, endpoint)
        elif reference in sessions:
            members[reference] = partial(_local, reference, sessions[reference], False)
        else:
            first = next(name for name in references if run_of(name) is not None)
            members[reference] = partial(_local, BASE, sessions[first], True)
    return Panel(members, config)


def _local(name: str, session: Session, base: bool, messages: Sequence[Message], config: RunConfig) -> Reply:
    started = time.perf_counter()
    if session.labels:
        return Reply(name, session.choose(messages, base=base).label, 0, time.perf_counter() - started)
    with session.engine(base=base) as engine:
        (found,) = engine.generate([messages], config.generate, seed=config.seed)
    seconds = time.perf_counter() - started
    return Reply(name, found.text, len(found.token_ids), seconds, found.finish_reason == "length")


def _remote(name: str, endpoint: Endpoint, messages: Sequence[Message], config: RunConfig) -> Reply:
    started = time.perf_counter()
    found = endpoint.answer(messages, config.generate, seed=config.seed)
    return Reply(name, found.text, found.tokens, time.perf_counter() - started, not found.ended)
