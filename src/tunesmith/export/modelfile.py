"""What Ollama is told of a model besides its weights: the Modelfile, and the same for its HTTP API.

Source of the grammar: ollama/ollama, parser/parser.go; of the names: api/types.go. Knows no files and no server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.config import GenerateConfig
from tunesmith.errors import SettingsError
from tunesmith.export.card_facts import License

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What Ollama gives a model that asks for nothing: a longer context than trained on is kept for conversations.
_USUAL_CONTEXT = 4096
_QUOTES = '"""'


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelfile:
    """template: in Go. parameters: Ollama's names; "stop" holds a list. system: put before conversations without one.

    messages: roles and contents of turns that Ollama puts before every conversation. None unless they are asked for:
    with them no prompt is as it was trained.
    """

    template: str
    parameters: Mapping[str, float | list[str]]
    system: str | None = None
    licence: str | None = None
    messages: tuple[tuple[str, str], ...] = ()

    def text(self, file_name: str, *, origin: str) -> str:
        """The Modelfile. file_name: of the GGUF file beside it. origin: a comment of one line."""
        lines = [f"# {' '.join(origin.split())}", f"FROM ./{file_name}", f"TEMPLATE {_quote(self.template)}"]
        for name, value in self.parameters.items():
            values = value if isinstance(value, list) else [value]
            lines += [parameter_line(name, one) for one in values]
        if self.system is not None:
            lines.append(f"SYSTEM {_quote(self.system)}")
        if self.licence is not None:
            lines.append(f"LICENSE {_quote(self.licence)}")
        lines += [f"MESSAGE {role} {_quote(content)}" for role, content in self.messages]
        return "\n".join(lines) + "\n"

    def request(self, model: str, files: Mapping[str, str]) -> dict[str, object]:
        """Body of POST /api/create. files: name -> digest of a blob that the server has."""
        body: dict[str, object] = {
            "model": model,
            "files": dict(files),
            "template": self.template,
            "parameters": dict(self.parameters),
            "stream": True,
        }
        if self.system is not None:
            body["system"] = self.system
        if self.licence is not None:
            body["license"] = [self.licence]
        if self.messages:
            body["messages"] = [{"role": role, "content": content} for role, content in self.messages]
        return body


def parameter_line(name: str, value: float | str) -> str:
    """The line of a Modelfile that sets a parameter; of several stops each has one."""
    return f"PARAMETER {name} {_quote(value) if isinstance(value, str) else value}"


def make_parameters(
    generate: GenerateConfig,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: tuple[int, ...],
    *,
    context: int,
    max_length: int,
) -> dict[str, float | list[str]]:
    """How answers are written, in Ollama's names.

    Args:
        stop_ids: every token that ends an answer. context: tokens that the model takes; max_length: of a training row.
    """
    parameters: dict[str, float | list[str]] = {
        "temperature": generate.temperature,
        "top_p": generate.top_p,
        "top_k": generate.top_k,
        "min_p": 0,
        "repeat_penalty": generate.repetition_penalty,
        "num_predict": generate.max_new_tokens,
        "num_ctx": min(context, max(_USUAL_CONTEXT, max_length + generate.max_new_tokens)),
    }
    if generate.repetition_penalty != 1:
        parameters["repeat_last_n"] = -1  # as far back as the context goes, as in Python
    stops = [str(token) for token in tokenizer.convert_ids_to_tokens(list(stop_ids))]
    return {**parameters, "stop": list(dict.fromkeys([*stops, *generate.stop]))}


def licence_text(licence: License | None) -> str | None:
    """A licence in words; None where it is not known."""
    if licence is None:
        return None
    parts = [", ".join(licence.identifiers), licence.name or "", licence.link or ""]
    return " ".join(part for part in parts if part)


def require_writable(text: str, *, what: str) -> None:
    """Refuse a text that a Modelfile cannot hold: its parser drops characters that are not printable.

    Raises:
        SettingsError: names the characters.
    """
    if not is_writable(text):
        lost = _lost(text)
        shown = ", ".join(f"U+{ord(character):04X}" for character in lost[:5]) or "three quotation marks in a row"
        raise SettingsError(f"{what} cannot be written into a Modelfile: it has {shown}", fix="take them out of it")


def is_writable(text: str) -> bool:
    """Whether a Modelfile can hold it."""
    return _QUOTES not in text and not _lost(text)


def _lost(text: str) -> list[str]:
    return sorted({character for character in text if not (character.isprintable() or character in "\n\t ")})


def _quote(text: str) -> str:
    return f"{_QUOTES}{text}{_QUOTES}" if "\n" in text or '"' in text else f'"{text}"'
