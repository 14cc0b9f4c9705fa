"""The processes that train one model together: whose rows are whose, what is added up, what all agree on.

The only file that knows how many there are. Everybody else holds a `Processes`, which does nothing when it is alone.
torchrun starts them and says in environment variables who is who; https://docs.pytorch.org/docs/stable/elastic/run.html
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tunesmith import errors
from tunesmith.data import shares
from tunesmith.errors import ResourceError, SettingsError, TunesmithError
from tunesmith.model import base_of, decoder_layers, nll_as_method

Item = TypeVar("Item")

_GIVEN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # by torchrun
# A process that ends is noticed at once, by its closed connection. This is for one that hangs, and has to be longer
# than the first one may take to save a large checkpoint on a slow disk.
_PATIENCE = timedelta(minutes=30)
_BUCKET = 2**25  # gradients summed at once, in numbers: a copy of them all would not fit beside a large model


class Processes:
    """This process, number `rank` of `world`.

    Args:
        device: cpu or cuda, where the model is. sharded: the model's weights are to be divided among the processes.

    What the methods that speak to the others have in common: every process has to call them, in the same order.
    """

    def __init__(self, rank: int = 0, world: int = 1, *, device: str = "auto", sharded: bool = False) -> None:
        self.rank = rank
        self.world = world
        self.device = device
        self.sharded = sharded and world > 1

    @property
    def is_first(self) -> bool:
        """The first process alone writes: files and to the terminal."""
        return self.rank == 0

    def on(self, device: torch.device) -> str:
        """Where is computed, in words."""
        divided = ", each with a part of the weights" if self.sharded else ""
        return str(device) if self.world == 1 else f"{device}, {self.world} processes{divided}"

    def share(self, lengths: Sequence[int]) -> list[int]:
        """Positions of the rows that are this process's, in order, given the tokens of each. It may get none.

        Every process finds the same division by itself.
        """
        return sorted(shares(lengths, self.world)[self.rank])

    def even(self, batches: Iterable[Item], spare: Callable[[], Item]) -> Iterator[tuple[Item, bool]]:
        """The batches, each with True. With divided weights, then `spare()` with False until all have had as many.

        Each pass through divided weights gathers them from everybody, so nobody can make fewer passes than the others.
        """
        if not self.sharded:
            yield from ((batch, True) for batch in batches)
            return
        own = list(batches)
        missing = self.highest(len(own)) - len(own)  # asked before the first pass, when all can answer
        yield from ((batch, True) for batch in own)
        for _ in range(missing):
            yield spare(), False

    def highest(self, number: int) -> int:
        """The highest of everybody's numbers."""
        if self.world == 1:
            return number
        tensor = torch.tensor(number)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over everybody's values, in float64."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def exchange(self, text: str) -> list[str]:
        """Everybody's text, by rank."""
        if self.world == 1:
            return [text]
        own = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        size = torch.tensor(len(text.encode()))
        sizes = [torch.zeros_like(size) for _ in range(self.world)]
        dist.all_gather(sizes, size)
        longest = int(max(sizes))
        if not longest:
            return [""] * self.world
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: int(size)] = own[: int(size)]
        texts = [torch.zeros_like(padded) for _ in range(self.world)]
        dist.all_gather(texts, padded)
        return [bytes(t[:n].tolist()).decode() for t, n in zip(texts, map(int, sizes), strict=True)]

    @contextmanager
    def together(self) -> Iterator[None]:
        """A TunesmithError inside, on any process, is raised on all at the end of the block. One of them tells it.

        Nothing inside may speak to the others.
        """
        if self.world == 1:
            yield
            return
        problem: TunesmithError | None = None
        try:
            yield
        except TunesmithError as error:
            problem = error
        texts = self.exchange(_error_to_json(problem) if problem else "")
        failed = [rank for rank, text in enumerate(texts) if text]
        if failed:
            raised = problem or _error_from_json(texts[failed[0]])
            raised.is_told = self.rank != failed[0]
            raise raised

    def first(self, work: Callable[[], Any]) -> Any:
        """What `work()` returns (JSON's types) when the first process does it. Its TunesmithError is raised on all."""
        if self.world == 1:
            return work()
        text = ""
        with self.together():
            if self.is_first:
                text = json.dumps(work())
        return json.loads(self.exchange(text)[0])

    def echo(self, error: TunesmithError) -> TunesmithError:
        """An error that all raise, marked so that the first process alone tells it."""
        error.is_told = not self.is_first
        return error

    def require_equal(self, identity: Mapping[str, object]) -> None:
        """Check that all are about to do the same.

        Raises:
            SettingsError: they are not, as when a node has other data or another version; every difference is named.
        """
        everybody = [dict(_leaves(json.loads(text))) for text in self.exchange(json.dumps(identity))]
        first, *others = everybody
        problems = []
        for name in dict.fromkeys(name for leaves in everybody for name in leaves):
            unlike = next((rank for rank, leaves in enumerate(others, 1) if leaves.get(name) != first.get(name)), None)
            if unlike is not None:
                found = (json.dumps(everybody[rank].get(name)) for rank in (0, unlike))
                problems.append(f"{name} is {' in process 0, '.join(found)} in process {unlike}")
        if problems:
            error = SettingsError(
                "the processes are not about to do the same:",
                problems=tuple(problems),
                fix="every node needs the same files, packages and command line; what a machine chose for itself, such "
                "as train.native or model.dtype, can be set for all",
            )
            raise self.echo(error)

    def add_up(self, model: nn.Module) -> None:
        """Sum every trainable parameter's gradient over the processes, in place; divided weights have done it already.

        A parameter without a gradient anywhere keeps none, so that the optimizer leaves it alone.
        """
        if self.world == 1 or self.sharded:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        gradients = []
        for parameter, is_used in zip(parameters, used.tolist(), strict=True):
            if is_used:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def all_finite(self, tensors: Iterable[Tensor]) -> bool:
        """Whether no process holds NaN or infinity in its tensors."""
        return not self.highest(int(not all(torch.isfinite(self.own(tensor)).all() for tensor in tensors)))

    # Divided weights (FSDP2): between two passes each process has a slice of every parameter, as a DTensor.

    def start_equal(self, model: nn.Module) -> None:
        """Give all the first process's trainable weights, some of which may have been drawn at random."""
        if self.world > 1:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    dist.broadcast(parameter.data, 0)

    def shard(self, model: nn.Module) -> None:
        """Divide the weights, if that was asked for: decoder layer by decoder layer, the rest as one.

        Computing gathers a layer's weights just before it is its turn and drops them after; the gradient of a slice is
        the sum over the processes.
        """
        if not self.sharded:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(self.device, (self.world,))
        base = base_of(model)
        for module in (*decoder_layers(model), base):
            # the outermost too: between two passes all weights are slices, which is what checkpoints count on
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        for module in base.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # a sum, not FSDP's mean
                module.set_force_sum_reduction_for_comms(True)  # gloo has no other reduction
        register_fsdp_forward_method(base, nll_as_method(base))

    def own(self, tensor: Tensor) -> Tensor:
        """This process's slice of a divided tensor, sharing its memory; any other as it is."""
        if not self.sharded:
            return tensor
        from torch.distributed.tensor import DTensor

        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def one(self, tensor: Tensor) -> Tensor:
        """A divided tensor in one piece; any other as it is."""
        if not self.sharded:
            return tensor
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def like(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """A tensor in one piece, divided as `parameter` is; as it is when that is not divided, or the shapes differ."""
        if not self.sharded or tensor.shape != parameter.shape:
            return tensor
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(parameter, DTensor):
            return tensor
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors in one piece, in host memory, on the first process; the others get none."""
        pieces: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if self.sharded or self.is_first:
                piece = self.one(tensor.detach())
                if self.is_first:
                    pieces[name] = piece.cpu().contiguous()
        return pieces

    def reassemble(self, model: nn.Module) -> None:
        """Put the trained weights back into the first process's model in one piece, in host memory, to be saved."""
        if not self.sharded:
            return
        done: dict[nn.Parameter, nn.Parameter] = {}  # tied weights stay tied
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.requires_grad:
                    if parameter not in done:
                        done[parameter] = nn.Parameter(self.one(parameter.detach()).cpu())
                    if self.is_first:
                        setattr(module, name, done[parameter])


ALONE = Processes()


@contextmanager
def joined(requested: str, *, sharding: str = "none") -> Iterator[Processes]:
    """The processes that torchrun started; without it, or when it started one, this one alone.

    Args:
        requested: `model.device`. sharding: `train.sharding`; alone there is nothing to divide.

    Raises:
        SettingsError: the device is not one for several processes. ResourceError: there are more processes than GPUs,
            or, inside, another process ended.
    """
    world = int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _GIVEN) else 1
    if world == 1:
        yield Processes(device=requested)
        return
    rank = int(os.environ["RANK"])
    try:
        device = _take_device(requested, int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            # What is agreed on lies in host memory and goes through gloo, so that it does not wait for the GPU.
            backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE)
            atexit.register(dist.destroy_process_group)
        yield Processes(rank, world, device=device, sharded=sharding == "full")
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise ResourceError(
            f"process {rank} of {world} cannot reach the others: one of them ended, or does not answer",
            cause=str(error).splitlines()[0],
            fix="its own message says why; what was saved is kept: start the same processes with --resume",
        ) from error


def _take_device(requested: str, local_rank: int) -> str:
    """cpu or cuda; of several GPUs the one with this process's number becomes "cuda"."""
    if requested == "mps":
        raise SettingsError("several processes compute on cpu or cuda, not on mps", fix="set model.device to cpu")
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if local_rank >= torch.cuda.device_count():
        raise ResourceError(
            f"process {local_rank} of this machine has no GPU: torch finds {torch.cuda.device_count()}",
            fix="start one process for each GPU with torchrun --nproc-per-node, or set model.device to cpu",
        )
    torch.cuda.set_device(local_rank)
    return "cuda"


def _is_lost(error: RuntimeError) -> bool:
    """gloo has no exception of its own; its messages name its source files."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors of one format and about _BUCKET numbers."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and (filled + tensor.numel() > _BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.numel()
    if bucket:
        yield bucket


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """train.native and its value, of {"train": {"native": ...}}."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _error_to_json(error: TunesmithError) -> str:
    name = next(kind.__name__ for kind in type(error).__mro__ if vars(errors).get(kind.__name__) is kind)
    return json.dumps({"class": name, "content": vars(error)})


def _error_from_json(text: str) -> TunesmithError:
    told = json.loads(text)
    kind: type[TunesmithError] = vars(errors)[told["class"]]
    error = kind.__new__(kind, told["content"]["message"])  # not __init__: kinds differ in their arguments
    vars(error).update(told["content"])
    return error
