"""Chat templates written in the manner of the model families, each with a throw-away tokenizer that has its tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

SENTENCES = [
    "The quick brown fox jumps over the lazy dog. What is a press? A machine that prints books.",
    "### Question: What is a press?\n\n### Answer: A machine that prints.",
    "Below is an instruction that describes a task. ### Instruction:\n### Response:\nYou are a helpful assistant.",
    "system user assistant model [INST] [/INST] Le café était très bon, naïve façade.",
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA32 = (  # the family's date: today's, unless the program has no clock
    '{{ bos_token }}{% if strftime_now is defined %}{% set date = strftime_now("%d %b %Y") %}'
    "{% else %}{% set date = '26 Jul 2024' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date }}\n\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% set messages = messages[1:] %}{% endif %}"
    "<|eot_id|>{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (  # the end-of-text token once more after the last turn, and tokens that swallow the line break after them
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN25 = (  # a hidden default system prompt, and tool results told by the user
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages %}"
    "{%- if (m.role == 'system' and not loop.first) or m.role in ['user', 'assistant'] %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{%- elif m.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + (first if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (  # thinks unless told not to; takes thinking out of the history and writes an empty block for the last answer
    "{%- if messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{%- endif %}"
    "{%- set ns = namespace(last=0) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{%- elif m.role == 'assistant' %}{%- set content = m.content %}{%- set reason = '' %}"
    "{%- if '</think>' in content %}"
    "{%- set reason = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last %}"
    "{{- '<|im_start|>assistant\n<think>\n' + reason + '\n</think>\n\n' + content + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}{%- endif %}"
    "{%- elif m.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
R1 = (  # asks with an open thinking block that it never writes before an answer
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
NO_STOP = (
    "{% for m in messages %}{{ m['role'] | title + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A chat template, the special tokens it writes, and the parts that tokenizers of its kind are made of."""

    template: str | None
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()  # added tokens that are not declared special
    bos: str | None = None
    eos: str | None = "<|endoftext|>"
    pad: str | None = "<pad>"
    pieces: str = (
        "bytes"  # bytes (GPT-2, Qwen, Llama 3), words (SentencePiece), legacy (a word start after every token)
    )
    rstrip: bool = False
    adds_bos: bool = False


IM = ("<|im_start|>", "<|im_end|>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
FAMILIES = {
    "chatml": Family(CHATML, IM, eos="<|im_end|>"),
    "llama3": Family(LLAMA3, HEADERS, bos="<|begin_of_text|>", eos="<|eot_id|>", adds_bos=True),
    "llama3.2": Family(LLAMA32, HEADERS, bos="<|begin_of_text|>", eos="<|eot_id|>", adds_bos=True),
    "gemma": Family(
        GEMMA, ("<start_of_turn>", "<end_of_turn>"), ("<b>", "\n\n"), bos="<bos>", eos="<eos>", adds_bos=True
    ),
    "phi3": Family(PHI3, PHI, bos="<s>", pieces="words", rstrip=True, adds_bos=True),
    "phi3-legacy": Family(PHI3, PHI, bos="<s>", pieces="legacy", rstrip=True),
    "phi4": Family(PHI3, PHI, rstrip=True),
    "qwen2.5": Family(
        QWEN25, IM, ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"), eos="<|im_end|>"
    ),
    "mistral": Family(MISTRAL, ("[INST]", "[/INST]"), bos="<s>", eos="</s>", adds_bos=True),
    "mistral-words": Family(MISTRAL, bos="<s>", eos="</s>", pieces="words", adds_bos=True),
    "mistral-legacy": Family(MISTRAL, bos="<s>", eos="</s>", pieces="legacy", adds_bos=True),
    "qwen3": Family(QWEN3, IM, ("<think>", "</think>", "<tool_response>", "</tool_response>"), eos="<|im_end|>"),
    "r1": Family(R1, (), ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"), bos="<bos>", eos="<eos>"),
    "no-stop": Family(NO_STOP),
    "base": Family(None),
    "base-bos": Family(None, bos="<s>", eos="</s>", adds_bos=True),
    "base-quiet": Family(None, bos="<s>", eos="</s>"),  # has a BOS token and never writes it, as GPT-2 and Phi-2
    "base-words": Family(None, bos="<s>", eos="</s>", pieces="words", adds_bos=True),
}


def build_tokenizer(family: Family) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    named = [token for token in (family.pad, family.bos, family.eos) if token is not None]
    special = list(dict.fromkeys([*named, *family.special]))
    if family.pieces == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = []
    raw_bytes = [f"<0x{value:02X}>" for value in range(256)] if family.pieces != "bytes" else []
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", *raw_bytes], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES * 5, trainer)
    if raw_bytes:  # bytes are pieces of the model here, not added tokens
        backend = _without_added(backend)
    if family.pieces == "legacy":
        backend.pre_tokenizer = None
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    if family.adds_bos:
        backend.add_special_tokens([AddedToken(str(family.bos), special=True, normalized=False)])
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(str(family.bos), backend.token_to_id(str(family.bos)))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=family.bos, eos_token=family.eos, pad_token=family.pad
    )
    rstrip = family.rstrip
    turns = [AddedToken(t, special=True, normalized=False, rstrip=rstrip) for t in special if t not in named]
    tokenizer.add_tokens(turns, special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain])
    tokenizer.chat_template = family.template
    return tokenizer


def _without_added(backend: Any) -> Any:
    import json

    from tokenizers import Tokenizer

    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


@pytest.fixture(scope="session")
def family_tokenizer() -> Callable[[str], Any]:
    """family_tokenizer("llama3") -> its tokenizer. Shared: tests that change one build their own with make_family."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = build_tokenizer(FAMILIES[name])
        return made[name]

    return get


@pytest.fixture
def make_family() -> Callable[..., Any]:
    """make_family("base", pad=None) -> a new tokenizer of the family with fields changed."""
    from dataclasses import replace

    return lambda name, **changes: build_tokenizer(replace(FAMILIES[name], **changes))
