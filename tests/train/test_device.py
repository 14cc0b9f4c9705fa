"""How rows are divided, and what a process that is alone does: nothing. What several do together: tests/parity."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.train import device
from tunesmith.train.device import ALONE, Processes, joined
from tunesmith.train.health import NonFinite


@given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 9))
def test_every_row_is_of_one_process_and_none_has_much_more(lengths: list[int], world: int) -> None:
    shares = [Processes(rank, world).share(lengths) for rank in range(world)]
    assert sorted(position for share in shares for position in share) == list(range(len(lengths)))
    assert all(share == sorted(share) for share in shares)
    loads = [sum(lengths[position] for position in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)


def test_rows_are_divided_by_tokens_not_by_number() -> None:
    assert [Processes(rank, 2).share([90, 20, 30, 40]) for rank in (0, 1)] == [[0], [1, 2, 3]]
    assert [Processes(rank, 3).share([5]) for rank in (0, 1, 2)] == [[0], [], []]


def test_alone_everything_is_as_it_was() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    model = torch.nn.Module()
    model.weight = weight
    weight.grad = torch.tensor([1.0, 2.0])
    ALONE.add_up(model)
    ALONE.start_equal(model)
    ALONE.shard(model)
    ALONE.reassemble(model)
    assert model.weight is weight
    assert weight.grad.tolist() == [1.0, 2.0]
    assert (ALONE.highest(-3), ALONE.total([0.1]), ALONE.exchange("x")) == (-3, [0.1], ["x"])
    assert list(ALONE.even([1, 2], lambda: 9)) == [(1, True), (2, True)]
    assert ALONE.first(lambda: (1, 2)) == (1, 2)  # not through JSON
    assert not Processes(sharded=True).sharded  # there is nothing to divide
    with pytest.raises(NonFinite), ALONE.together():
        raise NonFinite("the loss is nan", 3, [7])


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # as other launchers leave it
    with joined("cpu", sharding="full") as processes:
        assert (processes.rank, processes.world, processes.device, processes.sharded) == (0, 1, "cpu", False)


def test_a_device_that_several_cannot_share(monkeypatch: pytest.MonkeyPatch) -> None:
    given_by_torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}
    for name, value in {**given_by_torchrun, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="not on mps"), joined("mps"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ResourceError, match="process 1 of this machine has no GPU: torch finds 1"), joined("auto"):
        pass


class TwoMachines(Processes):
    """The first of two processes; the other one has found `elsewhere`."""

    def __init__(self, elsewhere: dict[str, object]) -> None:
        super().__init__(rank=0, world=2)
        self.elsewhere = json.dumps(elsewhere)

    def exchange(self, text: str) -> list[str]:
        return [text, self.elsewhere]


def test_settings_that_two_machines_chose_differently_are_named() -> None:
    here = {"seed": 1, "train": {"native": "on", "compile": "off"}, "model": {"dtype": "bfloat16"}, "pretrain": {}}
    TwoMachines(here).require_equal(here)
    there = {**here, "seed": 2, "train": {"native": "off", "compile": "off"}, "data": {"shape": "qa"}}
    with pytest.raises(SettingsError, match="not about to do the same") as caught:
        TwoMachines(there).require_equal(here)
    assert caught.value.problems == (
        "seed is 1 in process 0, 2 in process 1",
        'train.native is "on" in process 0, "off" in process 1',
        'data.shape is null in process 0, "qa" in process 1',
    )


def test_an_error_arrives_as_what_it_was() -> None:
    sent = SettingsError("two things", problems=("a", "b"), fix="change them")
    received = device._error_from_json(device._error_to_json(sent))
    assert type(received) is SettingsError
    assert str(received) == str(sent)
    text = device._error_to_json(NonFinite("the loss is nan", 3, [7]))
    assert json.loads(text)["class"] == "TrainingError"  # the nearest kind that every process knows
    assert device._error_from_json(text).exit_code == 3


def test_buckets_hold_every_gradient_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_BUCKET", 10)
    tensors = [torch.zeros(size) for size in (4, 5, 3, 20, 1)] + [torch.zeros(1, dtype=torch.bfloat16)]
    sizes = [[tensor.numel() for tensor in bucket] for bucket in device._buckets(tensors)]
    assert sizes == [[4, 5], [3], [20], [1], [1]]
