"""One training on several processes, started by torchrun: every rank has the tables, takes its share of each batch, and
the gradients are summed.

The network's gradient is one flat vector, so one all-reduce a step is all that torch's DistributedDataParallel would
do. Weights and optimizer stay equal on all processes, because they start equal and see the same sums.
"""

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import distributed

from mma4ctr.runtime.console import silence
from mma4ctr.runtime.errors import UserError


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together; alone unless torchrun says otherwise."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """The one that tests, writes and speaks."""
        return self.rank == 0

    def share(self, start: int, stop: int) -> slice:
        """This rank's rows of a batch."""
        cuts = [start + (stop - start) * rank // self.world for rank in (self.rank, self.rank + 1)]
        return slice(*cuts)

    def sum_(self, values: torch.Tensor) -> torch.Tensor:
        """Add up over the processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def broadcast(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The numbers that the first rank has; what the others pass counts only as their number."""
        if self.world == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.broadcast(told, src=0)
        return list(told.tolist())


SINGLE_PROCESS = ProcessGroup()


def join_process_group(device: torch.device) -> ProcessGroup:
    """The processes that torchrun has started, connected (nccl on GPUs, gloo on CPUs); alone where it has not."""
    world = _whole("WORLD_SIZE", 1, 1)
    if world == 1:
        return SINGLE_PROCESS
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE is {world} in the environment, and {' and '.join(missing)} not set; start with torchrun, or "
            "unset WORLD_SIZE to train alone"
        )
    if _whole("RANK", 0, 0) >= world:
        raise UserError(
            f"RANK {os.environ['RANK']} is not below WORLD_SIZE {world}; start with torchrun, or unset both"
        )
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)
    processes = ProcessGroup(distributed.get_rank(), world)
    if not processes.first:
        silence()
    return processes


def _whole(name: str, least: int, default: int) -> int:
    """A whole number that torchrun sets in the environment; raises `UserError` for anything else there."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise UserError(
            f"{name} is {text!r} in the environment, where torchrun sets a whole number from {least} on; unset it"
        )
    return int(text)


def local_device(device: torch.device) -> torch.device:
    """Of several GPUs the one of this rank."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", _whole("LOCAL_RANK", 0, 0))
    return device
