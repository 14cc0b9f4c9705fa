"""Runs a template and finds out, with known questions and answers, what it does around them.

Knows Jinja source and tokenizers; what is done with an example is render.py's.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import jinja2

from tunesmith.prompts.sandbox import render_source
from tunesmith.prompts.templates import reads_context, writes_bos
from tunesmith.prompts.tokens import ANSWER_TAGS, Marks, Spelling, compile_guard, find_stops

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, str]
# Characters that templates, tokenizers and Jinja treat in their own way; no template may lose them. No white space at
# the ends, which many templates trim.
QUESTIONS = ("Frage 1: \"q\" {{ 7 * 7 }} <b>é</b>\n\t- '你好' 🙂?", "Second {% if %} ### question {}\\n?")
ANSWERS = ("First: 'a' {{ x }} <i>ü</i>\n2. 再见 🙃.", "Second answer #}\\n!")
_OTHER = "Probe of a system text."
_OPERATIONS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError)  # that a template does wrong
_TEMPLATE_FILES = ("<unknown>", "<template>")


class Fault(Exception):
    """What is wrong with a rendering, in words; becomes a SettingsError or a DataError at the public functions."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a probe found out about a template with a tokenizer.

    guard, answer_guard: control tokens that content must not become, in an answer and elsewhere.
    lead, tail: what the template writes between its generation prompt and an answer, and after the answer.
    stop: text of the stop token. writes_stop: the template writes it; otherwise it is added after each answer.
    merges_system, tool_as_user: the template refuses or drops these roles, so the user tells their text.
    """

    guard: re.Pattern[str]
    answer_guard: re.Pattern[str]
    spelling: Spelling
    bos_id: int | None
    stop_id: int
    stop: str
    writes_stop: bool
    lead: str
    tail: str
    reads_context: bool
    merges_system: bool
    tool_as_user: bool


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[str, int], Rules]] = WeakKeyDictionary()


def find_rules(source: str, tokenizer: PreTrainedTokenizerBase) -> Rules:
    """The rules of a template, probed once for each tokenizer.

    Raises:
        Fault: no answer could be trained on with it.
    """
    known = _KNOWN.setdefault(tokenizer, {})
    key = (source, len(tokenizer))  # a token added later may be one that content must not become
    if key not in known:
        known[key] = _probe(source, tokenizer)
    return known[key]


def write_text(turns: list[Turn], source: str, tokenizer: PreTrainedTokenizerBase, *, prompt: bool = False) -> str:
    """Render as transformers would, within the sandbox's bounds. `prompt` asks for an answer at the end.

    Raises:
        Fault: the template's own words and the line they come from.
    """
    specials: dict[str, Any] = tokenizer.special_tokens_map
    try:
        return render_source(source, messages=turns, add_generation_prompt=prompt, **specials)
    except jinja2.TemplateSyntaxError as error:
        raise Fault(f"line {error.lineno} of the template: {error.message}") from error
    except (jinja2.TemplateError, RecursionError, *_OPERATIONS) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename in _TEMPLATE_FILES]
        place = f"line {lines[-1]} of the template: " if lines else ""
        raise Fault(f"{place}{error}") from error


def shared_length(first: str, second: str) -> int:
    """How many characters two texts have in common at their beginning."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))


def require_prefix(start: str, full: str) -> None:
    """Refuse a prompt that the answered conversation does not begin with.

    Raises:
        Fault: how either goes on where they part.
    """
    if not full.startswith(start):
        shared = shared_length(full, start)
        raise Fault(
            f"the prompt for an answer goes on with {start[shared : shared + 40]!r}, "
            f"the answered conversation with {full[shared : shared + 40]!r}"
        )


def _probe(source: str, tokenizer: PreTrainedTokenizerBase) -> Rules:
    user, again = ({"role": "user", "content": question} for question in QUESTIONS)
    reply = {"role": "assistant", "content": ANSWERS[0]}
    system, tool = ({"role": role, "content": _OTHER} for role in ("system", "tool"))
    start = write_text([user], source, tokenizer, prompt=True)
    full = write_text([user, reply], source, tokenizer)
    require_prefix(start, full)
    lead, found, tail = full[len(start) :].partition(ANSWERS[0])
    if QUESTIONS[0] not in start or not found:
        raise Fault(f"the {'answer' if QUESTIONS[0] in start else 'question'} is not in the text it writes")
    longer = _attempt([user, reply, again], source, tokenizer)
    frame = "\n".join([source, *re.split("|".join(map(re.escape, (*QUESTIONS, *ANSWERS))), longer + full)])
    marks = Marks.of(tokenizer)
    controls = marks.controls(frame)
    # What follows an answer wherever it stands comes first: Phi-3 ends every turn, and then the last one once more.
    always = full[len(start + lead + found) : shared_length(longer, full)]
    stop = _last_stop(always, controls, tokenizer) or _last_stop(tail, controls, tokenizer)
    stop_text = stop or tokenizer.eos_token
    if stop_text is None:
        raise Fault("it writes no stop token after an answer, and the tokenizer has no end-of-text token")
    return Rules(
        guard=compile_guard(controls),
        answer_guard=compile_guard(mark for mark in controls if mark not in ANSWER_TAGS),
        spelling=Spelling.of(tokenizer, marks),
        bos_id=tokenizer.bos_token_id if writes_bos(tokenizer) else None,
        stop_id=next(token_id for token_id, text in marks.texts.items() if text == stop_text),
        stop=stop_text,
        writes_stop=stop is not None,
        lead=lead,
        tail=tail,
        reads_context=reads_context(source),
        merges_system=_OTHER not in _attempt([system, user], source, tokenizer),
        tool_as_user=_OTHER not in _attempt([user, reply, tool], source, tokenizer),
    )


def _last_stop(text: str, controls: list[str], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The last control token in what follows an answer; a token known to end turns goes before any other."""
    marks = [mark for mark in controls if mark in text]
    stops = Marks.of(tokenizer).texts
    known = {stops[token_id] for token_id in find_stops(tokenizer)}
    return max(marks, key=lambda mark: (mark in known, text.rfind(mark), len(mark)), default=None)


def _attempt(turns: list[Turn], source: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt after these turns, or nothing where the template refuses their roles, which is what is asked."""
    try:
        return write_text(turns, source, tokenizer, prompt=True)
    except Fault:
        return ""
