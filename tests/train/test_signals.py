"""A stop that is asked for while a validation runs: it is left between two passes and made anew later."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith.errors import DataError
from tunesmith.evaluate import mean_nll
from tunesmith.model import load_base
from tunesmith.train.budget import MicroBatches
from tunesmith.train.device import ALONE
from tunesmith.train.outcome import Likelihood, measured
from tunesmith.train.signals import PutOff, StopRequest, listen_for_stop
from tunesmith.types import Encoded


class Measure:
    """`mean_nll` that counts its passes and gets a signal in one of them."""

    def __init__(self, stop: StopRequest, at: int | None) -> None:
        self.stop, self.at, self.passes = stop, at, 0

    def __call__(self, model: torch.nn.Module, encoded: list[Encoded], *, tokens_per_batch: int) -> Likelihood:
        self.passes += 1
        if self.passes == self.at:
            self.stop.signal_number = 15
        return mean_nll(model, encoded, tokens_per_batch=tokens_per_batch)


@pytest.fixture
def rows() -> list[Encoded]:
    draw = np.random.default_rng(0)
    lengths = (9, 3, 12, 8, 11, 5)  # the second has no target
    return [Encoded(draw.integers(4, 300, n), np.arange(n) > 2, row=n) for n in lengths]


@pytest.mark.parametrize(("at", "passes"), [(None, 3), (1, 1), (2, 2)])
def test_a_validation_is_left_between_two_passes(
    tiny_model_dir: Callable[[str], Path], rows: list[Encoded], at: int | None, passes: int
) -> None:
    model = load_base(str(tiny_model_dir("llama")), dtype="float32", device="cpu").model
    stop = StopRequest()
    measure, sizes = Measure(stop, at), MicroBatches(20, longest=12)

    def find() -> Likelihood:
        return measured(measure, model, rows, sizes=sizes, processes=ALONE, put_off=lambda: stop.is_asked)

    if at is None:
        whole = mean_nll(model, rows)
        found = find()
        assert (found.nll, found.mean) == (pytest.approx(whole.nll, rel=1e-6), pytest.approx(whole.mean, rel=1e-6))
    else:
        with pytest.raises(PutOff):
            find()
    assert measure.passes == passes


def test_nothing_to_score_is_still_told(tiny_model_dir: Callable[[str], Path], rows: list[Encoded]) -> None:
    model = load_base(str(tiny_model_dir("llama")), dtype="float32", device="cpu").model
    with pytest.raises(DataError, match="no token to score"):
        measured(mean_nll, model, [rows[1]], sizes=MicroBatches(20, longest=12), processes=ALONE)


@pytest.fixture
def hang_up() -> Iterator[None]:
    """SIGHUP as it is where nobody changed it: under nohup the tests begin with it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
def test_a_terminal_that_is_gone_asks_once_however_often_it_is_told() -> None:
    """By the kernel, and again by the shell."""
    with listen_for_stop() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop.signal_number == signal.SIGHUP
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


@pytest.mark.usefixtures("hang_up")
def test_under_nohup_a_terminal_may_go() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with listen_for_stop() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.is_asked
