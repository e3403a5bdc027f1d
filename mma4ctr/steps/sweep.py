"""Many trainings at once, in processes of this machine or as tasks of a Ray cluster."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from mma4ctr.evaluation.plans import Group
from mma4ctr.evaluation.run_records import Result
from mma4ctr.model.trainer import Epoch
from mma4ctr.runtime.console import RunsDisplay
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import Processes, cores
from mma4ctr.runtime.ray_cluster import connect
from mma4ctr.steps.schedule import Schedule
from mma4ctr.steps.training_run import Training, choose_device, run_checkpoints
from mma4ctr.storage.paths import Paths

# In a worker process: the queue for its epochs. A process receives a queue only when it starts.
_epoch_queue: Any = None


def train_group(
    paths: Paths, group: Group, device: str, threads: int, on_epoch: Callable[[Epoch], None]
) -> list[Result]:
    """Run one training of the sweep in this process.

    Args:
        paths: Where to read and write.
        group: The training.
        device: A device of torch.
        threads: Number of torch's threads.
        on_epoch: Called after each epoch.

    Returns:
        A result for each checkpoint.
    """
    torch.set_num_threads(threads)
    keep = "scores" if group.compared else "nothing"
    training = Training(group.task, group.variant, group.settings, group.checkpoint_epochs, keep)
    runs = run_checkpoints(paths, training, torch.device(device), on_epoch=on_epoch)
    return [result for result, _ in runs]


def _set_epoch_queue(queue: Any) -> None:
    """Initialize a worker process with the queue for its epochs."""
    global _epoch_queue
    _epoch_queue = queue
    queue.cancel_join_thread()  # the process may end before its last epochs are read


def _train_and_send_epochs(paths: Paths, group: Group, device: str, threads: int) -> list[Result]:
    """Run one training and put name, epoch and validation AUC of each epoch into the queue."""

    def send_epoch(epoch: Epoch) -> None:
        _epoch_queue.put((group.name, epoch.epoch, epoch.valid_auc))

    return train_group(paths, group, device, threads, send_epoch)


def sweep(work: list[tuple[Paths, Group]], cost: Callable[[Group], float], jobs: int, device: str) -> int:
    """Run trainings in processes, the longest first.

    Args:
        work: The folders and the training of each.
        cost: Expected seconds of a training.
        jobs: Number of processes.
        device: A device of torch.

    Returns:
        Number of failed trainings.
    """
    threads = max(1, cores() // jobs)
    paths_of = {group: paths for paths, group in work}
    last = {group.name: max(group.checkpoint_epochs) for _, group in work}
    epochs = multiprocessing.get_context("spawn").Queue()
    total = sum(cost(group) for _, group in work)
    with RunsDisplay(total) as display, Processes(jobs, _set_epoch_queue, (epochs,)) as pool:

        def submit(group: Group) -> Future[list[Result]]:
            return pool.submit(_train_and_send_epochs, paths_of[group], group, device, threads)

        def show_epochs() -> None:
            with suppress(Empty):
                while True:
                    name, epoch, valid_auc = epochs.get_nowait()
                    display.update(name, epoch, last[name], f"validation AUC {valid_auc:.4f}")

        failed = Schedule(display, cost, submit, show_epochs).run(group for _, group in work)
    epochs.close()
    return failed


def sweep_on_ray(work: list[tuple[Paths, Group]], cost: Callable[[Group], float], address: str, device: str) -> int:
    """Run trainings as tasks of a Ray cluster, whose machines must share the folders of path.json.

    Args:
        work: The folders and the training of each.
        cost: Expected seconds of a training.
        address: Address of the cluster.
        device: `cpu`, `cuda`, or `auto`: CUDA if the cluster has GPUs. On CUDA each training has a GPU of its own.

    Returns:
        Number of failed trainings.

    Raises:
        UserError: The cluster does not answer, or has no GPU for trainings on CUDA.
    """
    ray = connect(address, Path(__file__).parents[2])
    paths_of = {group: paths for paths, group in work}
    gpus = ray.cluster_resources().get("GPU", 0)
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device != "cpu" and not gpus:
        ray.shutdown()
        raise UserError(f"--device {device}: the Ray cluster has no GPU; use --device cpu")
    remote = ray.remote(num_cpus=1, num_gpus=int(device != "cpu"), max_retries=3)(_train_on_cluster)

    def submit(group: Group) -> Future[list[Result]]:
        future: Future[list[Result]] = remote.remote(paths_of[group], group, device).future()
        return future

    try:
        with RunsDisplay(sum(cost(group) for _, group in work)) as display:
            return Schedule(display, cost, submit).run(group for _, group in work)
    finally:
        ray.shutdown()


def _train_on_cluster(paths: Paths, group: Group, device: str) -> list[Result]:
    return train_group(paths, group, str(choose_device(device)), 1, lambda epoch: None)
