"""The start-up probe: a template that cannot be trained on or asked with is refused before anything else happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.errors import DataError, SettingsError
from tunesmith.prompts.probe import ANSWERS, QUESTIONS, Fault, find_rules, write_text
from tunesmith.prompts.render import Template, render, render_prompt
from tunesmith.prompts.templates import TEMPLATES, add_generation_prompt, choose_source, fix_source, trains_thinking
from tunesmith.prompts.tokens import find_stops
from tunesmith.types import Encoded, Example, Finding, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_template(
    name: str, tokenizer: PreTrainedTokenizerBase, *, shape: str | None = None, thinking: bool = False
) -> Template:
    """Resolve prompt.template and prove on a probe that it can be trained on and asked with.

    Args:
        name: auto, chat, qa, alpaca, plain, or a text with {question} in it.
        shape: shape of the data, which decides what auto takes where the tokenizer has no chat template.
        thinking: the answers hold <think> blocks, so a hybrid reasoning model keeps its thinking prompt.

    Raises:
        SettingsError: no such template, or the exact fault that the probe found.
    """
    name, source = choose_source(name, tokenizer, shape=shape)
    findings: list[Finding] = []
    if name == "chat":
        source, findings = fix_source(source, thinking=thinking)
    try:
        rules = find_rules(source, tokenizer)
        if rules.lead.strip() and not trains_thinking(source):
            source = add_generation_prompt(source, rules.lead)
            findings.append(
                Finding("note", "template-prompt", f"{rules.lead!r} was added to what the template asks an answer with")
            )
            rules = find_rules(source, tokenizer)
        if not rules.writes_stop:
            findings.append(
                Finding("note", "template-stop", f"the template ends no answer, so {rules.stop!r} is put after each")
            )
        stop_ids = tuple(sorted({rules.stop_id, *find_stops(tokenizer)}))
        template = Template(name, source, stop_ids, rules.stop_id)
        if _prove(template, tokenizer) == 1:
            findings.append(
                Finding(
                    "warning",
                    "template-history",
                    "the template changes the earlier answers of a conversation, so only its last answer is trained on",
                    fix="split conversations into one row for each answer, or set prompt.template to qa",
                )
            )
    except Fault as fault:
        raise SettingsError(
            f"prompt.template: {name!r} cannot be trained on",
            cause=str(fault),
            fix=f"take one of {', '.join(TEMPLATES)}, or correct the chat template in the model's folder",
        ) from fault
    return Template(name, source, stop_ids, rules.stop_id, tuple(findings))


def _prove(template: Template, tokenizer: PreTrainedTokenizerBase) -> int:
    """Render two exchanges, or one where the template takes no more. Returns how many of two answers are trained on.

    Raises:
        Fault: in words; nothing of what training and asking rely on is left unchecked.
    """
    exchanges = [
        (Message("user", question), Message("assistant", answer))
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    messages: tuple[Message, ...] = (*exchanges[0], *exchanges[1])
    try:
        encoded = render(Example(messages), template, tokenizer)
    except DataError:
        messages = exchanges[0]
        encoded = _render_or_fault(messages, template, tokenizer)
    if template.stop_id == tokenizer.pad_token_id:
        raise Fault(f"{tokenizer.pad_token!r} both pads and ends an answer, so the model would never learn to stop")
    answers = len(messages) // 2
    stops = int(((encoded.input_ids == template.stop_id) & encoded.supervised).sum())
    if stops not in (1, answers) or encoded.input_ids[encoded.supervised][-1] != template.stop_id:
        raise Fault(f"{answers} answers end with {stops} stop tokens to train on")
    for end in range(1, len(messages), 2):
        if stops == answers or end == len(messages) - 1:
            _prove_prompt(messages[:end], encoded, template, tokenizer)
    return 1 if stops < answers else len(exchanges)


def _render_or_fault(messages: tuple[Message, ...], template: Template, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    try:
        return render(Example(messages), template, tokenizer)
    except DataError as error:
        raise Fault(error.cause or error.message) from error


def _prove_prompt(
    messages: tuple[Message, ...], encoded: Encoded, template: Template, tokenizer: PreTrainedTokenizerBase
) -> None:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    if messages[-1].content not in write_text(turns, template.source, tokenizer, prompt=True):
        raise Fault("the last question of a conversation is not in its text")
    prompt = render_prompt(messages, template, tokenizer)
    length = len(prompt)
    if encoded.input_ids[:length].tolist() != prompt:
        raise Fault("the ids of the prompt are not the beginning of the ids that are trained on")
    if encoded.supervised[length - 1 : length].any() or not encoded.supervised[length]:
        raise Fault("what is trained on does not begin where the prompt ends")
