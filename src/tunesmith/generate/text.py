"""From token ids to the text of an answer, whole or as it grows.

Knows the tokenizer and the stop strings; knows nothing of models or sampling. What `settled` hands out piece by piece,
joined, is exactly `text` at the end: nothing that could still change, be stripped or be cut off is handed out early.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a decoder writes for bytes that are not (yet) a character.
REPLACEMENT = "\ufffd"
# SentencePiece spells rare characters as byte tokens; a run of them reads differently until it is complete.
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of token ids, special tokens left out, nothing tidied: " ." stays " ." as it was trained."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def tidy(raw: str) -> str:
    """The answer without surrounding white space and without a last character of which bytes are missing."""
    return raw.rstrip(REPLACEMENT).strip()


class GrowingText:
    """Text of an answer that grows token by token, with its stop strings.

    Decodes a short window instead of the whole answer: from the last point where the text was complete back to the
    complete point before that one, because some tokenizers read the first token of a sequence differently.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._longest_stop = max(map(len, stops), default=0)
        self._window: list[int] = []
        self._read = 0  # tokens of the window whose text is in _raw
        self._known = ""  # text of those tokens
        self._seen = ""  # text of the whole window
        self._raw = ""
        self._given = 0  # characters of the answer handed out
        self.stopped = False

    @property
    def text(self) -> str:
        """The answer so far, stop string left out, surrounding white space stripped."""
        return tidy(self._raw)

    def push(self, token_id: int) -> None:
        """Add a token. `stopped` is True from the token on that completes a stop string."""
        self._window.append(token_id)
        before, self._seen = self._seen, decode(self._tokenizer, self._window)
        if self._seen == before or self._seen.endswith(REPLACEMENT):
            return
        if _BYTE_TOKEN.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token_id))):
            return
        self._append(self._seen[len(self._known) :])
        self._window = self._window[self._read :]
        self._read = len(self._window)
        self._known = self._seen = decode(self._tokenizer, self._window)

    def close(self) -> None:
        """No token follows: what was held back because it could have changed becomes part of the text."""
        if not self.stopped:
            self._append(self._seen[len(self._known) :])
        self._known = self._seen

    def settled(self) -> str:
        """The part of `text` that no later token can change and that was not handed out before."""
        open_end = max((_overlap(self._raw, stop) for stop in self._stops), default=0)
        fixed = self._raw[: len(self._raw) - open_end].lstrip()
        while fixed and (fixed[-1].isspace() or fixed[-1] == REPLACEMENT):
            fixed = fixed[:-1]
        piece = fixed[self._given :]
        self._given += len(piece)
        return piece

    def rest(self) -> str:
        """What of `text` was not handed out yet, once no token follows."""
        piece = self.text[self._given :]
        self._given += len(piece)
        return piece

    def _append(self, piece: str) -> None:
        # Earlier text holds no stop string, so a new one ends in this piece.
        start = max(0, len(self._raw) - self._longest_stop + 1)
        self._raw += piece
        found = [at for stop in self._stops if (at := self._raw.find(stop, start)) >= 0]
        if found:
            self._raw = self._raw[: min(found)]
            self.stopped = True


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without completing it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
