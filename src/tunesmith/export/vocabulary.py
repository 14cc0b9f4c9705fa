"""A tokenizer as GGUF says it: tokens, types, merges or scores, special tokens. Knows no weights and no file.

llama.cpp has no free pre-tokenizer: it knows some by name. The one in use is recognised in the loaded tokenizer, by
exact comparison; one that is not in the table is refused, since a near one would split some texts otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.errors import SettingsError
from tunesmith.prompts import Template, render_prompt
from tunesmith.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# token types of the GGUF specification
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# (what splits a text before byte pairs are merged, whether a word that is a token is taken whole) -> llama.cpp's name.
# Source: llm_tokenizer_bpe in src/llama-vocab.cpp, which quotes the patterns of each tokenizer.json. Those of gpt-4o
# (Phi-4-mini) and tekken (Mistral Nemo) are not here: llama.cpp has them in a form that splits Devanagari differently.
PRE_TOKENIZERS: Mapping[tuple[tuple[str, ...], bool], str] = {
    (("gpt-2",), False): "gpt-2",
    (("digits", "gpt-2"), False): "smollm",
    ((rf"{_CASELESS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_TAIL}",), True): "llama-bpe",
    ((rf"{_CASELESS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_TAIL}",), False): "dbrx",
    ((rf"{_CASELESS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_TAIL}",), False): "qwen2",
}
# Tokens that swallow the white space after them exist in GGUF for Phi-3 alone, by the name of the model.
_PHI3_PLAIN = ("<unk>", "<s>", "<|endoftext|>")
_SPACE = "▁"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """model: "gpt2" (byte-level BPE) or "llama" (SentencePiece). pre: llama.cpp's name of the pre-tokenizer.

    types: a number for each token. merges: of BPE; scores, space_prefix: of SentencePiece. ids: role ("bos", "eos",
    "eot", "padding", "unknown") -> token. add_bos: prompts begin with BOS. swallows: special tokens swallow white
    space as those of Phi-3 do.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    space_prefix: bool = False
    ids: Mapping[str, int] = field(default_factory=dict)
    add_bos: bool
    swallows: bool
    chat_template: str


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, template: Template, *, size: int) -> Vocabulary:
    """What llama.cpp is told of a tokenizer.

    Args:
        template: the one the model was trained with. size: rows of the model's embedding.

    Raises:
        SettingsError: a tokenizer that llama.cpp would follow only nearly; names every difference.
    """
    backend: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    prompt = render_prompt([Message("user", "Hi")], template, tokenizer)
    problems: list[str] = []
    added = {token["id"]: token for token in backend["added_tokens"]}
    swallows = _swallows(added.values(), problems)
    model = backend["model"]
    if model["type"] != "BPE":
        problems.append(f"its model is {model['type']}; BPE and SentencePiece's BPE can be written")
        raise _refusal(problems)
    is_pieces = bool(model.get("byte_fallback"))
    words = {token_id: token for token, token_id in tokenizer.get_vocab().items() if token_id < size}
    types = tuple(_type(token_id, words, added, model, is_pieces=is_pieces) for token_id in range(size))
    tokens = tuple(words.get(token_id, f"[PAD{token_id}]") for token_id in range(size))
    merges = [tuple(merge if isinstance(merge, list) else merge.split(" ")) for merge in model["merges"]]
    extra: dict[str, Any]
    if is_pieces:
        specials = {token_id for token_id, token in added.items() if token["special"]}
        extra = {
            "model": "llama",
            "pre": "default",
            "scores": _scores(tokens, types, merges, problems),
            "space_prefix": _space_prefix(backend, prompt, specials, problems),
        }
    else:
        pre = _pre_tokenizer(backend, problems)
        extra = {"model": "gpt2", "pre": pre, "merges": tuple(" ".join(merge) for merge in merges)}
    if problems:
        raise _refusal(problems)
    return Vocabulary(
        tokens=tokens,
        types=types,
        ids=_ids(tokenizer, template),
        add_bos=tokenizer.bos_token_id is not None and prompt[0] == tokenizer.bos_token_id,
        swallows=swallows,
        chat_template=template.source,
        **extra,
    )


def _refusal(problems: Sequence[str]) -> SettingsError:
    return SettingsError(
        "this model's tokenizer cannot be written as GGUF: llama.cpp would split some texts otherwise",
        problems=tuple(problems),
        fix="export to merged, and use a server that reads tokenizer.json (vLLM, transformers)",
    )


def _ids(tokenizer: PreTrainedTokenizerBase, template: Template) -> dict[str, int]:
    named = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "eot": template.stop_id if template.stop_id != tokenizer.eos_token_id else None,
        "padding": tokenizer.pad_token_id,
        "unknown": tokenizer.unk_token_id,
    }
    return {role: token_id for role, token_id in named.items() if token_id is not None}


def _type(
    token_id: int, words: Mapping[int, str], added: Mapping[int, Any], model: Mapping[str, Any], *, is_pieces: bool
) -> int:
    if token_id not in words:
        return UNUSED
    text = words[token_id]
    if is_pieces and text == model.get("unk_token"):
        return UNKNOWN
    if token_id in added:
        return CONTROL if added[token_id]["special"] else USER_DEFINED
    if is_pieces and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return BYTE
    return NORMAL


def _swallows(added: Any, problems: list[str]) -> bool:
    """Whether special tokens swallow white space exactly as llama.cpp lets those of Phi-3 do."""
    takers = {token["content"] for token in added if token["rstrip"]}
    odd = [token["content"] for token in added if token["lstrip"] or token["single_word"]]
    if odd:
        problems.append(f"tokens that take the white space before them or stand alone: {', '.join(odd[:3])}")
    if not takers:
        return False
    specials = {token["content"] for token in added if token["special"]}
    names = {token["content"] for token in added}
    if takers != (specials - set(_PHI3_PLAIN)) | ({"</s>"} & names) or not set(_PHI3_PLAIN) <= names:
        problems.append(f"tokens that swallow the white space after them: {', '.join(sorted(takers)[:3])}")
    return True


def _pre_tokenizer(backend: Mapping[str, Any], problems: list[str]) -> str:
    normalizer = (backend["normalizer"] or {"type": None})["type"]
    if normalizer not in (None, "NFC"):  # Qwen's composes letters, as nearly all text is already; verification tells
        problems.append(f"it normalises texts ({normalizer})")
    model = backend["model"]
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name):
            problems.append(f"{name} is {model[name]!r}")
    parts = tuple(_parts(backend["pre_tokenizer"] or {"type": "nothing"}))
    found = PRE_TOKENIZERS.get((parts, bool(model.get("ignore_merges"))))
    if found is None:
        whole = ", words that are tokens taken whole" if model.get("ignore_merges") else ""
        problems.append(f"its pre-tokenizer is none that llama.cpp is known to have: {' then '.join(parts)}{whole}")
        return ""
    return found


def _parts(pre: Mapping[str, Any]) -> list[str]:
    """A pre-tokenizer in words of PRE_TOKENIZERS: patterns, "digits", "gpt-2"; or in its own words."""
    kind = pre["type"]
    if kind == "Sequence":
        return [part for inner in pre["pretokenizers"] for part in _parts(inner)]
    if kind == "ByteLevel" and not pre["add_prefix_space"]:
        return ["gpt-2"] if pre.get("use_regex", True) else []
    if kind == "Digits" and pre["individual_digits"]:
        return ["digits"]
    # Removing what is between the matches of a pattern that covers every text is isolating the matches.
    if kind == "Split" and (pre["behavior"], pre["invert"]) in (("Isolated", False), ("Removed", True)):
        return [str(pre["pattern"].get("Regex", pre["pattern"]))]
    return [json.dumps(pre, ensure_ascii=False)]


def _scores(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, ...]], problems: list[str]
) -> tuple[float, ...]:
    """SentencePiece's score of each piece from the order in which tokenizer.json merges: sooner is higher.

    llama.cpp joins any two pieces whose sum is a piece, the highest score first. tokenizer.json lists the pairs: so
    all pairs of a piece must be there, side by side, for the two to do the same.
    """
    first: dict[str, int] = {}
    last = ""
    for rank, (left, right) in enumerate(merges):
        piece = left + right
        if piece in first and last != piece:
            problems.append(f"the pairs that make {piece!r} are not merged side by side, as SentencePiece does")
            return ()
        first.setdefault(piece, rank)
        last = piece
    normal = {text for text, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    pairs = set(merges)
    for text in normal:
        for cut in range(1, len(text)):
            if text[:cut] in normal and text[cut:] in normal and (text[:cut], text[cut:]) not in pairs:
                problems.append(f"{text!r} is not made of {text[:cut]!r} and {text[cut:]!r}, as SentencePiece would")
                return ()
    if sum(kind == BYTE for kind in types) != 256:
        problems.append("it lacks tokens for the 256 bytes")
    return tuple(
        float(-first.get(text, len(merges))) if kind == NORMAL else 0.0 if kind == BYTE else -1e6
        for text, kind in zip(tokens, types, strict=True)
    )


def _space_prefix(backend: Mapping[str, Any], prompt: Sequence[int], specials: set[int], problems: list[str]) -> bool:
    """Whether llama.cpp puts a space before a text and after each special token."""
    scheme = _spaces(backend)
    if scheme == "first":  # the very beginning alone; llama.cpp knows both places or none
        if prompt[0] in specials:
            return False
        if not specials & set(prompt):
            return True
        problems.append("it puts a space before a text but not after special tokens, and prompts have both")
    if scheme is None:
        spaces = {name: backend[name] for name in ("normalizer", "pre_tokenizer")}
        problems.append(f"its treatment of spaces is none of SentencePiece's: {json.dumps(spaces, ensure_ascii=False)}")
    return scheme == "always"


def _spaces(backend: Mapping[str, Any]) -> str | None:
    """always, first or never: where a space is put that the text has not; None for something else."""
    normalizer, pre = backend["normalizer"], backend["pre_tokenizer"]
    steps = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if pre is None or (pre["type"] == "Split" and pre["pattern"] == {"String": " "}):  # there is none left to split at
        if steps == [replace]:
            return "never"
        return "always" if steps == [{"type": "Prepend", "prepend": _SPACE}, replace] else None
    if pre["type"] == "Metaspace" and normalizer is None and pre["replacement"] == _SPACE and not pre["split"]:
        return str(pre["prepend_scheme"])
    return None
