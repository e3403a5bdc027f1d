"""Data-parallel training on several processes, started by torchrun.

Every rank has the tables and takes its share of each batch; the gradients are summed. The network's gradient is one
flat vector, so one all-reduce per step does all that torch's DistributedDataParallel would do. Weights and optimizer
remain equal on all ranks, because they start equal and use the same sums.
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
    """The processes that train together, as seen from one of them.

    Attributes:
        rank: Number of this process, from 0.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process evaluates, writes and prints."""
        return self.rank == 0

    def share(self, start: int, stop: int) -> slice:
        """Return the rows of a batch, from `start` to `stop`, that belong to this rank."""
        cuts = [start + (stop - start) * rank // self.world for rank in (self.rank, self.rank + 1)]
        return slice(*cuts)

    def sum_(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def broadcast(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Return the first rank's numbers on every rank.

        Args:
            values: The numbers; on other ranks only their count is used.
            device: The device of the process group.

        Returns:
            The numbers of the first rank.
        """
        if self.world == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.broadcast(numbers, src=0)
        return list(numbers.tolist())


SINGLE_PROCESS = ProcessGroup()


def join_process_group(device: torch.device) -> ProcessGroup:
    """Connect to the processes that torchrun started, by nccl on GPUs and gloo on CPUs.

    Args:
        device: The device of this process.

    Returns:
        The process group; a single process if torchrun did not start this one.

    Raises:
        UserError: The environment variables of torchrun are incomplete or invalid.
    """
    world = _integer("WORLD_SIZE", 1, 1)
    if world == 1:
        return SINGLE_PROCESS
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE is {world} in the environment, with {' and '.join(missing)} not set; start with torchrun, or "
            "unset WORLD_SIZE to train on one process"
        )
    if _integer("RANK", 0, 0) >= world:
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


def _integer(name: str, least: int, default: int) -> int:
    """Read an integer that torchrun sets in the environment.

    Args:
        name: The variable.
        least: Smallest valid value.
        default: Value if the variable is not set.

    Returns:
        The integer.

    Raises:
        UserError: The variable has another value.
    """
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise UserError(
            f"{name} is {text!r} in the environment, but must be an integer of at least {least}; start with torchrun, "
            "or unset it"
        )
    return int(text)


def local_device(device: torch.device) -> torch.device:
    """Return this rank's GPU if torchrun started several processes on CUDA; otherwise the device itself.

    Raises:
        UserError: The machine has fewer GPUs than processes, or all of them would use the same one.
    """
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    rank, gpus = _integer("LOCAL_RANK", 0, 0), torch.cuda.device_count()
    here = _integer("LOCAL_WORLD_SIZE", 1, _integer("WORLD_SIZE", 1, 1))
    if device.index is not None:
        if here > 1:
            raise UserError(f"--device {device}: {here} processes cannot share one GPU; use --device cuda")
        return device
    if rank >= gpus:
        raise UserError(
            f"process {rank + 1} of this machine has no GPU; use at most --nproc-per-node {gpus}, or --device cpu"
        )
    return torch.device("cuda", rank)
