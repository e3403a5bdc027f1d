"""Many trainings side by side: in processes of this machine or as tasks of a Ray cluster."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from itertools import count
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from mma4ctr.evaluation.plans import Group
from mma4ctr.evaluation.run_records import Result, run_id_of
from mma4ctr.evaluation.studies import MODEL
from mma4ctr.model.trainer import Epoch
from mma4ctr.runtime.console import (
    RunsDisplay,
    note,
    print_table,
    warn,
)
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import Processes, cores
from mma4ctr.runtime.ray_cluster import connect
from mma4ctr.steps.training_run import run_checkpoints, run_settings
from mma4ctr.storage.artifacts import MANIFEST, Artifact, listed_files, read_artifact
from mma4ctr.storage.paths import Paths

# Rows a second of one training, before any run has told better.
GUESSED_RATE = 300_000.0
# In a worker process: where it tells of its epochs. A queue can only be given to a process at its start.
_news: Any = None


def finished(folder: Path, settings: dict[str, Any], inputs: dict[str, str], *, ours: bool) -> Artifact | None:
    """The artifact in a folder, where it has these settings and inputs.

    Args:
        ours: the folder is below `sweep/`, so that a damaged artifact in it counts as none and is made again; in the
            user's own folders it is an error.
    """
    if not folder.exists() or (not ours and not (folder / MANIFEST).is_file()):
        return None
    artifact = undamaged(folder) if ours else read_artifact(folder, "adjust_hyperparameter.py")
    if artifact is None:
        set_aside(folder)
        return None
    right = all(artifact.settings.get(key) == value for key, value in settings.items())
    return artifact if right and artifact.manifest["inputs"] == inputs else None


def undamaged(folder: Path) -> Artifact | None:
    """An artifact with every file as it was written; None, with a note, where it is damaged."""
    try:
        artifact = read_artifact(folder, "adjust_hyperparameter.py")
        artifact.check_files()
    except (UserError, KeyError, TypeError, AttributeError) as error:
        note(f"{folder}: damaged, so it is made again ({error})")
        return None
    return artifact


def set_aside(folder: Path) -> None:
    """Rename a folder of the sweep that no step would replace, so that it can be made again and nothing in it is lost.

    A damaged artifact whose manifest still lists all its files stays: it is replaced as it is.
    """
    if listed_files(folder) is not None:
        return
    for number in count(1):
        kept = folder.with_name(f"{folder.name}.damaged-{number}")
        if not os.path.lexists(kept):
            folder.rename(kept)
            note(f"{folder}: what was there is kept in {kept.name}")
            return


def missing_checkpoints(group: Group, matrix: Artifact, done: set[str]) -> Group:
    """The group with the checkpoint_epochs that no finished run has."""
    rest = []
    for checkpoint in group.checkpoint_epochs:
        identity = run_settings(matrix.settings, replace(group.settings, epochs=checkpoint))
        if run_id_of(identity, matrix.fingerprint) not in done:
            rest.append(checkpoint)
    return replace(group, checkpoint_epochs=tuple(rest))


def train_group(paths: Paths, group: Group, device: str, threads: int, tell: Callable[[Epoch], None]) -> list[Result]:
    """One training in a process of its own."""
    torch.set_num_threads(threads)
    runs = run_checkpoints(
        paths,
        group.task,
        group.variant,
        group.settings,
        group.checkpoint_epochs,
        torch.device(device),
        keep="scores" if group.compared else "nothing",
        on_epoch=tell,
    )
    return [result for result, _ in runs]


def hear_news(news: Any) -> None:
    """Let this worker process tell its epochs to the queue `news`."""
    global _news
    _news = news
    news.cancel_join_thread()  # the process may end before its last news are read


def train_and_tell(paths: Paths, group: Group, device: str, threads: int) -> list[Result]:
    """`train_group`, telling each epoch (name, epoch, validation AUC)."""
    return train_group(
        paths, group, device, threads, lambda epoch: _news.put((group.name, epoch.epoch, epoch.valid_auc))
    )


def sweep(work: list[tuple[Paths, Group]], cost: Callable[[Group], float], jobs: int, device: str) -> int:
    """Train every group in `jobs` processes, the longest first; returns how many failed."""
    failed = 0
    total = sum(cost(group) for _, group in work)
    threads = max(1, cores() // jobs)
    news = multiprocessing.get_context("spawn").Queue()
    with RunsDisplay(total) as display, Processes(jobs, hear_news, (news,)) as pool:
        waiting: dict[Future[list[Result]], Group] = {}
        for paths, group in sorted(work, key=lambda item: -cost(item[1])):
            waiting[pool.submit(train_and_tell, paths, group, device, threads)] = group
        last = {group.name: max(group.checkpoint_epochs) for group in waiting.values()}
        while waiting:
            done, _ = wait(waiting, timeout=0.3, return_when=FIRST_COMPLETED)
            while True:
                try:
                    name, epoch, valid_auc = news.get_nowait()
                except Empty:
                    break
                display.update(name, epoch, last[name], f"validation AUC {valid_auc:.4f}")
            for future in done:
                failed += _finished(future, waiting.pop(future), cost, display)
    news.close()
    return failed


def _finished(future: Future[list[Result]], group: Group, cost: Callable[[Group], float], display: RunsDisplay) -> int:
    """Show one finished training; 1 where it failed, else 0."""
    try:
        results = future.result()
    except UserError as error:
        display.finish(group.name, cost(group), f"{group.name}: failed")
        warn(f"{group.name}: {error}")
        return 1
    shown = ", ".join(f"{'-' if r.auc is None else format(r.auc, '.4f')} at {r.epochs}" for r in results)
    display.finish(group.name, cost(group), f"{group.name}: test AUC {shown}")
    return 0


def sweep_on_ray(work: list[tuple[Paths, Group]], cost: Callable[[Group], float], address: str, device: str) -> int:
    """The same runs as tasks of a Ray cluster; the folders of path.json must be shared by its machines."""
    ray = connect(address, Path(__file__).parents[2])
    failed = 0
    remote = ray.remote(num_cpus=1, max_retries=3)(_train_quietly)
    try:
        with RunsDisplay(sum(cost(group) for _, group in work)) as display:
            longest_first = sorted(work, key=lambda item: -cost(item[1]))
            waiting = {remote.remote(paths, group, device): group for paths, group in longest_first}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                future: Future[list[Result]] = Future()
                try:
                    future.set_result(ray.get(done))
                except ray.exceptions.RayTaskError as error:
                    future.set_exception(UserError(str(error.cause)))
                failed += _finished(future, waiting.pop(done), cost, display)
    finally:
        ray.shutdown()
    return failed


def _train_quietly(paths: Paths, group: Group, device: str) -> list[Result]:
    return train_group(paths, group, device, 1, lambda epoch: None)


def rates_of(results: list[Result]) -> Callable[[int], float]:
    """Rows a second by batch size, as the finished runs had it; of the nearest size where it has none yet."""
    known: dict[int, float] = {}
    for result in results:
        if result.model == MODEL and result.rows_per_second:
            known[result.batch_size] = result.rows_per_second

    def rate(batch_size: int) -> float:
        if not known:
            return GUESSED_RATE
        return known[min(known, key=lambda size: abs(size.bit_length() - batch_size.bit_length()))]

    return rate


def show_plan(groups: list[tuple[Group, Group]], cost: Callable[[Group], float], jobs: int) -> None:
    """List the trainings with their runs, how many are done, and the time the rest will take."""
    rows = []
    for whole, rest in groups:
        done = len(whole.checkpoint_epochs) - len(rest.checkpoint_epochs)
        checkpoint_epochs = (
            " ".join(map(str, whole.checkpoint_epochs))
            if len(whole.checkpoint_epochs) < 5
            else f"{whole.checkpoint_epochs[0]} ... {whole.checkpoint_epochs[-1]}"
        )
        rows.append(
            [whole.name, checkpoint_epochs, str(len(whole.checkpoint_epochs)), str(done), f"{cost(rest):.0f} s"]
        )
    print_table("Trainings", ["training", "results at epoch", "runs", "done", "time left"], rows)
    runs, done = (sum(len(g.checkpoint_epochs) for g in which) for which in zip(*groups, strict=True))
    seconds = sum(cost(rest) for _, rest in groups) / jobs
    note(
        f"{len(groups)} trainings, {runs} runs, {runs - done} done, {done} to do: "
        f"about {seconds / 60:.1f} minutes with {jobs} jobs"
    )
