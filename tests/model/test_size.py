"""Sizes, how they read, and the learning rate they lead to."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from transformers import BloomConfig, BloomForCausalLM

from tests.conftest import make_model
from tunesmith.config import METHODS
from tunesmith.model.size import (
    SMALL_MODEL_PARAMETERS,
    context_tokens,
    count_parameters,
    default_learning_rate,
    default_method,
    format_count,
)


def test_tied_weights_count_once() -> None:
    embedding, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleList([embedding, head, nn.Linear(4, 3).to(torch.bfloat16)])
    embedding.weight.requires_grad_(False)
    assert count_parameters(model) == (15, 55)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *[(0, "0"), (950, "950"), (999, "999"), (1000, "1.0K"), (44_200, "44.2K"), (999_600, "1.0M")],
        *[(1_234_567, "1.2M"), (99_960_000, "100M"), (124_439_808, "124M"), (7_241_732_096, "7.2B")],
    ],
)
def test_counts_read_well(number: int, text: str) -> None:
    assert format_count(number) == text


def test_the_method_follows_the_size() -> None:
    assert default_method(SMALL_MODEL_PARAMETERS)[0] == "full"
    assert default_method(SMALL_MODEL_PARAMETERS + 1)[0] == "lora"
    assert "would take 104 GiB" in default_method(7 * 10**9)[1]


@pytest.mark.parametrize("method", METHODS)
def test_rates_pass_through_the_table_and_never_rise_with_size(method: str) -> None:
    for size, rate in METHODS[method].rates:
        assert default_learning_rate(method, int(size))[0] == pytest.approx(rate)
    rates = [default_learning_rate(method, size)[0] for size in (0, 10**5, 10**7, 10**8, 5 * 10**8, 10**9, 10**11)]
    assert all(small >= large for small, large in itertools.pairwise(rates))
    assert (rates[0] > rates[-1]) == (len(METHODS[method].rates) > 1)


def test_the_guides_rates_hold_where_they_apply() -> None:
    assert default_learning_rate("lora", 7 * 10**9)[0] == 2e-4
    assert 1e-5 <= default_learning_rate("full", 124_439_808)[0] <= 5e-5


def test_the_reason_names_method_size_and_rate() -> None:
    rate, reason = default_learning_rate("lora", 124_439_808)
    assert reason == f"{rate:g} suits lora on a model of 124M parameters"


def test_what_limits_a_sequence() -> None:
    assert context_tokens(make_model("gpt2", 400)) == 256
    with torch.device("meta"):
        assert context_tokens(BloomForCausalLM(BloomConfig(vocab_size=9, hidden_size=4, n_layer=1, n_head=1))) is None
