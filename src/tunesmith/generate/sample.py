"""From scores to the next token: pure functions on logits.

Knows nothing of models, prompts or text. The order of operations is that of transformers: repetition penalty,
temperature, top-k, top-p, draw. B rows, V tokens in the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Below this a temperature only divides by almost zero: vLLM takes the likeliest token from the same bound on.
# https://github.com/vllm-project/vllm/blob/v0.10.0/vllm/sampling_params.py (_SAMPLING_EPS)
GREEDY_BELOW = 1e-5


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that were seen less likely: positive scores are divided by `penalty`, negative ones multiplied.

    CTRL, Keskar et al. 2019, section 4.1 (https://arxiv.org/abs/1909.05858), with the sign rule of transformers.

    Args:
        logits: (B, V).
        seen: (B, V) bool, True for every token of the row's prompt and answer so far.
        penalty: 1 changes nothing, more discourages repetition, less encourages it.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)  # (B, V)


def filter_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k largest scores of each row to -inf; scores equal to the k-th stay. (B, V) -> (B, V)."""
    kept = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < kept, -torch.inf)


def filter_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose probabilities reach p; set the others to -inf.

    Nucleus sampling, Holtzman et al. 2019 (https://arxiv.org/abs/1904.09751). (B, V) -> (B, V).

    Example:
        probabilities 0.5 0.3 0.15 0.05 with p=0.7 keep the first two.
    """
    probabilities = logits.softmax(dim=-1)  # (B, V)
    # Tokens below (1 - p) / V add up to less than 1 - p, so all of them go: only the others need sorting.
    candidates = int((probabilities >= (1 - p) / logits.shape[-1]).sum(dim=-1).max())
    likeliest, where = probabilities.topk(candidates, dim=-1)  # (B, C), descending
    before = likeliest.cumsum(dim=-1) - likeliest  # (B, C) mass of the likelier tokens
    scores = logits.gather(1, where).masked_fill(before >= p, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(1, where, scores)


def choose(logits: Tensor, draws: Tensor) -> Tensor:
    """The token at which the running sum of probabilities reaches the row's draw.

    Inverse transform sampling: one number per row decides, so a row's token does not depend on the other rows.

    Args:
        logits: (B, V); -inf is never chosen.
        draws: (B,) uniform in [0, 1).

    Returns:
        (B,) int64 token ids.
    """
    # In float32 a parallel sum over a large vocabulary can step at a token of probability zero. MPS has no float64.
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    reached = logits.softmax(dim=-1).to(exact).cumsum(dim=-1)  # (B, V)
    # 1 - draw is in (0, 1]: the goal is above zero and at most the total, so a token of probability > 0 is found.
    goal = (1 - draws.to(exact)) * reached[:, -1]  # (B,)
    return torch.searchsorted(reached, goal[:, None])[:, 0]  # (B,)


def next_tokens(logits: Tensor, *, temperature: float, top_k: int, top_p: float, draws: Tensor | None) -> Tensor:
    """The next token of each row: the likeliest when `draws` is None, else one drawn at `temperature`.

    Args:
        logits: (B, V) float32, repetition penalty already applied.
        temperature: divides the scores; at least GREEDY_BELOW.
        top_k: 0 turns it off.
        top_p: 1 turns it off.
        draws: (B,) uniform in [0, 1), or None.

    Returns:
        (B,) int64 token ids.
    """
    if draws is None:
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k > 0:
        logits = filter_top_k(logits, top_k)
    if top_p < 1:
        logits = filter_top_p(logits, top_p)
    return choose(logits, draws)


def row_generator(seed: int, prompt: Sequence[int], repeat: int) -> np.random.Generator:
    """The random numbers of one row, which depend on what is asked and not on where in which batch it stands.

    Args:
        seed: the caller's seed.
        prompt: token ids.
        repeat: how many times this very prompt came before in the same call, so that asking again draws again.
    """
    content = np.asarray([seed, repeat, *prompt], dtype="<i8").tobytes()
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
