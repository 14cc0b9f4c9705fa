"""The loss of a batch, token by token. Knows no schedule and no averaging."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import groupby
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.kernels import recurring_size, selected_nll
from tunesmith.model.packing import base_of, boundaries_of, packs
from tunesmith.model.soft import has_prefix, prefix_cache, prompt_embeddings, virtual_tokens
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

    The result of a row does not depend on the rows beside it, but for models with `longrope` whose weights are divided
    among processes: all of these have to make as many passes.

    S rows, T tokens in all, N supervised tokens, L longest row, H hidden size, V vocabulary.

    Returns:
        (T,) float32, with a gradient to whatever of the model is trainable.
    """
    base = base_of(model)
    sharded = vars(base).get(_METHOD)
    if sharded is not None:
        nll: Tensor = sharded(batch)
        return nll
    return torch.cat([_token_nll(base, part, model) for part in _of_like_rotation(base, batch, virtual_tokens(model))])


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
    logits = _own_logits(base_of(model), batch, positions, model)  # (N, V)
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator).squeeze(1)  # (N,)
    return F.cross_entropy(logits, drawn, reduction="none")


def nll_as_method(base: nn.Module) -> str:
    """Make `token_nll` go through a method of the transformers model, and return its name.

    Weights that are divided among processes are gathered around a method; the decoder and the head, which are called
    one after the other here, need theirs at the same time.
    """
    setattr(base, _METHOD, MethodType(_token_nll, base))
    return _METHOD


def _token_nll(base: Any, batch: Batch, model: nn.Module | None = None) -> Tensor:
    """model: what `base` is inside of, which may put virtual tokens before every row."""
    chosen = batch.supervised.nonzero().squeeze(1)  # (N,) positions of the targets
    targets = batch.input_ids[chosen]  # (N,)
    head = base.get_output_embeddings()
    # An adapter or a quantised layer in place of the head has a forward of its own.
    if base.config.model_type in PLAIN_HEADS and type(head) is nn.Linear:
        hidden = _decode(base, batch, model or base)[chosen - 1]  # (N, H)
        nll = selected_nll(hidden, head.weight, head.bias, targets)  # (N,)
    else:
        logits = _own_logits(base, batch, chosen - 1, model or base)
        nll = F.cross_entropy(logits, targets, reduction="none")  # (N,)
    return nll.new_zeros(len(batch.input_ids)).index_copy(0, chosen, nll)


def _of_like_rotation(base: Any, batch: Batch, before: int) -> Iterator[Batch]:
    """The batch in stretches of rows that have the same rotary frequencies, `before` tokens standing before each.

    With `longrope` transformers takes those of a pass from its longest row: others beyond the original context than
    within it (`dynamic_rope_update` in its modeling_rope_utils.py). With `dynamic` they change beyond the context of
    the model alone, where no row is.
    """
    rope = getattr(base.config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        yield batch
        return
    limit, first = rope["original_max_position_embeddings"] - before, 0
    stretches = [tuple(lengths) for _, lengths in groupby(batch.lengths, key=lambda length: length > limit)]
    tokens = [sum(lengths) for lengths in stretches]
    pieces = zip(batch.input_ids.split(tokens), batch.supervised.split(tokens), stretches, strict=True)
    for input_ids, supervised, lengths in pieces:
        yield Batch(input_ids, supervised, lengths, batch.rows[first : first + len(lengths)])
        first += len(lengths)


def _decode(base: Any, batch: Batch, model: nn.Module) -> Tensor:
    """(T, H) output of the decoder for the tokens of the batch."""
    count = virtual_tokens(model)  # V
    if not has_prefix(model) and packs(base, max(batch.lengths) + count):
        lengths = tuple(length + count for length in batch.lengths)
        total, device = sum(lengths), batch.input_ids.device
        filler = recurring_size(total) - total if device.type == "cpu" else 0  # a last row that nobody looks at
        starts = boundaries_of((*lengths, filler) if filler else lengths)
        # the position of a token within its row
        positions = (torch.arange(total + filler) - starts[:-1].repeat_interleave(starts.diff())).to(device)
        decoded = base.base_model(
            **_packed_rows(base, batch, prompt_embeddings(model), filler),
            position_ids=positions[None],
            use_cache=False,
            boundaries=starts,
        )
        packed: Tensor = decoded.last_hidden_state[0, :total]
        return packed[positions[:total] >= count] if count else packed
    arguments, row, column = _padded_rows(base, batch, model)
    padded: Tensor = base.base_model(**arguments).last_hidden_state[row, column]
    return padded


def _own_logits(base: PreTrainedModel, batch: Batch, positions: Tensor, model: nn.Module) -> Tensor:
    """(N, V) float32 from the model's own forward, for columns in which any row has a target."""
    arguments, row, column = _padded_rows(base, batch, model)
    row, column = row[positions], column[positions]  # (N,)
    if "logits_to_keep" in inspect.signature(base.forward).parameters:
        kept, column = torch.unique(column, return_inverse=True)  # (K,), (N,) into K
        arguments["logits_to_keep"] = kept
    output = base(**arguments, return_dict=True)
    logits: Tensor = output.logits[row, column]  # (N, V)
    return logits.float()


def _packed_rows(base: Any, batch: Batch, prompt: Tensor | None, filler: int) -> dict[str, Tensor]:
    """What the decoder reads of rows end to end, (1, T): ids, or embeddings when each begins with a prompt (V, H).

    filler: of the first tokens, how many come again at the end.
    """
    if prompt is None:
        return {"input_ids": torch.cat([batch.input_ids, batch.input_ids[:filler]])[None]}
    embedded: Tensor = base.get_input_embeddings()(batch.input_ids)  # (T, H)
    prompt = prompt.to(embedded.dtype)
    pieces = [piece for row in embedded.split(batch.lengths) for piece in (prompt, row)]
    rows = torch.cat(pieces)
    return {"inputs_embeds": torch.cat([rows, rows[:filler]])[None]}


def _padded_rows(base: Any, batch: Batch, model: nn.Module) -> tuple[dict[str, Any], Tensor, Tensor]:
    """What a model reads of rows side by side; row and column (T,) of every token in what comes out."""
    input_ids, mask, row, column = _padded(batch)
    count = virtual_tokens(model)
    if not count:
        return {"input_ids": input_ids, "attention_mask": mask, "use_cache": False}, row, column
    mask = torch.cat([mask.new_ones(len(mask), count), mask], dim=1)  # (S, V + L)
    prompt = prompt_embeddings(model)
    if prompt is None:
        prefixed = {"past_key_values": prefix_cache(model, len(mask)), "use_cache": True}
        return {"input_ids": input_ids, "attention_mask": mask, **prefixed}, row, column
    embedded: Tensor = base.get_input_embeddings()(input_ids)  # (S, L, H)
    embedded = torch.cat([prompt.to(embedded.dtype).expand(len(mask), -1, -1), embedded], dim=1)
    return {"inputs_embeds": embedded, "attention_mask": mask, "use_cache": False}, row, column + count


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
