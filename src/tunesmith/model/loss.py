"""The loss of a batch, token by token. Knows no schedule and no averaging."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.kernels import selected_nll
from tunesmith.types import Batch

# Architectures whose logits are proven to be head(decoder(ids)) and nothing else (tests/model/test_loss.py runs each).
# Others scale or squash their logits (gemma2, cohere, granite, falcon_h1 ...) under ever new names, so an architecture
# that is not listed computes its own logits instead.
PLAIN_HEADS = (
    *("llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"),
    *("gpt_neox", "gpt_neo", "opt", "olmo2", "smollm3", "starcoder2", "bloom"),
)


def token_nll(model: nn.Module, batch: Batch) -> Tensor:
    """Negative log-likelihood of token t+1 at position t of a PreTrainedModel or PeftModel, zero where unsupervised.

    Logits are formed for supervised positions only, in float32 and in chunks (`kernels.selected_nll`), where the head
    of the model is a plain linear layer on the decoder's output.

    B rows, T tokens, N supervised tokens, H hidden size, V vocabulary.

    Returns:
        (B, T-1) float32, with a gradient to whatever of the model is trainable.
    """
    rows, length = batch.input_ids.shape
    chosen = batch.supervised[:, 1:].flatten().nonzero().squeeze(1)  # (N,) positions in B*(T-1)
    targets = batch.input_ids[:, 1:].flatten()[chosen]  # (N,)
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    head = base.get_output_embeddings()
    # An adapter or a quantised layer in place of the head has a forward of its own.
    if base.config.model_type in PLAIN_HEADS and type(head) is nn.Linear:
        decoded = base.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        hidden = decoded.last_hidden_state[:, :-1].flatten(0, 1)[chosen]  # (N, H)
        nll = selected_nll(hidden, head.weight, head.bias, targets)  # (N,)
    else:
        nll = F.cross_entropy(_own_logits(base, batch, chosen), targets, reduction="none")  # (N,)
    flat = nll.new_zeros(rows * (length - 1)).index_copy(0, chosen, nll)  # (B*(T-1),)
    return flat.view(rows, length - 1)


def _own_logits(model: PreTrainedModel, batch: Batch, chosen: Tensor) -> Tensor:
    """(N, V) float32 from the model's own forward, for columns of the batch in which any row is supervised."""
    width = batch.input_ids.shape[1] - 1
    row, column = chosen // width, chosen % width  # (N,)
    arguments: dict[str, object] = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        kept, column = torch.unique(column, return_inverse=True)  # (K,), (N,) into K
        arguments["logits_to_keep"] = kept
    output = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, return_dict=True, **arguments
    )
    logits: Tensor = output.logits[row, column]  # (N, V)
    return logits.float()
