"""The texts and pairs of a corpus as blocks of token ids, in the order in which pre-training reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tunesmith.config import RunConfig
from tunesmith.data import Corpus, blocks
from tunesmith.errors import ResourceError
from tunesmith.model import END_OF_TEXT
from tunesmith.prompts import check_template, prepare_tokenizer, render, writes_bos
from tunesmith.types import Encoded, Example


def corpus_blocks(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, config: RunConfig, *, vocab_size: int
) -> tuple[list[Encoded], list[Encoded]]:
    """Training blocks of `pretrain.context` tokens, and the blocks of each held-out document.

    Documents and pairs, rendered as chats, lie end to end in one seeded order; each ends with the end of text.

    Args:
        tokenizer: has an end of text (see `end_of_text`). vocab_size: of the model.

    Raises:
        ResourceError: the tokenizer of a base writes tokens that the model does not have.
    """
    length = config.pretrain.context
    sequences = document_ids(corpus.documents, tokenizer)
    if corpus.pairs:
        prepare_tokenizer(tokenizer, vocab_size)  # a base may pad with what ends its answers
        sequences += _chat_ids(corpus.pairs, tokenizer) * config.pretrain.qa_repeats
    order = np.random.default_rng(config.seed).permutation(len(sequences))
    rows = blocks((sequences[index] for index in order), length)
    held_out = [row for ids in document_ids(corpus.held_out, tokenizer) for row in blocks([ids], length)]
    highest = max(int(row.input_ids.max()) for row in [*rows, *held_out])
    if highest >= vocab_size:
        raise ResourceError(
            f"the tokenizer of {config.pretrain.base} writes token {highest}, the model has {vocab_size}",
            fix="tokenizer and weights must belong together: download the model again, or take another",
        )
    return rows, held_out


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends a document: `<|endoftext|>`, where a base has none what ends its answers, or None."""
    end: int | None = tokenizer.get_vocab().get(END_OF_TEXT, tokenizer.eos_token_id)
    return end


def document_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[NDArray[np.int64]]:
    """Token ids of each text, from the token that texts begin with for a base that has one to the end of text."""
    first, end = [tokenizer.bos_token_id] if writes_bos(tokenizer) else [], end_of_text(tokenizer)
    # split_special_tokens: a document that mentions <|im_end|> is text about it, not the token
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return [np.asarray([*first, *row, end], dtype=np.int64) for row in ids]


def _chat_ids(pairs: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[NDArray[np.int64]]:
    template, end = check_template("chat", tokenizer), end_of_text(tokenizer)
    rendered = (render(pair, template, tokenizer, train_on="all").input_ids for pair in pairs)
    return [np.asarray([*ids, end], dtype=np.int64) for ids in rendered]
