"""Sampling against transformers' own processors, and the draw against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tunesmith.generate.sample import (
    apply_repetition_penalty,
    choose,
    filter_top_k,
    filter_top_p,
    next_tokens,
    row_generator,
)

NO_IDS = torch.zeros(4, 0, dtype=torch.long)


def random_logits(spread: float, *, rows: int = 4, vocabulary: int = 101, seed: int = 0) -> torch.Tensor:
    return spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("penalty", [0.5, 1.3, 10.0])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits = random_logits(3.0)
    ids = torch.randint(0, 101, (4, 30), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(4, 101, dtype=torch.bool).scatter(1, ids, True)
    ours = apply_repetition_penalty(logits, seen, penalty)
    torch.testing.assert_close(ours, RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone()), rtol=0, atol=0)
    assert not torch.equal(ours, logits)
    assert torch.equal(ours[~seen], logits[~seen])


@pytest.mark.parametrize("k", [1, 5, 100, 101, 5000])
def test_top_k_is_that_of_transformers(k: int) -> None:
    logits = random_logits(3.0)
    torch.testing.assert_close(filter_top_k(logits, k), TopKLogitsWarper(k)(NO_IDS, logits), rtol=0, atol=0)


def test_top_k_keeps_scores_equal_to_the_last_kept() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    assert filter_top_k(logits, 1).isfinite().tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_top_p_is_that_of_transformers(p: float, spread: float, seed: int) -> None:
    logits = random_logits(spread, seed=seed)
    torch.testing.assert_close(filter_top_p(logits, p), TopPLogitsWarper(p)(NO_IDS, logits), rtol=0, atol=0)


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = torch.tensor([[0.05, 0.5, 0.15, 0.3]]).log()
    assert filter_top_p(logits, 0.7).isfinite().tolist() == [[False, True, False, True]]
    assert filter_top_p(logits, 1e-9).isfinite().tolist() == [[False, True, False, False]]
    # Four equal tokens: two of them reach one half, exactly.
    assert filter_top_p(torch.zeros(1, 4), 0.5).isfinite().sum() == 2


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 0.99), (50, 0.6)])
def test_filters_follow_each_other_as_in_transformers(top_k: int, top_p: float) -> None:
    logits = random_logits(4.0, rows=6)
    expected = TemperatureLogitsWarper(0.7)(NO_IDS, logits)
    expected = TopPLogitsWarper(top_p)(NO_IDS, TopKLogitsWarper(top_k)(NO_IDS, expected))
    # Draws on a fine grid find every token that can be drawn, each as often as it is likely.
    draws = torch.arange(4000) / 4000
    for row in range(6):
        repeated = logits[row].expand(4000, -1)
        tokens = next_tokens(repeated, temperature=0.7, top_k=top_k, top_p=top_p, draws=draws)
        shares = torch.bincount(tokens, minlength=101) / 4000
        torch.testing.assert_close(shares, expected[row].softmax(-1), rtol=0, atol=2 / 4000)


def test_without_draws_the_likeliest_token_is_taken() -> None:
    logits = random_logits(1.0)
    tokens = next_tokens(logits, temperature=5.0, top_k=3, top_p=0.1, draws=None)
    assert tokens.tolist() == logits.argmax(-1).tolist()


@given(
    scores=st.lists(st.one_of(st.just(-np.inf), st.floats(-80, 80)), min_size=1, max_size=40),
    draw=st.one_of(st.sampled_from([0.0, float(np.nextafter(np.float32(1), np.float32(0)))]), st.floats(0, 1 - 2**-24)),
)
@settings(max_examples=200)
def test_choose_never_takes_an_impossible_token(scores: list[float], draw: float) -> None:
    logits = torch.tensor([[*scores, 0.0]])
    token = int(choose(logits, torch.tensor([draw], dtype=torch.float32))[0])
    assert 0 <= token < logits.shape[1]
    assert logits[0, token] > -torch.inf


def test_choose_inverts_the_running_sum_for_each_row_alone() -> None:
    logits = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]]).log()
    # 1 - draw is the goal: 0.9 of the first row lies in its third token, 0.4 of the second row in its first.
    assert choose(logits, torch.tensor([0.1, 0.6])).tolist() == [2, 0]
    assert choose(logits, torch.tensor([0.6, 0.1])).tolist() == [1, 1]


def test_row_generator_depends_on_seed_prompt_and_repeat_only() -> None:
    first = row_generator(7, [1, 2, 3], 0).random(5).tolist()
    assert first == row_generator(7, (1, 2, 3), 0).random(5).tolist()
    others = [row_generator(8, [1, 2, 3], 0), row_generator(7, [1, 2, 4], 0), row_generator(7, [1, 2, 3], 1)]
    assert all(first != other.random(5).tolist() for other in others)
