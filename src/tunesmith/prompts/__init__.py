"""Messages to token ids: the templates, the one renderer, and the probe that refuses a template it cannot prove."""

from tunesmith.prompts.check import check_template
from tunesmith.prompts.probe import shared_length
from tunesmith.prompts.render import Template, prompt_text, prompt_turns, render, render_prompt
from tunesmith.prompts.sandbox import render_source
from tunesmith.prompts.templates import TEMPLATES, writes_bos
from tunesmith.prompts.tokens import prepare_tokenizer

__all__ = [
    "TEMPLATES",
    "Template",
    "check_template",
    "prepare_tokenizer",
    "prompt_text",
    "prompt_turns",
    "render",
    "render_prompt",
    "render_source",
    "shared_length",
    "writes_bos",
]
