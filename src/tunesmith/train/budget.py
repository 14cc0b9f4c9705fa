"""What a run needs of memory, as far as it is certain before the first step; and how much is computed at once.

The latter is halved when memory runs out, which changes no optimizer step.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from tunesmith.errors import ResourceError
from tunesmith.model import is_out_of_memory
from tunesmith.train.device import ALONE, Processes

Result = TypeVar("Result")

MEMORY_FIX = (
    "lower data.max_length, set train.gradient_checkpointing, or take a smaller model, or lora in place of full"
)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a run takes whatever the rows are: weights, which are loaded; then one gradient and the optimizer's
    moments for each trained parameter. Activations come on top. free_bytes: what the device has now, if it tells.
    """

    weights_bytes: int
    training_bytes: int
    free_bytes: int | None

    @property
    def fits(self) -> bool:
        """False when it is certain that it does not: swapping or a crash is all that can follow."""
        return self.free_bytes is None or self.training_bytes <= self.free_bytes


def memory_need(model: nn.Module, optimizer: str, device: torch.device) -> MemoryNeed:
    """Counted from the parameters of the model as it will be trained."""
    weights = sum(parameter.nbytes for parameter in model.parameters())
    training = sum(
        parameter.nbytes + _moments_bytes(parameter, optimizer)
        for parameter in model.parameters()
        if parameter.requires_grad
    )
    return MemoryNeed(weights, training, free_bytes(device))


def _moments_bytes(parameter: nn.Parameter, optimizer: str) -> int:
    """At least: Muon keeps one moment of a matrix that is no table, 8-bit AdamW a byte for each of two."""
    if optimizer == "adamw_8bit":
        return 2 * parameter.numel()
    return parameter.nbytes * (1 if optimizer == "muon" and parameter.ndim == 2 else 2)


def free_bytes(device: torch.device) -> int | None:
    """What can still be allocated: of CUDA as the driver says, of a CPU as Linux says, within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    left = left_in_container(Path("/sys/fs/cgroup"))
    return free if left is None else min(free, left)


def left_in_container(folder: Path) -> int | None:
    """What a cgroup (version 2) still lets its processes take; None where it sets no limit.

    Pages of files that were read count as used there, but the kernel gives them up first: a model that was just copied
    into a container would otherwise leave no room for itself.
    """
    try:
        limit, used = (int((folder / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        files = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
    except (OSError, ValueError):  # there are no such files, or no limit: "max"
        return None
    return max(0, limit - used + files)


@dataclass(slots=True)
class MicroBatches:
    """At most `limit` tokens go through the model at once, or one row of up to `longest` tokens in each lane."""

    limit: int
    longest: int
    lanes: int = 1

    def halve(self) -> bool:
        """False when the longest row is alone already."""
        if self.limit <= self.longest:
            alone, self.lanes = self.lanes == 1, 1
            return not alone
        self.limit = max(self.longest, self.limit // 2)
        return True


def within_memory(
    sizes: MicroBatches,
    compute: Callable[[], Result],
    *,
    halved: Callable[[], None],
    processes: Processes = ALONE,
) -> Result:
    """`compute()`, which looks at `sizes.limit`; tried again from its start at half the size until it fits.

    When it does not fit on one of the processes, all try again. Where the weights are divided among them it cannot be
    tried again: the others wait inside the pass that failed.

    Args:
        halved: called after every halving.

    Raises:
        ResourceError: a single row does not fit.
    """
    while True:
        cause = ""
        try:
            result = compute()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            cause = (str(error) or type(error).__name__).splitlines()[0]
            if processes.sharded:
                fix = f"lower train.tokens_per_batch (now {sizes.limit}), or start more processes"
                raise ResourceError("not enough memory with divided weights", cause=cause, fix=fix) from error
        if not processes.highest(int(bool(cause))):
            return result
        # outside the handler: the traceback holds the tensors of the attempt until here
        if not sizes.halve():
            cause = cause or "another process ran out of memory"
            raise processes.echo(ResourceError("not enough memory for a single row", cause=cause, fix=MEMORY_FIX))
        free_memory()
        halved()


def free_memory() -> None:
    """Give what is no longer used back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
