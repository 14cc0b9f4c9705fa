"""Small SentencePiece tokenizers in the ways that Llama 2, Phi-3, Mistral and Gemma write them in tokenizer.json."""

from __future__ import annotations

from typing import Any

from tests.conftest import SENTENCES

SPACE = "▁"
BYTES = [f"<0x{number:02X}>" for number in range(256)]
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREFIXED = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, _REPLACE]}
_FIRST = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
_INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
_TAGS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
_TURNS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + m['content'] }}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
# style -> (normalizer, pre-tokenizer, special tokens of its own, those that swallow white space, template)
STYLES: dict[str, tuple[Any, Any, list[str], list[str], str]] = {
    "llama": (_PREFIXED, None, [], [], _INST),
    "mistral": (None, _FIRST, ["[INST]", "[/INST]"], [], _INST),
    "phi3": (
        _PREFIXED,
        None,
        ["<|endoftext|>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>"],
        ["</s>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>"],
        _TAGS,
    ),
    "gemma": (_REPLACE, None, ["<start_of_turn>", "<end_of_turn>"], [], _TURNS),
}


def _pieces() -> list[str]:
    """Byte pairs learned from the test sentences, the most frequent first, then single characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE)
    backend.train_from_iterator(SENTENCES * 10, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learned = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    return [text for text, _ in learned if len(text) > 1] + [text for text, _ in learned if len(text) == 1]


def piece_tokenizer(style: str) -> Any:
    """A tokenizer of about 480 tokens: <unk> <s> </s>, the 256 bytes, pieces, special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    normalizer, pre, special, swallowing, template = STYLES[style]
    pieces = _pieces()
    vocabulary = {text: number for number, text in enumerate(["<unk>", "<s>", "</s>", *BYTES, *pieces])}
    known = set(pieces)
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(model)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + ([] if style == "gemma" else [decoders.Strip(" ", 1, 0)]))
    names = ["<unk>", "<s>", "</s>", *special]
    backend.add_special_tokens([AddedToken(name, rstrip=name in swallowing, normalized=False) for name in names])
    backend = _with_parts(backend, normalizer, pre)
    eos = {"phi3": "<|endoftext|>"}.get(style, "</s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=eos, unk_token="<unk>", pad_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def _with_parts(backend: Any, normalizer: Any, pre: Any) -> Any:
    import json

    from tokenizers import Tokenizer

    content = json.loads(backend.to_str())
    content["normalizer"], content["pre_tokenizer"] = normalizer, pre
    return Tokenizer.from_str(json.dumps(content))
