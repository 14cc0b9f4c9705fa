"""Memory that runs out: the micro-batch halves, the steps stay the same, and what fits is remembered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.data import StepPlan
from tunesmith.errors import ResourceError
from tunesmith.model import Lanes, load_base, token_nll
from tunesmith.train import fit, loop
from tunesmith.train.budget import (
    MemoryNeed,
    MicroBatches,
    free_bytes,
    is_out_of_memory,
    left_in_container,
    memory_need,
    within_memory,
)
from tunesmith.train.checkpoint import Checkpoints, TrainingState
from tunesmith.train.loop import LoopSettings
from tunesmith.train.observe import Event
from tunesmith.train.optimizer import build_optimizer
from tunesmith.train.signals import StopRequest
from tunesmith.types import Batch, Encoded

CPU_WORDS = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."
ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError(CPU_WORDS), MemoryError()]


def make_rows() -> list[Encoded]:
    draw = np.random.default_rng(3)
    lengths = [int(draw.integers(4, 12)) for _ in range(30)] + [20, 21]
    return [Encoded(draw.integers(4, 300, n), np.arange(n) > n // 2, row=i + 2) for i, n in enumerate(lengths)]


class Machine:
    """Training on a device that has room for so many tokens, padding included, at once."""

    def __init__(self, folder: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, room_tokens: int) -> None:
        self.folder, self.model_dir, self.room_tokens = folder, model_dir, room_tokens
        self.error: BaseException = ERRORS[0]
        self.events: list[Event] = []
        self.passes: list[tuple[int, ...]] = []
        self.lanes = Lanes()
        self.in_flight: list[int] = []
        monkeypatch.setattr(loop, "token_nll", self.token_nll)

    def token_nll(self, model: Any, batch: Batch) -> torch.Tensor:
        self.passes.append(batch.lengths)
        self.in_flight.append(batch.input_ids.numel())
        if threading.current_thread() is threading.main_thread():
            self.meet()
        else:
            self.meeting.wait(timeout=60)
        if self.is_over:
            raise self.error
        return token_nll(model, batch)

    def meet(self) -> None:
        """Once every lane has its pass, or the caller without lanes."""
        self.is_over = sum(self.in_flight) > self.room_tokens
        self.in_flight.clear()

    def fit(self, *, stop_after: int | None = None) -> TrainingState:
        self.meeting = threading.Barrier(self.lanes.count, action=self.meet)
        stop, rows = StopRequest(), make_rows()
        self.model = load_base(str(self.model_dir), dtype="float32", device="cpu").model.requires_grad_()

        def observe(event: Event) -> None:
            self.events.append(event)
            if event.kind == "train" and event.step == stop_after:
                stop.signal_number = 15

        settings = LoopSettings(
            schedule=lambda step: 1e-3,
            autocast=nullcontext,
            tokens_per_batch=8 * 21,
            optimizer="adamw",
            weight_decay=0.01,
            betas=(0.9, 0.999),
            max_grad_norm=1.0,
            eval_steps=100,
            save_steps=100,
            patience=None,
            threshold=0.0,
            lanes=self.lanes,
        )
        with self.lanes:
            return fit(
                self.model,
                rows,
                plan=StepPlan(len(rows), 8, 6, seed=5),
                settings=settings,
                checkpoints=Checkpoints(self.folder, identity={}, keep=1),
                observers=[observe],
                stop=stop,
            )

    def losses(self) -> list[float]:
        return [float(event.values["loss"] or 0) for event in self.events if event.kind == "train"]

    def told(self) -> list[str]:
        return [str(event.values["message"]) for event in self.events if event.kind == "memory"]


@pytest.fixture
def machine(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Machine]:
    return lambda name, room_tokens: Machine(tmp_path / name, tiny_model_dir("llama"), monkeypatch, room_tokens)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_smaller_micro_batch_takes_the_same_steps(machine: Callable[..., Machine], error: BaseException) -> None:
    roomy = machine("roomy", 10_000)
    roomy.fit()
    small = machine("small", 2 * 21)
    small.error = error
    state = small.fit()
    assert small.losses() == pytest.approx(roomy.losses(), rel=1e-5)
    for ours, theirs in zip(small.model.parameters(), roomy.model.parameters(), strict=True):
        # AdamW makes steps of the size of the rate out of gradients near 0, whose rounding depends on the CPU
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert state.tokens_per_batch == 2 * 21
    assert [text.split(" tokens")[0] for text in small.told()] == [f"out of memory: at most {n * 21}" for n in (4, 2)]


def test_lanes_take_the_same_steps_and_the_last_resort_is_one(machine: Callable[..., Machine]) -> None:
    roomy = machine("roomy", 10_000)
    roomy.fit()
    small = machine("small", 21)  # the two longest rows have 20 and 21 tokens
    small.lanes = Lanes(2)
    assert small.fit(stop_after=2).one_lane
    assert len(small.told()) == 4  # 84, 42, 21 tokens in two lanes, and 21 in one
    small.lanes = Lanes(2)
    small.fit()
    assert len(small.told()) == 4  # and what fits is found once
    assert small.losses() == pytest.approx(roomy.losses(), rel=1e-5)


def test_memory_runs_out_before_the_first_step_or_not_at_all(machine: Callable[..., Machine]) -> None:
    """The longest rows go first, although the order of training meets them later."""
    small = machine("small", 2 * 21)
    small.fit()
    kinds = [event.kind for event in small.events]
    assert kinds[:4] == ["start", "memory", "memory", "train"]
    assert small.passes[0] == tuple(sorted(map(len, make_rows()), reverse=True)[: len(small.passes[0])])
    assert sum(small.passes[0]) > 4 * 21


def test_what_fits_is_found_once(machine: Callable[..., Machine]) -> None:
    whole = machine("whole", 2 * 21)
    whole.fit()
    small = machine("small", 2 * 21)
    small.fit(stop_after=3)
    small.events.clear()
    small.passes.clear()
    assert small.fit().tokens_per_batch == 2 * 21
    assert small.told() == []
    assert max(map(sum, small.passes)) <= 2 * 21
    assert small.losses() == whole.losses()[3:]


def test_one_row_too_long_is_a_clear_end(machine: Callable[..., Machine]) -> None:
    small = machine("small", 20)
    with pytest.raises(ResourceError, match="a single row") as caught:
        small.fit()
    assert caught.value.exit_code == 4
    assert "data.max_length" in str(caught.value.fix)
    assert small.losses() == []


def test_other_errors_are_not_taken_for_memory() -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    sizes = MicroBatches(8, longest=2)
    with pytest.raises(RuntimeError, match="mat1"):
        within_memory(sizes, fail, halved=lambda: None)
    assert sizes.limit == 8


def test_the_words_of_this_torch_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float32, "adamw"), (torch.bfloat16, "adamw"), (torch.float32, "muon")]
)
def test_memory_need_is_what_a_step_allocates(dtype: torch.dtype, name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 8)).to(dtype)
    model[0].requires_grad_(False)
    need = memory_need(model, name, torch.device("cpu"))
    optimizer = build_optimizer(model, name, weight_decay=0.1, betas=(0.9, 0.95))
    model(torch.ones(4, 16, dtype=dtype)).sum().backward()
    optimizer.step()
    moments = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.ndim]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert need.training_bytes == sum(tensor.nbytes for tensor in [*moments, *gradients])
    assert need.weights_bytes == sum(parameter.nbytes for parameter in model.parameters())
    assert need.fits


def test_free_memory_is_no_more_than_the_machine_has() -> None:
    import os

    free = free_bytes(torch.device("cpu"))
    assert free is not None
    assert 0 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert free_bytes(torch.device("meta")) is None


def test_pages_of_files_are_free_in_a_container(tmp_path: Path) -> None:
    for name, text in (("memory.current", "900\n"), ("memory.max", "1000\n")):
        (tmp_path / name).write_text(text)
    assert left_in_container(tmp_path) is None  # not a whole one
    (tmp_path / "memory.stat").write_text("anon 300\nfile 600\ninactive_file 500\nactive_file 70\nshmem 30\n")
    assert left_in_container(tmp_path) == 670
    (tmp_path / "memory.current").write_text("1600\n")
    assert left_in_container(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert left_in_container(tmp_path) is None


def test_what_cannot_fit_is_known() -> None:
    assert not MemoryNeed(1, 10, 9).fits
    assert MemoryNeed(1, 10, None).fits
