"""What a run cannot become, judged before its weights are read, always with what to export instead.

Each function lists the problems that a run has with one target. Also what Ollama is told of a run, since it may be that
it cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith.config import METHODS
from tunesmith.errors import SettingsError
from tunesmith.export.architectures import context_length, find_architecture
from tunesmith.export.mlx_layouts import find_layout
from tunesmith.export.modelfile import Modelfile, licence_text, make_parameters, require_writable
from tunesmith.export.vocabulary import read_vocabulary
from tunesmith.export.workshop import Trained, trained_frame


def refuse_merged(trained: Trained) -> list[str]:
    method = METHODS[trained.facts.method]
    if method.mergeable:
        return []
    return [f"merged: {method.title} cannot be put into the base's weights; export it with --to adapter"]


def refuse_gguf(trained: Trained) -> list[str]:
    problems = [problem.replace("merged: ", "gguf: ", 1) for problem in refuse_merged(trained)]
    return problems + [f"gguf: {problem}" for problem in _gguf_problems(trained, vocabulary=True)]


def refuse_ollama(trained: Trained) -> list[str]:
    problems = [problem.replace("gguf: ", "ollama: ", 1) for problem in refuse_gguf(trained)]
    if problems:  # the vocabulary, which says whether BOS is added, cannot be read
        return problems
    try:
        trained_frame(trained)
        make_modelfile(trained)
    except SettingsError as error:
        problems.append("ollama: " + "; ".join(part for part in (error.message, error.cause, error.fix) if part))
    return problems


def make_modelfile(trained: Trained, examples: Sequence[tuple[str, str]] = ()) -> Modelfile:
    """What Ollama is told of a run.

    Args:
        examples: questions and answers to put before every conversation.

    Raises:
        SettingsError: its template, system prompt or an example cannot be written for Ollama.
    """
    parameters = make_parameters(
        trained.generate,
        trained.tokenizer,
        trained.template.stop_ids,
        context=context_length(trained.config),
        max_length=trained.max_length,
    )
    own_stops = trained.tokenizer.convert_ids_to_tokens(list(trained.template.stop_ids))
    for what, text in (
        ("prompt.system", trained.facts.system or ""),
        ("generate.stop", " ".join(trained.generate.stop)),
        ("a stop token of its tokenizer", " ".join(own_stops)),
    ):
        require_writable(text, what=what)
    return Modelfile(
        template=trained_frame(trained).source(),
        parameters=parameters,
        system=trained.facts.system,
        licence=licence_text(trained.facts.license),
        messages=tuple(turn for asked, answered in examples for turn in (("user", asked), ("assistant", answered))),
    )


def refuse_gguf_lora(trained: Trained) -> list[str]:
    method = METHODS[trained.facts.method]
    problems = [f"gguf-lora: {problem}" for problem in _gguf_problems(trained, vocabulary=False)]
    if method.gguf != "adapter" or trained.modules_to_save:
        extra = " with method.modules_to_save" if method.gguf == "adapter" else ""
        wanted = f"{method.title}{extra} has no GGUF adapter; export the whole model with --to gguf"
        problems.append(f"gguf-lora: {wanted}")
    return problems


def refuse_adapter(trained: Trained) -> list[str]:
    method = METHODS[trained.facts.method]
    return [] if method.is_adapter else [f"adapter: {method.title} has none; export the whole model with --to merged"]


def _gguf_problems(trained: Trained, *, vocabulary: bool) -> list[str]:
    found = _problems(lambda: find_architecture(trained.config))
    if vocabulary:
        found += _problems(lambda: read_vocabulary(trained.tokenizer, trained.template, size=trained.config.vocab_size))
    return found


def refuse_mlx(trained: Trained) -> list[str]:
    problems = [problem.replace("merged: ", "mlx: ", 1) for problem in refuse_merged(trained)]
    return problems + [f"mlx: {problem}" for problem in _problems(lambda: find_layout(trained.config))]


def refuse_mlx_lora(trained: Trained) -> list[str]:
    method = METHODS[trained.facts.method]
    problems = [f"mlx-lora: {problem}" for problem in _problems(lambda: find_layout(trained.config))]
    if not method.has_rank or trained.modules_to_save:
        extra = " with method.modules_to_save" if method.has_rank else ""
        instead = "the whole model with --to mlx" if method.mergeable else "with --to adapter"
        problems.append(f"mlx-lora: {method.title}{extra} has no adapter in mlx-lm; export {instead}")
    return problems


def _problems(judge: Callable[[], object]) -> list[str]:
    try:
        judge()
    except SettingsError as error:
        return list(error.problems) or [f"{error.message}; {error.fix}"]
    return []
