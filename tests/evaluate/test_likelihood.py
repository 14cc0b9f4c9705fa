"""Likelihood against transformers' own loss, whatever the batching, and the model left as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tunesmith.errors import DataError
from tunesmith.evaluate import mean_nll
from tunesmith.evaluate.evaluators import bits_per_byte_of, perplexity_of
from tunesmith.evaluate.likelihood import Likelihood, row_nll
from tunesmith.types import Encoded


@pytest.fixture
def model(tiny_model_dir):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir("gpt2"))  # gpt2 has dropout


@pytest.fixture(scope="module")
def rows():
    """Eight rows of 3 to 31 tokens; the second half of each is supervised, in one row a stretch before it as well."""
    random = np.random.default_rng(0)
    made = []
    for number, length in enumerate([17, 3, 31, 8, 8, 24, 5, 12]):
        supervised = np.arange(length) >= length // 2
        supervised[2:4] |= length == 31
        made.append(Encoded(random.integers(4, 300, length), supervised, row=number))
    return made


def transformers_sum(model, row):
    """Sum of nats over supervised tokens as transformers' own loss function counts them: one row, no padding."""
    ids = torch.from_numpy(row.input_ids)[None]
    labels = ids.masked_fill(~torch.from_numpy(row.supervised)[None], -100)
    with torch.no_grad():
        return model.eval()(input_ids=ids, labels=labels).loss.double().item() * row.target_tokens


def test_equals_the_sum_of_transformers_losses(model, rows):
    found = mean_nll(model, rows, tokens_per_batch=40)
    total, tokens = sum(transformers_sum(model, row) for row in rows), sum(row.target_tokens for row in rows)
    assert found.tokens == tokens == 58
    assert found.nll == pytest.approx(total, rel=1e-6)
    assert found.mean == pytest.approx(total / tokens, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(total / tokens), rel=1e-5)


def test_each_row_has_its_own_sum(model, rows):
    found = row_nll(model, rows, tokens_per_batch=40)
    assert found[:, 0] == pytest.approx([transformers_sum(model, row) for row in rows], rel=1e-5)
    assert found[:, 1].tolist() == [row.target_tokens for row in rows]
    assert perplexity_of(found).value == pytest.approx(mean_nll(model, rows).perplexity, rel=1e-6)


def test_is_not_the_mean_of_row_means(model, rows):
    row_means = [transformers_sum(model, row) / row.target_tokens for row in rows]
    assert mean_nll(model, rows, tokens_per_batch=40).mean != pytest.approx(sum(row_means) / len(rows), rel=1e-3)


def test_does_not_depend_on_batching_or_order(model, rows):
    one = mean_nll(model, rows, tokens_per_batch=1)
    for tokens in (20, 40, 1000):
        assert mean_nll(model, rows, tokens_per_batch=tokens).mean == pytest.approx(one.mean, rel=1e-6)
    assert mean_nll(model, rows[::-1], tokens_per_batch=40).mean == pytest.approx(one.mean, rel=1e-6)


def test_sums_in_double_precision(model, rows, monkeypatch):
    """In float32 the small terms would be rounded off, within a batch and between batches."""

    def one_large(model, batch):
        nll = torch.ones(len(batch.input_ids))
        nll[0] = 2.0**25
        return nll

    monkeypatch.setattr("tunesmith.evaluate.likelihood.token_nll", one_large)
    assert mean_nll(model, rows, tokens_per_batch=60).nll == 2 * 2**25 + sum(map(len, rows)) - 2


def test_without_dropout_and_every_module_keeps_its_mode(model, rows):
    model.train()
    frozen = model.transformer.h[0]
    frozen.eval()  # as an adapter library leaves a part it froze
    before = {name: module.training for name, module in model.named_modules()}
    first = mean_nll(model, rows, tokens_per_batch=40)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert before[""] is True
    assert before["transformer.h.0"] is False
    assert mean_nll(model, rows, tokens_per_batch=40) == first
    assert mean_nll(model.eval(), rows, tokens_per_batch=40) == first
    assert not model.training


def test_leaves_gradients_alone(model, rows):
    model.lm_head.weight.grad = torch.full_like(model.lm_head.weight, -9)
    recorded = []
    model.transformer.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    mean_nll(model, rows, tokens_per_batch=40)
    assert recorded
    assert not any(recorded)
    assert torch.is_grad_enabled()
    assert torch.equal(model.lm_head.weight.grad, torch.full_like(model.lm_head.weight, -9))
    assert model.transformer.h[0].mlp.c_fc.weight.grad is None


def test_the_mode_is_restored_after_an_error(model, rows, monkeypatch):
    def fails(model, batch):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("tunesmith.evaluate.likelihood.token_nll", fails)
    model.train()
    with pytest.raises(RuntimeError, match="out of memory"):
        mean_nll(model, rows, tokens_per_batch=40)
    assert model.training
    assert model.transformer.drop.training


@pytest.mark.parametrize("supervised", [[], [False, False, False], [True, False, False]])
def test_nothing_to_score_is_an_error_of_the_data(model, supervised):
    """The first token has no predecessor, so that supervising it alone supervises nothing."""
    rows = [Encoded(np.array([5, 6, 7]), np.array(supervised))] if supervised else []
    with pytest.raises(DataError, match=f"no token to score in {len(rows)} rows") as caught:
        mean_nll(model, rows, tokens_per_batch=40)
    assert caught.value.fix


def test_perplexity_too_large_for_a_float_is_infinite():
    assert Likelihood(nll=710.0, tokens=1).perplexity == math.inf
    assert Likelihood(nll=700.0, tokens=1).perplexity == pytest.approx(math.exp(700))


def test_bits_per_byte():
    # a uniform guess among 256 bytes costs ln 256 nats = 8 bits for each, however they are spread over rows
    found = bits_per_byte_of(np.array([10.0, 2.0]) * math.log(256), np.array([10.0, 2.0]))
    assert found.value == pytest.approx(8)
    assert found.by_row.tolist() == pytest.approx([8, 8])
