"""A checkpoint with any damage is told from a good one: flipped bits, lost ends, missing files."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from fault_runs import SEED
from tunesmith.train.checkpoint import Checkpoints, TrainingState, damage

PLACES = 1000


def trained(step: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(step)
    model = torch.nn.Linear(40, 40)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(40)).sum().backward()
    optimizer.step()
    return model, optimizer


def weights_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_checkpoints(tmp_path)


def two_checkpoints(tmp_path: Path) -> Path:
    """A good checkpoint of step 2, and one of step 1 before it."""
    checkpoints = Checkpoints(tmp_path, identity={"data": "x"}, keep=5)
    for step in (1, 2):
        checkpoints.save(*trained(step), TrainingState(step=step, tokens=12_345, best_loss=1.5, best_step=1))
    return tmp_path / "step-000002"


def places(folder: Path, count: int) -> list[tuple[Path, int]]:
    """Files of a checkpoint and offsets in them, as likely as there are bytes, and both ends of every file."""
    files = sorted(folder.iterdir())
    ends = [(path, offset) for path in files for offset in (0, path.stat().st_size - 1)]
    draw = random.Random(SEED)
    sizes = [path.stat().st_size for path in files]
    drawn = [(path, draw.randrange(path.stat().st_size)) for path in draw.choices(files, sizes, k=count - len(ends))]
    # a quarter of the places in the small files, where one byte is one digit
    small = [path for path in files if path.suffix == ".json"]
    drawn[: count // 4] = [(p, draw.randrange(p.stat().st_size)) for p in draw.choices(small, k=count // 4)]
    return ends + drawn


def put(path: Path, offset: int, content: bytes) -> None:
    """In place: ext4 waits for the disk where a file is emptied and written again."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_every_flipped_bit_is_seen(folder: Path) -> None:
    draw = random.Random(SEED)
    seen = 0
    for path, offset in places(folder, PLACES):
        good = path.read_bytes()[offset]
        put(path, offset, bytes([good ^ 1 << draw.randrange(8)]))
        seen += damage(folder) is not None
        put(path, offset, bytes([good]))
    assert seen == PLACES
    assert damage(folder) is None


def test_every_lost_end_is_seen(folder: Path) -> None:
    seen = 0
    for path, offset in places(folder, PLACES):
        good = path.read_bytes()
        os.truncate(path, offset)
        seen += damage(folder) is not None
        put(path, 0, good)
    assert seen == PLACES


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_every_missing_file_is_seen_and_the_one_before_is_used(folder: Path, name: str) -> None:
    (folder / name).unlink()
    model, optimizer = trained(9)
    checkpoints = Checkpoints(folder.parent, identity={"data": "x"}, keep=5)
    state = checkpoints.restore(model, optimizer)
    assert state is not None
    assert state.step == 1
    assert all(map(torch.equal, weights_of(model), weights_of(trained(1)[0])))
    assert checkpoints.messages == [
        f"checkpoint step-000002 is damaged ({name} is missing): kept as damaged-step-000002, not used"
    ]


def test_nothing_good_is_a_new_start_and_nothing_is_deleted(folder: Path) -> None:
    for path in folder.parent.glob("step-*/state.json"):
        path.write_text("{}")
    checkpoints = Checkpoints(folder.parent, identity={"data": "x"}, keep=5)
    assert checkpoints.restore(*trained(9)) is None
    assert len(list(folder.parent.glob("damaged-step-*"))) == len(checkpoints.messages) == 2


def test_the_same_step_damaged_twice_is_kept_twice(folder: Path) -> None:
    checkpoints = Checkpoints(folder.parent, identity={"data": "x"}, keep=5)
    for _ in range(2):
        (folder / "state.json").write_text("{}")
        assert checkpoints.restore(*trained(9)) is not None
        checkpoints.save(*trained(2), TrainingState(step=2))
    assert {path.name for path in folder.parent.glob("damaged-*")} == {"damaged-step-000002", "damaged-step-000002-2"}


def test_a_lost_best_checkpoint_is_told_and_replaced_by_a_later_one(folder: Path) -> None:
    shutil.rmtree(folder.with_name("step-000001"))
    checkpoints = Checkpoints(folder.parent, identity={"data": "x"}, keep=5)
    state = checkpoints.restore(*trained(9))
    assert state is not None
    assert (state.step, state.best_step, state.best_loss) == (2, None, None)
    assert checkpoints.messages == ["the best checkpoint (step 1) is lost: the best step from here on takes its place"]


@pytest.mark.parametrize("content", ["", "step-000099", "\0", None])
def test_the_pointers_are_not_relied_on(folder: Path, content: str | None) -> None:
    for name in ("LATEST", "BEST"):
        path = folder.with_name(name)
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
    checkpoints = Checkpoints(folder.parent, identity={"data": "x"}, keep=5)
    state = checkpoints.restore(*trained(9))
    assert state is not None
    assert state.step == 2
    assert checkpoints.best(state) == folder.with_name("step-000001")


def test_old_checkpoints_stay_when_the_new_one_does_not_read_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.errors import ResourceError
    from tunesmith.train import checkpoint

    real = checkpoint.save_file

    def bad_disk(tensors: dict[str, torch.Tensor], path: Path) -> None:
        real(tensors, path)
        monkeypatch.setattr(checkpoint, "damage", lambda folder: "a bit flipped" if folder.name[-1] == "3" else None)

    monkeypatch.setattr(checkpoint, "save_file", bad_disk)
    checkpoints = Checkpoints(folder.parent, identity={"data": "x"}, keep=1)
    with pytest.raises(ResourceError, match="did not read back"):
        checkpoints.save(*trained(3), TrainingState(step=3))
    assert [path.name for path in checkpoints.list()] == ["step-000001", "step-000002"]
