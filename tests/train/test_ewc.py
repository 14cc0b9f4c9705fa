"""Elastic weight consolidation: its gradient is autograd's, its Fisher information is the real one, and in the loop it
is added once a step and kept out of the loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tunesmith.config import METHODS, load_config
from tunesmith.data import StepPlan, collate
from tunesmith.model import Lanes, apply_method, drawn_nll, load_base, token_nll
from tunesmith.train import fit
from tunesmith.train.checkpoint import Checkpoints, trainable_weights
from tunesmith.train.ewc import Ewc, diagonal_fisher, read_fisher, row_seed
from tunesmith.train.loop import LoopSettings
from tunesmith.train.observe import Event
from tunesmith.types import Encoded

STEPS = 5
RATE = 1e-2


def make_rows(count: int = 16, seed: int = 3) -> list[Encoded]:
    draw = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(draw.integers(4, 14))
        rows.append(Encoded(draw.integers(4, 300, length), np.arange(length) >= length // 2, row=index + 2))
    return rows


def tuned(model_dir: Path, method: str) -> Any:
    base = load_base(str(model_dir), dtype="float32", device="cpu")
    torch.manual_seed(0)
    rank = {"method.r": 4} if METHODS[method].has_rank else {}
    settings = load_config(overrides={"method.name": method, "method.dropout": 0.0, **rank}).method
    model = apply_method(base.model, settings, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # away from where half of LoRA's gradients are zero
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def penalty_of(model: nn.Module, anchor: dict[str, Tensor], fisher: dict[str, Tensor], strength: float) -> Tensor:
    """The formula, for autograd."""
    terms = [(fisher[name] * (weight - anchor[name]) ** 2).sum() for name, weight in trainable(model).items()]
    return strength / 2 * torch.stack(terms).sum()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_gradient_is_that_of_autograd(method: str, tiny_model_dir: Callable[[str], Path]) -> None:
    model = tuned(tiny_model_dir("llama"), method)
    fisher = {name: torch.rand_like(weight) for name, weight in trainable(model).items()}
    penalty = Ewc(model, fisher, strength=3.0)
    anchor = {name: weight.detach().clone() for name, weight in trainable(model).items()}
    with torch.no_grad():
        for weight in trainable(model).values():
            weight.add_(torch.randn_like(weight))
    batch = collate(make_rows(3))
    loss = token_nll(model, batch).sum()
    both = torch.autograd.grad(loss + penalty_of(model, anchor, fisher, 3.0), [*trainable(model).values()])
    token_nll(model, batch).sum().backward()
    assert penalty.add_gradient(model) == pytest.approx(penalty_of(model, anchor, fisher, 3.0).item(), rel=1e-5)
    for weight, expected in zip(trainable(model).values(), both, strict=True):
        torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_weight_that_has_not_moved_keeps_no_gradient(tiny_model_dir: Callable[[str], Path]) -> None:
    model = tuned(tiny_model_dir("llama"), "lora")
    penalty = Ewc(model, {name: torch.ones_like(weight) for name, weight in trainable(model).items()}, strength=1.0)
    assert penalty.add_gradient(model) == 0
    assert all(weight.grad is None for weight in trainable(model).values())
    moved = next(iter(trainable(model).values()))
    moved.data += 1
    assert penalty.add_gradient(model) == pytest.approx(moved.numel() / 2)
    assert moved.grad is not None
    assert torch.allclose(moved.grad, torch.ones_like(moved))


def exact_fisher(model: nn.Module, row: Encoded) -> dict[str, Tensor]:
    """Sum over the vocabulary of p(y) * (d log p(y) / dw)^2 for the one supervised token of a row."""
    logits = model(torch.from_numpy(row.input_ids)[None]).logits[0, -2]
    log_p = logits.log_softmax(-1)
    found = {name: torch.zeros_like(weight) for name, weight in trainable(model).items()}
    for token in range(len(log_p)):
        gradients = torch.autograd.grad(log_p[token], [*trainable(model).values()], retain_graph=True)
        for name, gradient in zip(found, gradients, strict=True):
            found[name] += log_p[token].exp().detach() * gradient.square()
    return found


def test_fisher_is_the_expected_square_over_the_models_own_tokens(tiny_model_dir: Callable[[str], Path]) -> None:
    """The same row many times is an average over as many draws."""
    model = tuned(tiny_model_dir("llama"), "lora")
    row = Encoded(np.array([5, 9, 40, 7]), np.array([False, False, False, True]))
    exact, estimate = exact_fisher(model, row), diagonal_fisher(model, [row] * 600, seed=1)
    for name, expected in exact.items():
        assert float(estimate[name].sum()) == pytest.approx(float(expected.sum()), rel=0.2)
        agreement = torch.corrcoef(torch.stack([estimate[name].flatten(), expected.flatten()]))[0, 1]
        assert agreement > 0.95


def test_fisher_is_per_supervised_token_and_one_square_a_row(tiny_model_dir: Callable[[str], Path]) -> None:
    model = tuned(tiny_model_dir("llama"), "lora")
    rows = make_rows(4)
    expected = {name: torch.zeros_like(weight) for name, weight in trainable(model).items()}
    for index, row in enumerate(rows):
        generator = torch.Generator().manual_seed(row_seed(7, index))
        drawn = drawn_nll(model.eval(), collate([row]), generator)
        assert len(drawn) == row.target_tokens
        for name, gradient in zip(
            expected, torch.autograd.grad(drawn.sum(), [*trainable(model).values()]), strict=True
        ):
            expected[name] += gradient.square() / sum(row.target_tokens for row in rows)
    model.train()
    found = diagonal_fisher(model, rows, seed=7)
    assert model.training
    assert all(weight.grad is None for weight in trainable(model).values())
    for name, square in expected.items():
        torch.testing.assert_close(found[name], square, rtol=1e-4, atol=1e-9)


def test_fisher_to_a_file_and_back(tiny_model_dir: Callable[[str], Path]) -> None:
    model = tuned(tiny_model_dir("llama"), "lora")
    penalty = Ewc(model, diagonal_fisher(model, make_rows(2), seed=0), strength=2.0)
    again = Ewc(model, read_fisher(penalty.to_bytes()), strength=2.0)
    assert again.sha256 == penalty.sha256
    assert penalty.sha256 != Ewc(model, diagonal_fisher(model, make_rows(2), seed=1), strength=2.0).sha256


def trained(model: Any, folder: Path, *, strength: float, tokens: int, lanes: int = 1) -> list[Event]:
    """A few steps; what the loop told."""
    events: list[Event] = []
    settings = LoopSettings(
        schedule=lambda step: RATE,
        autocast=nullcontext,
        tokens_per_batch=tokens,
        optimizer="adamw",
        weight_decay=0.01,
        betas=(0.9, 0.999),
        max_grad_norm=0.0,
        eval_steps=100,
        save_steps=100,
        patience=None,
        threshold=0.0,
        lanes=Lanes(lanes),
    )
    if strength:
        penalty = Ewc(model, diagonal_fisher(model, make_rows(8, seed=9), seed=0), strength=strength)
        settings = replace(settings, penalty=penalty)
    rows = make_rows()
    with settings.lanes:
        fit(
            model,
            rows,
            plan=StepPlan(len(rows), 8, STEPS, seed=5),
            settings=settings,
            checkpoints=Checkpoints(folder, identity={}, keep=1),
            observers=[events.append],
        )
    return [event for event in events if event.kind == "train"]


def test_the_loop_minimises_loss_and_penalty_and_reports_them_apart(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path]
) -> None:
    """Against a loop that adds the penalty to the loss and leaves the rest to autograd."""
    model, other = (tuned(tiny_model_dir("llama"), "lora") for _ in range(2))
    events = trained(model, tmp_path, strength=50.0, tokens=30)
    fisher = diagonal_fisher(other, make_rows(8, seed=9), seed=0)
    anchor = {name: weight.detach().clone() for name, weight in trainable(other).items()}
    optimizer = torch.optim.AdamW(trainable(other).values(), lr=RATE, weight_decay=0.01)
    rows, plan = make_rows(), StepPlan(16, 8, STEPS, seed=5)
    for step, event in enumerate(events):
        window = [rows[index] for index in plan.rows_of(step)]
        loss = token_nll(other, collate(window)).sum() / sum(row.target_tokens for row in window)
        penalty = penalty_of(other, anchor, fisher, 50.0)
        assert event.values["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert event.values["penalty"] == pytest.approx(penalty.item(), rel=1e-3, abs=1e-9)
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
    assert float(events[-1].values["penalty"] or 0) > 1e-3  # it does pull


def test_the_penalty_counts_once_a_step_however_it_is_divided(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path]
) -> None:
    divisions = [(1000, 1), (30, 1), (1, 1), (40, 2)]
    models = [tuned(tiny_model_dir("llama"), "lora") for _ in divisions]
    told = [
        trained(model, tmp_path / str(number), strength=50.0, tokens=tokens, lanes=lanes)
        for number, (model, (tokens, lanes)) in enumerate(zip(models, divisions, strict=True))
    ]
    for other in told[1:]:
        for name in ("loss", "penalty", "grad_norm"):
            expected = [event.values[name] for event in told[0]]
            assert [event.values[name] for event in other] == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_weights_stay_nearer_the_stronger_it_is(tmp_path: Path, tiny_model_dir: Callable[[str], Path]) -> None:
    distances = []
    for strength in (0.0, 10.0, 1000.0):
        model = tuned(tiny_model_dir("llama"), "lora")
        before = {name: weight.clone() for name, weight in trainable_weights(model).items()}
        fisher = diagonal_fisher(model, make_rows(8, seed=9), seed=0)
        events = trained(model, tmp_path / str(strength), strength=strength, tokens=1000)
        assert ("penalty" in events[0].values) == bool(strength)
        after = trainable_weights(model)
        distances.append(sum(float((fisher[name] * (after[name] - before[name]) ** 2).sum()) for name in before))
    assert distances == sorted(distances, reverse=True)
