"""Step 6 of 8: every experiment of the study: many runs of step 5, and their tables.

Reads    what steps 1 and 2 made; makes user embeddings and matrices that are not there, those of other protocols and
         lengths in folders of their own (below `sweep/` in each path)
Writes   lines in saved_path/results.jsonl, torch_model_path/<task>/<run id>/, saved_path/tables/<study>.{md,csv}

The studies are listed in mma4ctr/studies.py. Runs that differ only in epochs are one training with results taken at
each mark. A run that stands in results.jsonl already, made from the same inputs, is not repeated: after a crash the
same command goes on where it was.

    python adjust_hyperparameter.py --study embedding-length batch-size --task wechat_click --seeds 5 --jobs 2
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from itertools import count
from pathlib import Path
from queue import Empty
from typing import Any

import mma4ctr.environment

import torch

import cross_matrix
import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr.artifacts import MANIFEST, Artifact, listed_files, read_artifact
from mma4ctr.cluster import add_ray_option, connect
from mma4ctr.console import (
    RunsDisplay,
    Stopwatch,
    UserError,
    closing_line,
    note,
    parser,
    print_table,
    run,
    unknown_name,
    warn,
    whole_number,
)
from mma4ctr.datasets import split_task
from mma4ctr.interactions import features_artifact, interactions_artifact, user_embedding_artifact
from mma4ctr.matrix import MADE_BY, columns_made, split_variant, variant_kind
from mma4ctr.outputs import demand_room_for_results
from mma4ctr.parallel import Processes, cores
from mma4ctr.paths import SWEEP, Paths, load_paths
from mma4ctr.plans import Group, plan
from mma4ctr.results import Result, read_results, run_id_of
from mma4ctr.studies import MODEL, STUDIES, Inputs, Study, prepared_inputs
from mma4ctr.tables import write_tables
from mma4ctr.tasks import add_task_options, chosen_tasks, variants_for
from mma4ctr.training import Epoch

# Rows a second of one training, before any run has told better.
GUESSED_RATE = 300_000.0


def own_paths(paths: Paths, inputs: Inputs, base: Inputs) -> Paths:
    """Where the inputs of a protocol lie: the user's own folders where they are those, else folders of their own."""
    if inputs == base:
        return paths
    name = f"{inputs.split}-{inputs.evidence}-{inputs.length}-{inputs.scaling}"
    own = replace(paths, user_embedding=paths.user_embedding / SWEEP / name, matrix=paths.matrix / SWEEP / name)
    if inputs.split != base.split:
        own = replace(own, graph=paths.graph / SWEEP / str(inputs.split), modal=paths.modal / SWEEP / str(inputs.split))
    return own


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


def make_features(paths: Paths, task: str, inputs: Inputs, base: Inputs) -> Paths:
    """Steps 1 to 3 for a protocol, where they are not made yet; returns its folders."""
    dataset, _ = split_task(task)
    own = own_paths(paths, inputs, base)
    graph = interactions_artifact(paths, dataset)
    modal = features_artifact(paths, dataset)
    if own.graph != paths.graph:
        split, folder = str(inputs.split), own.graph / dataset
        other = finished(folder, {"split": split}, {"interactions": graph.fingerprint}, ours=True)
        graph = other or preprocess_inter.write_other_split(graph, folder, split=split, seed=0)
        made_from = {"interactions": graph.fingerprint, "modalities": modal.fingerprint}
        same = finished(own.modal / dataset, {}, made_from, ours=True)
        modal = same or preprocess_multimodal.write_same_features(modal, graph, own.modal / dataset)
    folds = inputs.folds if inputs.evidence == "train" else 0
    wanted = {"length": inputs.length, "evidence": inputs.evidence, "folds": folds}
    made_from = {"interactions": graph.fingerprint, "modalities": modal.fingerprint}
    if not finished(own.user_embedding / task, wanted, made_from, ours=own != paths):
        get_user_embedding.write_user_embedding(
            task, own, length=inputs.length or 0, evidence=str(inputs.evidence), folds=inputs.folds or 0, seed=0
        )
    return own


def make_matrix(own: Paths, task: str, variant: str, scaling: str, *, ours: bool = False) -> Artifact:
    """Step 4 for one variant, where it is not made yet; `ours`: in a folder of the sweep's own."""
    dataset, _ = split_task(task)
    inputs = {
        "interactions": interactions_artifact(own, dataset).fingerprint,
        "modalities": features_artifact(own, dataset).fingerprint,
        "user embedding": user_embedding_artifact(own, task).fingerprint,
    }
    folder = own.matrix / task / variant
    if not finished(folder, {"scaling": scaling, **columns_made(variant)}, inputs, ours=ours):
        write = gen_matrix.write_single if variant_kind(variant) == "single" else cross_matrix.write_mixed
        modalities, features, without = split_variant(variant)
        write(own, task, [modalities], scaling=scaling, features=f"{features}-{without}" if without else features)
    return read_artifact(folder, MADE_BY[variant_kind(variant)])


def missing_marks(group: Group, matrix: Artifact, done: set[str]) -> Group:
    """The group with the marks that no finished run has."""
    rest = []
    for mark in group.marks:
        identity = mlp.run_settings(matrix.settings, replace(group.settings, epochs=mark))
        if run_id_of(identity, matrix.fingerprint) not in done:
            rest.append(mark)
    return replace(group, marks=tuple(rest))


def train_group(paths: Paths, group: Group, device: str, threads: int, tell: Callable[[Epoch], None]) -> list[Result]:
    """One training in a process of its own."""
    torch.set_num_threads(threads)
    runs = mlp.run_marks(
        paths,
        group.task,
        group.variant,
        group.settings,
        group.marks,
        torch.device(device),
        keep="scores" if group.compared else "nothing",
        on_epoch=tell,
    )
    return [result for result, _ in runs]


# In a worker process: where it tells of its epochs. A queue can only be given to a process at its start.
_news: Any = None


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
        last = {group.name: max(group.marks) for group in waiting.values()}
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
    ray = connect(address, Path(__file__).parent)
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


def chosen_studies(names: list[str]) -> list[Study]:
    """The studies named; raises `UserError` with those there are."""
    for name in names:
        if name != "all" and name not in STUDIES:
            raise unknown_name("study", name, ("all", *STUDIES))
    return list(STUDIES.values()) if "all" in names else [STUDIES[name] for name in dict.fromkeys(names)]


def show_plan(groups: list[tuple[Group, Group]], cost: Callable[[Group], float], jobs: int) -> None:
    """List the trainings with their runs, how many are done, and the time the rest will take."""
    rows = []
    for whole, rest in groups:
        done = len(whole.marks) - len(rest.marks)
        marks = " ".join(map(str, whole.marks)) if len(whole.marks) < 5 else f"{whole.marks[0]} ... {whole.marks[-1]}"
        rows.append([whole.name, marks, str(len(whole.marks)), str(done), f"{cost(rest):.0f} s"])
    print_table("Trainings", ["training", "results at epoch", "runs", "done", "time left"], rows)
    runs, done = (sum(len(g.marks) for g in which) for which in zip(*groups, strict=True))
    seconds = sum(cost(rest) for _, rest in groups) / jobs
    note(
        f"{len(groups)} trainings, {runs} runs, {runs - done} done, {done} to do: "
        f"about {seconds / 60:.1f} minutes with {jobs} jobs"
    )


def main() -> int:
    options = parser(__doc__)
    add_task_options(options)
    options.add_argument("--study", nargs="+", default=["all"], metavar="S", help=f"all, or of {', '.join(STUDIES)}")
    options.add_argument(
        "--seeds", type=whole_number(1, 10_000), default=5, help="runs of each case, with seeds 0, 1, ..."
    )
    options.add_argument("--jobs", type=whole_number(1, 1000), help="processes; none: one per core, on CUDA one")
    options.add_argument("--device", default="auto", help="auto: CUDA where there is one; cpu, cuda, ...")
    options.add_argument("--dry-run", action="store_true", help="list the runs, what is done and the estimated time")
    add_ray_option(options, "the runs")
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    studies = chosen_studies(arguments.study)
    tasks = chosen_tasks(paths, arguments)
    device = mlp.choose_device(arguments.device)
    if not arguments.dry_run:
        demand_room_for_results(paths, tables=True)
    jobs = arguments.jobs or (1 if device.type == "cuda" else cores())
    results = read_results(paths.results) if paths.results.exists() else []
    done = {result.run_id for result in results}
    rate = rates_of(results)

    groups: list[tuple[Group, Group]] = []  # whole, and what is left of it
    work: list[tuple[Paths, Group]] = []
    training_rows = {}
    for task in tasks:
        dataset, _ = split_task(task)
        modal = features_artifact(paths, dataset)
        base = prepared_inputs(paths, task)
        training_rows[task] = base.train_rows or 0
        known = variants_for(paths, task)
        for whole in plan(studies, task, base, modal.manifest["modalities"], arguments.seeds, known):
            own = own_paths(paths, whole.inputs, base)
            folder = own.matrix / task / whole.variant
            if not arguments.dry_run:
                own = make_features(paths, task, whole.inputs, base)
                matrix = make_matrix(own, task, whole.variant, str(whole.inputs.scaling), ours=own != paths)
                rest = missing_marks(whole, matrix, done)
            elif (folder / MANIFEST).is_file():
                there = (
                    undamaged(folder) if own != paths else read_artifact(folder, MADE_BY[variant_kind(whole.variant)])
                )
                rest = missing_marks(whole, there, done) if there else whole
            else:
                rest = whole
            groups.append((whole, rest))
            if rest.marks:
                work.append((own, rest))

    def cost(group: Group) -> float:
        """Expected seconds of a training."""
        return max(group.marks, default=0) * training_rows[group.task] / rate(group.settings.batch_size)

    if arguments.dry_run:
        show_plan(groups, cost, jobs)
        return 0
    runs = sum(len(group.marks) for _, group in work)
    note(f"{sum(len(whole.marks) for whole, _ in groups):,} runs, {runs:,} to do in {len(work):,} trainings")
    if arguments.ray:
        failed = sweep_on_ray(work, cost, arguments.ray, str(device))
    else:
        failed = sweep(work, cost, jobs, str(device)) if work else 0
    results = read_results(paths.results)
    written = write_tables(paths, results, studies, tasks)
    closing_line(6, f"{len(written)} tables to {paths.saved / 'tables'} and {paths.results}", runs, watch, unit="runs")
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
