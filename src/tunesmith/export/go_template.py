"""The chat template of a run as a template of Ollama, in Go's text/template.

A Jinja template can do more than Ollama's, so it is not translated: known conversations are rendered with it, cut at
their contents, and what stands between is written as a Go template. That is proven on other conversations before it is
used; a template that does not take this form is refused. Knows text only: no files, no server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tunesmith.errors import DataError, SettingsError
from tunesmith.prompts import Template, prompt_text, shared_length
from tunesmith.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLES: tuple[Literal["user", "assistant"], ...] = ("user", "assistant")
_SYSTEM = "Probe of a system text"
_QUESTIONS = ("First probe question", "Second probe question")
_ANSWER = "Probe answer"
_ODD = ('a "b" {{ .Content }} {% if %}\n\t- é 你好 🙂 \\n.', "one\n\n\ntwo", "{{ end }}")
_CONVERSATIONS: tuple[tuple[str, ...], ...] = (
    ("Why?",),
    (_ODD[0],),
    (_ODD[1], _ODD[2], _ODD[0]),
    ("One", "1", "Two", "2", "Three", "3", "Four"),
    (_ODD[2], _ODD[1], "Why?", _ODD[0], "x"),
)
_EDGES = ("  \n edges \n ", " of \n\n", "\n all ")
_FIX = "export to gguf, and serve it with llama-server, which runs the chat template itself"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a chat template writes around the messages of a conversation that asks for an answer.

    opening: before a conversation without a system text; system_prefix, system_suffix: around one. closing: after
    the last question, up to where the answer begins; user_suffix: after an earlier one. trims: the chat template takes
    white space off the ends of some messages, which Go templates cannot. BOS is left out where llama.cpp adds it.
    """

    opening: str
    system_prefix: str
    system_suffix: str
    user_prefix: str
    user_suffix: str
    assistant_prefix: str
    assistant_suffix: str
    closing: str
    trims: bool = False

    def takes(self, turns: Sequence[Mapping[str, str]]) -> bool:
        """Whether the same prompt comes out: a system text or none, then question and answer in turn, a question last.

        Contexts (the input of instruction data) have no place in Ollama's messages.
        """
        roles = [turn["role"] for turn in turns]
        talk = roles[1:] if roles[:1] == ["system"] else roles
        alternates = len(talk) % 2 == 1 and talk == (["user", "assistant"] * len(talk))[: len(talk)]
        plain = all("context" not in turn for turn in turns)
        edges = self.trims and any(turn["content"] != turn["content"].strip() for turn in turns)
        return alternates and plain and not edges

    def render(self, turns: Sequence[Mapping[str, str]]) -> str:
        """What Ollama writes for a conversation that it takes."""
        is_told = turns[0]["role"] == "system" and turns[0]["content"] != ""
        parts = [self.system_prefix, turns[0]["content"], self.system_suffix] if is_told else [self.opening]
        for index, turn in enumerate(turns):
            is_last = index == len(turns) - 1
            if turn["role"] == "user":
                parts += [self.user_prefix, turn["content"], self.closing if is_last else self.user_suffix]
            elif turn["role"] == "assistant":
                parts += [self.assistant_prefix, turn["content"], "" if is_last else self.assistant_suffix]
        return "".join(parts)

    def source(self) -> str:
        """The Go template. Every text is a quoted string, so no white space and no brace of it can be misread."""
        system = f"{{{{- if .System }}}}{_text(self.system_prefix)}{{{{ .System }}}}{_text(self.system_suffix)}"
        user = f"{_text(self.user_prefix)}{{{{ .Content }}}}"
        user += f"{{{{ if $last }}}}{_text(self.closing)}{{{{ else }}}}{_text(self.user_suffix)}{{{{ end }}}}"
        assistant = f"{_text(self.assistant_prefix)}{{{{ .Content }}}}"
        assistant += f"{{{{ if not $last }}}}{_text(self.assistant_suffix)}{{{{ end }}}}"
        return "\n".join(
            [
                f"{system}{{{{ else }}}}{_text(self.opening)}{{{{ end }}}}",
                "{{- range $i, $_ := .Messages }}",
                "{{- $last := eq (len (slice $.Messages $i)) 1 }}",
                f'{{{{- if eq .Role "user" }}}}{user}',
                f'{{{{- else if eq .Role "assistant" }}}}{assistant}',
                "{{- end }}",
                "{{- end }}",
            ]
        )


def find_frame(template: Template, tokenizer: PreTrainedTokenizerBase, *, add_bos: bool) -> Frame:
    """The frame of a chat template, proven on conversations it was not derived from.

    Args:
        add_bos: llama.cpp puts BOS before a prompt, so the template must not.

    Raises:
        SettingsError: no Go template of this form writes the same prompts; says for which conversation.
    """
    bos = str(tokenizer.bos_token) if add_bos else ""

    def write(*contents: str, system: str | None = None, first: str = "user") -> str:
        start = 0 if first == "user" else 1
        messages = [Message(_ROLES[index % 2], content) for index, content in enumerate(contents, start)]
        if system is not None:
            messages.insert(0, Message("system", system))
        text = prompt_text(messages, template, tokenizer)
        if not text.startswith(bos):
            cause = f"its prompts do not begin with {bos!r}, which llama.cpp would add"
            raise SettingsError(_refusal(), cause=cause, fix=_FIX)
        return text.removeprefix(bos)

    try:
        question, follow_up = _QUESTIONS
        head, middle, between, closing = _cut(write(question, _ANSWER, follow_up), question, _ANSWER, follow_up)
        system_prefix, behind, *_ = _cut(write(question, system=_SYSTEM), _SYSTEM, question)
    except DataError as error:
        raise SettingsError(_refusal(), cause=error.cause or error.message, fix=_FIX) from error
    user_prefix = _shared_end(_shared_end(head, between), behind)
    try:
        lead, *_ = _cut(write(_ANSWER, question, first="assistant"), _ANSWER, question)
    except (DataError, SettingsError):
        lead = ""  # it takes no conversation that begins with an answer
    assistant_prefix = _shared_end(lead, middle)
    frame = Frame(
        opening=_without_end(head, user_prefix),
        system_prefix=system_prefix,
        system_suffix=_without_end(behind, user_prefix),
        user_prefix=user_prefix,
        user_suffix=_without_end(middle, assistant_prefix),
        assistant_prefix=assistant_prefix,
        assistant_suffix=_without_end(between, user_prefix),
        closing=closing,
    )

    def told(contents: Sequence[str], system: str | None) -> list[dict[str, str]]:
        turns = [{"role": str(_ROLES[index % 2]), "content": content} for index, content in enumerate(contents)]
        return turns if system is None else [{"role": "system", "content": system}, *turns]

    for system in (None, _SYSTEM, _ODD[0].strip()):
        for contents in _CONVERSATIONS:
            turns = told(contents, system)
            _require_same(write(*contents, system=system), frame.render(turns), turns)
    turns = told(_EDGES, None)
    expected, found = write(*_EDGES), frame.render(turns)
    if "".join(expected.split()) != "".join(found.split()):
        _require_same(expected, found, turns)
    frame = replace(frame, trims=expected != found)
    return frame


def _require_same(expected: str, found: str, turns: Sequence[Mapping[str, str]]) -> None:
    if expected == found:
        return
    shared = shared_length(expected, found)
    roles = ", ".join(turn["role"] for turn in turns)
    raise SettingsError(
        _refusal(),
        cause=f"for {roles} it writes {expected[shared : shared + 60]!r} where a template of turns, each written the "
        f"same way, would write {found[shared : shared + 60]!r}",
        fix=_FIX,
    )


def _cut(text: str, *contents: str) -> list[str]:
    """What stands before, between and after contents that are in a text once each, in order."""
    parts = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found or content in text:
            raise SettingsError(
                _refusal(), cause=f"it does not write every message once and in order: {content!r}", fix=_FIX
            )
        parts.append(before)
    return [*parts, text]


def _refusal() -> str:
    return "the chat template cannot be written as a template of Ollama"


def _shared_end(first: str, second: str) -> str:
    length = shared_length(first[::-1], second[::-1])
    return first[len(first) - length :]


def _without_end(text: str, end: str) -> str:
    return text[: len(text) - len(end)]


def _text(text: str) -> str:
    """An action that writes a text, as a string literal of Go; a Modelfile drops characters that are not printable."""
    if not text:
        return ""
    return f'{{{{ "{"".join(_escape(character) for character in text)}" }}}}'


def _escape(character: str) -> str:
    if character == "\n":
        return "\\n"
    if character == "\\":
        return "\\\\"
    if character != '"' and character.isascii() and character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
