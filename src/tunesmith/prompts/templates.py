"""Which Jinja source turns messages into text: the built-in ones, the tokenizer's own, or a text written by the user.

Everything is chat-template source over `messages`, so a saved model folder carries it and any other tool renders the
same text from it. This file knows text only: no token ids, no rendering, no probing.
"""

from __future__ import annotations

import datetime
import difflib
import json
import re
import string
from importlib import resources
from typing import TYPE_CHECKING

from tunesmith.errors import SettingsError, did_you_mean
from tunesmith.types import Finding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_Parts = list[tuple[str, str]]


def _read_source(name: str) -> str:
    return (resources.files("tunesmith.prompts") / "jinja" / f"{name}.jinja").read_text(encoding="utf-8")


TEMPLATES: dict[str, str] = {name: _read_source(name) for name in ("qa", "alpaca", "plain")}

PLACEHOLDERS = {
    "question": "question",
    "prompt": "question",
    "instruction": "question",
    "user": "question",
    "answer": "answer",
    "completion": "answer",
    "output": "answer",
    "response": "answer",
    "input": "input",
    "context": "input",
    "system": "system",
}
# Llama 3's own fallback when it knows no date. A template that writes today's date would train on one prompt and be
# asked with another the day after, and a resumed run would see other token ids than the interrupted one.
FIXED_DATE = datetime.date(2024, 7, 26)
# Written at the head of a source, so that a saved folder is read back the way it was trained.
_THINKING = {True: "{%- set enable_thinking = true -%}", False: "{%- set enable_thinking = false -%}"}
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


def choose_source(name: str, tokenizer: PreTrainedTokenizerBase, *, shape: str | None = None) -> tuple[str, str]:
    """Resolve a setting of prompt.template to a template's name and Jinja source.

    auto is plain for plain text, which has no turns; else the tokenizer's chat template if it has one, else alpaca for
    instruction data and qa for everything else.
    The text templates start with the BOS token when the tokenizer writes one before plain text.

    Raises:
        SettingsError: an unknown name, a custom text with a wrong placeholder, or no chat template to take.
    """
    if "{" in name or "\n" in name:
        return "custom", _with_bos(compile_text(name), tokenizer)
    if name == "auto":
        fallback = "alpaca" if shape == "instruction" else "qa"
        name = "plain" if shape == "text" else "chat" if tokenizer.chat_template else fallback
    if name == "chat":
        return name, _own_source(tokenizer)
    if name not in TEMPLATES:
        known = ["auto", "chat", *TEMPLATES]
        raise SettingsError(
            f"prompt.template: there is no template {name!r}{did_you_mean(name, known)}",
            fix=f"take one of {', '.join(known)}, or a text with {{question}} and {{answer}} in it",
        )
    return name, _with_bos(TEMPLATES[name], tokenizer)


def compile_text(text: str) -> str:
    r"""Jinja source of a text with placeholders. Literal braces are doubled; \n, \t and \\ may be written out.

    "Q: {question}\nA: {answer}" -> "Q: why\nA: because<eos>"; the prompt that asks for an answer is "Q: why\nA:",
    because a tokenizer joins a space to the word after it. Without {answer} the answer follows the text, after a space
    unless the text ends with white space. Text up to {system} is written once, before the first question; {input} is
    the context of instruction data; either is appended where the text has no place for it. Turns are separated by a
    blank line.

    Raises:
        SettingsError: no {question}, an unknown placeholder, or one where it cannot stand.
    """
    parts = _parse(text)
    names = [value for kind, value in parts if kind == "field"]
    _check_fields(text, names)
    before, _, after = _split_at(parts, "answer")
    last_field = max(index for index, (kind, _) in enumerate(before) if kind == "field")
    ask, lead = before[: last_field + 1], "".join(value for _, value in before[last_field + 1 :])
    if "answer" not in names and not lead[-1:].isspace():
        lead += " "
    opening, found, rest = _split_at(ask, "system")
    if found:
        kind, value = rest[0]
        blank = value[: len(value) - len(value.lstrip())] if kind == "text" else ""
        opening = [*opening, ("field", "system"), ("text", blank)]
        ask = [(kind, value[len(blank) :]), *rest[1:]]
    else:
        opening = []
    return _assemble(opening=opening, ask=ask, lead=lead, suffix="".join(value for _, value in after))


def fix_source(source: str, *, thinking: bool) -> tuple[str, list[Finding]]:
    """Take out of a chat template what would make its text depend on the day or on a switch that other tools set.

    Dates become `FIXED_DATE`. The switch of hybrid reasoning models (Qwen3, SmolLM3) is fixed: off unless `thinking`,
    so that the empty thinking block belongs to the prompt and not to what is trained. A source that was fixed before,
    in a saved folder, stays as it is.
    """
    findings = []
    dated = re.sub(
        r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""", lambda match: _literal(FIXED_DATE.strftime(match[2])), source
    )
    if dated != source:
        findings.append(
            Finding("note", "template-date", f"the chat template writes the date; it is fixed at {FIXED_DATE:%d %b %Y}")
        )
    if dated.startswith(tuple(_THINKING.values())):
        return dated, findings
    if thinking or "enable_thinking" in dated:
        dated = _THINKING[thinking] + dated
    if "enable_thinking" in source and not thinking:
        findings.append(
            Finding(
                "note",
                "template-thinking",
                "the model can think before it answers; it is trained and asked without thinking",
            )
        )
    return dated, findings


def trains_thinking(source: str) -> bool:
    """Whether a source was fixed for answers that think, so what it writes before an answer is part of the answer."""
    return source.startswith(_THINKING[True])


def add_generation_prompt(source: str, lead: str) -> str:
    """Let `source` end with `lead` when a prompt is asked for: the heading it writes before every answer."""
    return f"{source.removesuffix(chr(10))}{{% if add_generation_prompt %}}{{{{ {_literal(lead)} }}}}{{% endif %}}"


def reads_context(source: str) -> bool:
    """Whether a template has a place of its own for message['context']."""
    return re.search(r"\[['\"]context['\"]\]|message\.context\b", source) is not None


def _with_bos(source: str, tokenizer: PreTrainedTokenizerBase) -> str:
    return "{{- bos_token -}}" + source if writes_bos(tokenizer) and "bos_token" not in source else source


def writes_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts its BOS token before plain text, as its model saw it in pre-training."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _own_source(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise SettingsError(
            "prompt.template is chat, but this model's tokenizer has no chat template",
            fix=f"set prompt.template to one of {', '.join(TEMPLATES)}, or to a text with {{question}} and {{answer}}",
        )
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise SettingsError(
            "prompt.template is chat, but the tokenizer has several chat templates and none is the default",
            cause=str(error),
            fix=f"name one of them `default` in tokenizer_config.json, or take one of {', '.join(TEMPLATES)}",
        ) from error


def _parse(text: str) -> _Parts:
    """("text", literal) and ("field", part) in order."""
    parts: _Parts = []
    try:
        for literal, field, spec, conversion in string.Formatter().parse(text):
            if literal:
                parts.append(("text", re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], literal)))
            if field is not None:
                if field not in PLACEHOLDERS or spec or conversion:
                    raise _wrong_text(text, f"unknown placeholder {{{field}}}{_nearest(field)}")
                parts.append(("field", PLACEHOLDERS[field]))
    except ValueError as error:
        raise _wrong_text(text, f"{error}; braces that are meant as text are doubled: {{{{ and }}}}") from error
    return parts


def _check_fields(text: str, names: list[str]) -> None:
    if "question" not in names:
        raise _wrong_text(text, "there is no {question} in it")
    if "answer" in names and names.index("answer") != len(names) - 1:
        raise _wrong_text(text, "{answer} must be the last placeholder: nothing that follows it can be asked")
    if "system" in names and (names.index("system") > names.index("question") or names.count("system") > 1):
        raise _wrong_text(text, "{system} must stand once, before {question}")


def _wrong_text(text: str, problem: str) -> SettingsError:
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    return SettingsError(
        f"prompt.template {text!r}: {problem}",
        cause=f"known placeholders: {known}",
        fix="write for example 'Instruction: {question}\\n\\nResponse: {answer}'",
    )


def _nearest(field: str) -> str:
    near = difflib.get_close_matches(field.lower(), PLACEHOLDERS, n=1)
    return f"; did you mean {{{near[0]}}}?" if near else ""


def _split_at(parts: _Parts, field: str) -> tuple[_Parts, bool, _Parts]:
    if ("field", field) not in parts:
        return parts, False, []
    index = parts.index(("field", field))
    return parts[:index], True, parts[index + 1 :]


def _assemble(*, opening: _Parts, ask: _Parts, lead: str, suffix: str) -> str:
    """The user's words enter the source as string literals only, so they cannot become Jinja code."""
    expressions = {
        "question": "message['content']",
        "input": "message['context'] | default('')",
        "system": "messages[0]['content'] if messages[0]['role'] == 'system' else ''",
    }

    def write(parts: _Parts) -> str:
        written = [expressions[value] if kind == "field" else _literal(value) for kind, value in parts]
        return "".join(f"{{{{ {expression} }}}}" for expression in written)

    # With {system} in the text the first message is written there, so nothing has been written before the second one.
    skip_first = " and not (loop.index0 == 1 and messages[0]['role'] == 'system')" if opening else ""
    system = "" if opening else "{{ message['content'] }}"
    first_system = "loop.first and message['role'] == 'system'"
    return (
        "{# A text with placeholders, written by the user of this model. #}"
        "{% set state = namespace(opened=false) %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}"
        f"{write([('text', lead)])}{{{{ message['content'] }}}}{write([('text', suffix)])}{{{{ eos_token }}}}"
        f"{{% elif {first_system} %}}{system}"
        "{% else %}"
        f"{{% if not loop.first{skip_first} %}}{{{{ '\\n\\n' }}}}{{% endif %}}"
        "{% if message['role'] == 'user' %}"
        f"{{% if not state.opened %}}{{% set state.opened = true %}}{write(opening)}{{% endif %}}{write(ask)}"
        "{% elif message['role'] == 'tool' %}{{ '### Tool: ' + message['content'] }}"
        "{% else %}{{ message['content'] }}{% endif %}"
        "{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}{write([('text', lead.rstrip(' '))])}{{% endif %}}"
    )


def _literal(text: str) -> str:
    """A Jinja string literal; both read \\uXXXX and the usual escapes, and non-ASCII letters stand as they are."""
    return json.dumps(text, ensure_ascii=False)
