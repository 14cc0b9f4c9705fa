"""The loss of a batch, token by token. Knows no schedule and no averaging."""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.kernels import selected_nll
from tunesmith.model.packing import base_of, boundaries_of, packs
from tunesmith.types import Batch

# Architectures whose logits are proven to be head(decoder(ids)) and nothing else (tests/model/test_loss.py runs each).
# Others scale or squash their logits (gemma2, cohere, granite, falcon_h1 ...) under ever new names, so an architecture
# that is not listed computes its own logits instead.
PLAIN_HEADS = (
    *("llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"),
    *("gpt_neox", "gpt_neo", "opt", "olmo2", "smollm3", "starcoder2", "bloom"),
)
_METHOD = "token_nll"


def token_nll(model: nn.Module, batch: Batch) -> Tensor:
    """Negative log-likelihood of every token of a PreTrainedModel or PeftModel, zero where it is not supervised.

    Logits are formed for supervised positions only, in float32 and in chunks (`kernels.selected_nll`), where the head
    of the model is a plain linear layer on the decoder's output. Under `packing` no row is padded.

    S rows, T tokens in all, N supervised tokens, L longest row, H hidden size, V vocabulary.

    Returns:
        (T,) float32, with a gradient to whatever of the model is trainable.
    """
    base = base_of(model)
    sharded = vars(base).get(_METHOD)
    nll: Tensor = _token_nll(base, batch) if sharded is None else sharded(batch)
    return nll


def drawn_nll(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """Negative log-likelihood of tokens that the model draws itself in the place of the supervised ones.

    Each is drawn from what the model expects after the tokens that are there. The expected square of the gradient is
    then the Fisher information, which it is not for the tokens of the data.

    Args:
        generator: on the device of the model.

    Returns:
        (N,) float32, one for each of the N supervised tokens.
    """
    positions = batch.supervised.nonzero().squeeze(1) - 1  # (N,)
    logits = _own_logits(base_of(model), batch, positions)  # (N, V)
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator).squeeze(1)  # (N,)
    return F.cross_entropy(logits, drawn, reduction="none")


def nll_as_method(base: nn.Module) -> str:
    """Make `token_nll` go through a method of the transformers model, and return its name.

    Weights that are divided among processes are gathered around a method; the decoder and the head, which are called
    one after the other here, need theirs at the same time.
    """
    setattr(base, _METHOD, MethodType(_token_nll, base))
    return _METHOD


def _token_nll(base: Any, batch: Batch) -> Tensor:
    chosen = batch.supervised.nonzero().squeeze(1)  # (N,) positions of the targets
    targets = batch.input_ids[chosen]  # (N,)
    head = base.get_output_embeddings()
    # An adapter or a quantised layer in place of the head has a forward of its own.
    if base.config.model_type in PLAIN_HEADS and type(head) is nn.Linear:
        hidden = _decode(base, batch)[chosen - 1]  # (N, H)
        nll = selected_nll(hidden, head.weight, head.bias, targets)  # (N,)
    else:
        nll = F.cross_entropy(_own_logits(base, batch, chosen - 1), targets, reduction="none")  # (N,)
    return nll.new_zeros(len(batch.input_ids)).index_copy(0, chosen, nll)


def _decode(base: Any, batch: Batch) -> Tensor:
    """(T, H) output of the decoder."""
    if packs(base, max(batch.lengths)):
        starts = boundaries_of(batch.lengths)
        # the position of a token within its row
        positions = torch.arange(len(batch.input_ids)) - starts[:-1].repeat_interleave(starts.diff())
        decoded = base.base_model(
            input_ids=batch.input_ids[None],
            position_ids=positions.to(batch.input_ids.device)[None],
            use_cache=False,
            boundaries=starts,
        )
        packed: Tensor = decoded.last_hidden_state[0]
        return packed
    input_ids, attention_mask, row, column = _padded(batch)
    decoded = base.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    padded: Tensor = decoded.last_hidden_state[row, column]
    return padded


def _own_logits(base: PreTrainedModel, batch: Batch, positions: Tensor) -> Tensor:
    """(N, V) float32 from the model's own forward, for columns in which any row has a target."""
    input_ids, attention_mask, row, column = _padded(batch)
    row, column = row[positions], column[positions]  # (N,)
    arguments: dict[str, object] = {}
    if "logits_to_keep" in inspect.signature(base.forward).parameters:
        kept, column = torch.unique(column, return_inverse=True)  # (K,), (N,) into K
        arguments["logits_to_keep"] = kept
    output = base(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, return_dict=True, **arguments)
    logits: Tensor = output.logits[row, column]  # (N, V)
    return logits.float()


def _padded(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids and mask (S, L), padded on the right with zeros nobody sees; row and column (T,) of every token."""
    device = batch.input_ids.device
    lengths = torch.tensor(batch.lengths, device=device)  # (S,)
    row = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
    column = torch.arange(len(batch.input_ids), device=device) - (lengths.cumsum(0) - lengths)[row]
    mask = torch.zeros(len(lengths), max(batch.lengths), dtype=torch.int64, device=device)
    mask[row, column] = 1
    input_ids = torch.zeros_like(mask)
    input_ids[row, column] = batch.input_ids
    return input_ids, mask, row, column
