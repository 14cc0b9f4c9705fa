"""Passes side by side: in order, few at a time, in the caller's modes, and only where that changes no result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.config import MethodConfig
from tunesmith.data import batches
from tunesmith.kernels.dropout import chosen_to_drop, without
from tunesmith.model import Lanes, apply_method, choose_lanes, load_base, seeded_dropout
from tunesmith.types import Encoded

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_of_their_own() -> None:
    second_ended = threading.Event()

    def first_ends_last(number: int) -> tuple[int, str]:
        if number == 0:
            assert second_ended.wait(timeout=20)
        if number == 1:
            second_ended.set()
        return number, threading.current_thread().name

    with Lanes(2) as lanes:
        results = list(lanes.map(first_ends_last, range(5)))
    assert [number for number, _ in results] == [0, 1, 2, 3, 4]
    assert {name for _, name in results} == {"lane_0", "lane_1"}


def test_no_more_results_than_lanes_wait() -> None:
    taken: list[int] = []
    with (
        Lanes(2) as lanes,
        closing(lanes.map(lambda number: number, iter(taken.append(n) or n for n in range(9)))) as results,
    ):
        next(results)
        assert taken == [0, 1]
        next(results)
        assert taken == [0, 1, 2]


def test_the_caller_has_one_thread_while_lanes_have_the_cores(two_threads: None) -> None:
    with Lanes(2) as lanes:
        assert [torch.get_num_threads() for _ in lanes.map(lambda number: number, range(3))] == [1, 1, 1]
        assert torch.get_num_threads() == 2
        with closing(lanes.map(lambda number: number, range(3))) as results:
            next(results)
        assert torch.get_num_threads() == 2


def test_an_interrupt_while_lanes_end_gives_the_threads_back(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(running: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tunesmith.model.lanes.wait", interrupted)
    with Lanes(2) as lanes:
        with pytest.raises(KeyboardInterrupt):
            list(lanes.map(lambda number: number, range(3)))
        assert torch.get_num_threads() == 2


def test_an_error_waits_for_what_is_under_way() -> None:
    ended: list[int] = []

    def work(number: int) -> int:
        if number == 0:
            raise MemoryError("no room")
        time.sleep(0.05)
        ended.append(number)
        return number

    with Lanes(2) as lanes:
        with pytest.raises(MemoryError, match="no room"):
            list(lanes.map(work, range(3)))
        assert ended == [1]


def test_computes_in_the_callers_modes() -> None:
    def modes(_: int) -> tuple[bool, bool, int]:
        return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_num_threads()

    with Lanes(2, 1) as lanes:
        assert set(lanes.map(modes, range(2))) == {(True, False, 1)}
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert set(lanes.map(modes, range(2))) == {(False, True, 1)}


def test_threads_started_later_compute_as_before(two_threads: None) -> None:
    with Lanes(2, 1) as lanes:
        list(lanes.map(lambda number: number, range(2)))
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [*found, torch.get_num_threads()] == [2, 2]


def test_dropout_of_a_lane_is_its_own() -> None:
    like = torch.ones(64, 64)

    def masks(seed: int) -> torch.Tensor:
        with seeded_dropout(seed):
            return torch.stack([without(like, chosen_to_drop(like, 0.3)) == 0 for _ in range(20)])

    alone = [masks(seed) for seed in range(4)]
    with Lanes(2) as lanes:
        together = list(lanes.map(masks, range(4)))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])
    assert not torch.equal(alone[0][0], alone[0][1])
    assert abs(alone[0].float().mean() - 0.3) < 0.01


@pytest.mark.parametrize(
    ("arch", "method", "tokens", "expected"),
    [
        ("llama", "lora", 2048, 2),
        ("llama", "full", 2048, 2),
        ("llama", "lora", 600, 1),  # too little for two
        ("gpt2", "full", 2048, 2),  # dropout of its own, seeded
    ],
)
def test_lanes_are_chosen(
    tiny_model_dir: Callable[[str], Path], two_threads: None, arch: str, method: str, tokens: int, expected: int
) -> None:
    model = load_base(str(tiny_model_dir(arch)), dtype="float32", device="cpu").model
    prepared = apply_method(model, MethodConfig(name=method), dtype=torch.float32)
    lanes = choose_lanes(prepared, CPU, tokens=tokens)
    assert [lanes.for_step(size).count for size in (400, 1024)] == [1, expected]
    model.config.attention_dropout, model.config.sliding_window = 0.1, 64  # rows over the window are padded
    assert choose_lanes(prepared, CPU, tokens=tokens).count == 1


@example(lengths=[40, 40, 40], tokens=120, lanes=2)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30), tokens=st.integers(1, 120), lanes=st.integers(2, 4)
)
def test_batches_for_lanes_hold_every_row_once_and_are_even(lengths: list[int], tokens: int, lanes: int) -> None:
    rows = [Encoded(np.zeros(n, np.int64), np.ones(n, bool), row=index) for index, n in enumerate(lengths)]
    found = list(batches(rows, tokens=tokens, lanes=lanes))
    assert sorted(row for batch in found for row in batch.rows) == list(range(len(rows)))
    sizes = [sum(batch.lengths) for batch in found]
    assert all(
        size <= max(1, tokens // lanes) or len(batch.rows) == 1 for size, batch in zip(sizes, found, strict=True)
    )
    assert len(found) % lanes == 0 or len(found) == len(rows)
    assert max(sizes) - min(sizes) <= max(lengths)


@pytest.mark.parametrize("kind", ["default", "dynamic"])
def test_rotary_embeddings_that_follow_the_rows_of_a_pass_have_one_lane(kind: str, two_threads: None) -> None:
    shape = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    rope = {"rope_type": kind, "rope_theta": 10_000.0, **({"factor": 2.0} if kind == "dynamic" else {})}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, rope_parameters=rope))
    assert choose_lanes(model, CPU, tokens=2048).count == (1 if kind == "dynamic" else 2)
