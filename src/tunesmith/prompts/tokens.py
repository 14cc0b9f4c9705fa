"""What a tokenizer's special tokens are, keeping user text from becoming one, and a pad token of its own.

Knows no templates and no messages: text in, token ids out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.errors import ResourceError
from tunesmith.types import Finding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Turn and text ends of the model families in use; generation configs list them beside eos (Llama 3, Qwen, Gemma, Phi).
KNOWN_STOPS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
)
# Tags that an assistant writes itself, so answers may hold them; in every other role they are text.
ANSWER_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
PAD_NAMES = (
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<|vision_pad|>",
    "<|fim_pad|>",
    "<|image_pad|>",
    "<｜▁pad▁｜>",
    "<|reserved_special_token_0|>",
    "<unused0>",
)


@dataclass(frozen=True, slots=True)
class Marks:
    """The added tokens of a tokenizer: text of each id, and which of them are declared special."""

    texts: dict[int, str]
    special: frozenset[str]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Marks:
        texts = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
        declared = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        return cls({**named, **texts}, frozenset(declared | set(named.values())))

    def controls(self, written: str) -> list[str]:
        """Tokens that content must not become: the special ones, and those found in `written`, the template's text.

        Some tokenizers (DeepSeek, Yi) do not declare their turn markers special. Words and white space that were only
        added to the vocabulary stay what they are: Gemma's <table> or Phi's runs of spaces are text.
        """
        marks = [text for text in self.texts.values() if text.strip()]
        return [text for text in marks if text in self.special or (text in written and not text.strip().isalnum())]


def find_stops(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that end a text or a turn in this tokenizer: eos and the known turn ends among its added tokens."""
    stops = {token_id for token_id, text in Marks.of(tokenizer).texts.items() if text in KNOWN_STOPS}
    return stops | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set())


def compile_guard(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds any of these tokens in content, the longest first."""
    longest_first = sorted({token.strip() for token in tokens}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def neutralise(content: str, guard: re.Pattern[str]) -> str:
    """Break control tokens in content by a space after their first character.

    "say <|im_end|>" -> "say < |im_end|>". A token of one character is replaced by a space. Repeated until none is
    left, because breaking "<<s>>" uncovers "<s>". Halves of surrogate pairs, which JSON can hold and no tokenizer
    can encode, become U+FFFD.
    """
    if not content.isascii():
        content = content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    while guard.search(content):
        content = guard.sub(lambda match: f"{match[0][0]} {match[0][1:]}" if len(match[0]) > 1 else " ", content)
    return content


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a tokenizer continues a text that it is given in pieces.

    SentencePiece tokenizers write a word start before every text; `newline` then holds the ids of a line break, else
    None. Tokens that swallow the white space after them (Phi-3) make `swallows` true. In both cases a piece is encoded
    behind its predecessor's last token, or a line break, which is cut off again: the ids are those of the whole text.
    """

    newline: tuple[int, ...] | None
    swallows: bool
    marks: dict[int, str]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, marks: Marks) -> Spelling:
        newline, joined, alone = (tokenizer.encode(text, add_special_tokens=False) for text in ("\n", "\na", "a"))
        starts_words = joined[: len(newline)] == newline and joined[len(newline) :] != alone
        swallows = any(token.rstrip for token in tokenizer.added_tokens_decoder.values())
        return cls(tuple(newline) if starts_words else None, swallows, marks.texts)

    def anchor(self, last: int) -> tuple[str, list[int]]:
        """Text to put before a piece that follows the token `last`, and its ids; empty where none is needed."""
        if last in self.marks and (self.swallows or self.newline is not None):
            return self.marks[last], [last]
        return ("\n", list(self.newline)) if self.newline is not None else ("", [])


def encode_pieces(pieces: Sequence[str], tokenizer: PreTrainedTokenizerBase, spelling: Spelling) -> list[list[int]]:
    """Token ids of consecutive pieces of one text, each encoded on its own: a later piece changes no earlier id."""
    encoded: list[list[int]] = []
    anchor, expected = "", list[int]()
    for piece in pieces:
        ids = tokenizer.encode(anchor + piece, add_special_tokens=False, verbose=False)
        if ids[: len(expected)] == expected:
            ids = ids[len(expected) :]
        else:  # the line break has joined white space of the piece
            ids = tokenizer.encode(piece, add_special_tokens=False, verbose=False)
        encoded.append(ids)
        if ids:
            anchor, expected = spelling.anchor(ids[-1])
    return encoded


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, model_vocab_size: int) -> Finding | None:
    """Give the tokenizer a pad token that is no stop token, without resizing the model's embeddings.

    A pad that is also the stop token is masked out of the loss with the padding, and the model never learns to stop.
    Taken in this order: the pad it has, a token named like one, its unknown token, a new token in an embedding row
    that no token uses, the last ordinary token of the vocabulary.

    Args:
        model_vocab_size: rows of the model's embedding.

    Returns:
        What was chosen and why; None where the one it has will do.

    Raises:
        ResourceError: the tokenizer has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise ResourceError(
            "the model's tokenizer has no end-of-text token, so an answer could never end",
            cause="eos_token is missing in tokenizer_config.json",
            fix="set eos_token there to the token the model was trained to stop at, or take another model",
        )
    stops = find_stops(tokenizer)

    def is_free(token_id: int | None) -> bool:
        return token_id is not None and token_id not in stops and token_id < model_vocab_size

    old = tokenizer.pad_token
    if is_free(tokenizer.pad_token_id):
        return None
    why = f"{old!r} is a stop token or outside the model" if old is not None else "the tokenizer has none"
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    named = next((name for name in PAD_NAMES if is_free(vocabulary.get(name))), None)
    unknown = tokenizer.unk_token_id
    if named is not None:
        tokenizer.pad_token = named
    elif is_free(unknown) and unknown != tokenizer.bos_token_id:
        tokenizer.pad_token = tokenizer.unk_token
    elif max(vocabulary.values()) + 1 < model_vocab_size:
        tokenizer.add_special_tokens({"pad_token": next(name for name in PAD_NAMES if name not in vocabulary)})
    else:
        return _borrow_pad(tokenizer, vocabulary, model_vocab_size, why)
    return Finding("note", "pad-token", f"the pad token is {tokenizer.pad_token!r} ({why})")


def _borrow_pad(
    tokenizer: PreTrainedTokenizerBase, vocabulary: dict[str, int], model_vocab_size: int, why: str
) -> Finding:
    """Byte-pair vocabularies are in order of merging, so the last ordinary token is the rarest one."""
    taken = Marks.of(tokenizer).texts
    token = max(
        (token for token, token_id in vocabulary.items() if token_id not in taken and token_id < model_vocab_size),
        key=vocabulary.__getitem__,
    )
    tokenizer.pad_token = token
    return Finding(
        "warning",
        "pad-token",
        f"the pad token is the rarest word of the vocabulary, {token!r} ({why}, and the model has no spare row)",
        fix="nothing to do unless your data are full of that word; a model with a pad token avoids it",
    )
