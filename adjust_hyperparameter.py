"""Step 6 of 8: run the experiments of the study, which are many runs of step 5, and write their tables.

Reads    the output of steps 1 and 2; missing user embeddings and matrices are made, those of other protocols and
         lengths in folders below `sweep/` in each path
Writes   lines in saved_path/results.jsonl, torch_model_path/<task>/<run id>/, saved_path/tables/<study>.{md,csv}

mma4ctr/evaluation/studies.py lists the studies. Runs that differ only in epochs are one training with a result at each
checkpoint. Runs that results.jsonl has from the same inputs are not repeated, so after a crash the same command
continues.

    python adjust_hyperparameter.py --study embedding-length batch-size --task wechat_click --seeds 5 --jobs 2
"""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cross_matrix
import gen_matrix
import get_user_embedding
import preprocess_multimodal
from mma4ctr.data.interactions import draws_setting, features_artifact, interactions_artifact, user_embedding_artifact
from mma4ctr.data.splits import write_other_split
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.plans import plan
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.evaluation.studies import STUDIES, Inputs, Study
from mma4ctr.evaluation.study_cells import prepared_inputs
from mma4ctr.features.variants import matrix_command, split_variant, variant_kind, variants_for
from mma4ctr.runtime.console import Stopwatch, closing_line, note, parser, run, unknown_name
from mma4ctr.runtime.parallel import cores
from mma4ctr.runtime.ray_cluster import add_ray_option
from mma4ctr.steps.options import (
    add_device_option,
    add_runs_options,
    add_task_options,
    check_ray_options,
    chosen_tasks,
)
from mma4ctr.steps.sweep_plan import (
    PlannedTraining,
    expected_seconds,
    finished,
    is_current,
    missing_checkpoints,
    own_paths,
    show_plan,
    undamaged,
)
from mma4ctr.storage.artifacts import MANIFEST, Artifact, read_artifact
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.writable import demand_room_for_results

if TYPE_CHECKING:
    from mma4ctr.features.matrix_writer import PlusCache


def make_features(paths: Paths, task: str, inputs: Inputs, base: Inputs) -> Paths:
    """Run steps 1 to 3 for a protocol, except those whose output exists.

    Args:
        paths: The user's folders.
        task: The task.
        inputs: How the inputs of the protocol are made.
        base: How the inputs in the user's folders are made.

    Returns:
        The folders of the protocol.

    Raises:
        UserError: The output of step 1 or 2 is missing or outdated.
    """
    dataset, _ = split_task(task)
    own = own_paths(paths, inputs, base)
    graph = interactions_artifact(paths, dataset)
    modal = features_artifact(paths, dataset)
    if own.graph != paths.graph:
        split, folder = str(inputs.split), own.graph / dataset
        wanted = {"split": split, **draws_setting(graph)}
        other = finished(folder, wanted, {"interactions": graph.fingerprint}, ours=True)
        graph = other or write_other_split(graph, folder, split=split, seed=0)
        made_from = {"interactions": graph.fingerprint, "modalities": modal.fingerprint}
        same = finished(own.modal / dataset, {}, made_from, ours=True)
        modal = same or preprocess_multimodal.write_same_features(modal, graph, own.modal / dataset)
    folds = inputs.folds if inputs.evidence == "train" else 0
    embedded = {"length": inputs.length, "evidence": inputs.evidence, "folds": folds} | draws_setting(graph)
    made_from = {"interactions": graph.fingerprint, "modalities": modal.fingerprint}
    if not finished(own.user_embedding / task, embedded, made_from, ours=own != paths):
        get_user_embedding.write_user_embedding(
            task, own, length=inputs.length or 0, evidence=str(inputs.evidence), folds=inputs.folds or 0, seed=0
        )
    return own


def make_matrix(
    own: Paths, task: str, variant: str, scaling: str, cache: "PlusCache", *, ours: bool = False
) -> Artifact:
    """Return the matrix of a variant; make it if there is none with these settings and inputs.

    Args:
        own: Where to read and write.
        task: The task.
        variant: The variant, with its features.
        scaling: `zscore` or `minmax`.
        cache: Tables of features plus, which the matrices of a data set share.
        ours: The matrix is in a folder of the sweep, so a damaged one is replaced.

    Returns:
        The matrix.

    Raises:
        UserError: An input is missing or outdated, or the variant cannot be made.
    """
    from mma4ctr.features.feature_matrix import column_version
    from mma4ctr.steps.matrices import MatrixOptions

    dataset, _ = split_task(task)
    inputs = {
        "interactions": interactions_artifact(own, dataset).fingerprint,
        "modalities": features_artifact(own, dataset).fingerprint,
        "user embedding": user_embedding_artifact(own, task).fingerprint,
    }
    folder = own.matrix / task / variant
    if not finished(folder, {"scaling": scaling, **column_version(variant)}, inputs, ours=ours):
        write = gen_matrix.write_single if variant_kind(variant) == "single" else cross_matrix.write_mixed
        modalities, features, without = split_variant(variant)
        options = MatrixOptions(scaling, f"{features}-{without}" if without else features, cache)
        write(own, task, [modalities], options)
    return read_artifact(folder, matrix_command(variant))


def chosen_studies(names: list[str]) -> list[Study]:
    """Return the studies of `--study`; raises `UserError` for an unknown name."""
    for name in names:
        if name != "all" and name not in STUDIES:
            raise unknown_name("study", name, ("all", *STUDIES))
    return list(STUDIES.values()) if "all" in names else [STUDIES[name] for name in dict.fromkeys(names)]


@dataclass(frozen=True)
class SweepOptions:
    """What the sweep runs.

    Attributes:
        studies: The studies.
        seeds: Number of runs of each case.
        done: Ids of the finished runs.
        make_inputs: Make missing inputs; otherwise a training without a matrix counts as not started.
        cache: Tables of features plus, which the tasks of a data set share.
    """

    studies: list[Study]
    seeds: int
    done: set[str]
    make_inputs: bool
    cache: "PlusCache"


def plan_task(paths: Paths, task: str, options: SweepOptions) -> list[PlannedTraining]:
    """List the trainings of a task, and make their matrices.

    Args:
        paths: The user's folders.
        task: The task.
        options: What the sweep runs.

    Returns:
        The trainings.

    Raises:
        UserError: An input is missing or outdated, or a matrix cannot be made.
    """
    modal = features_artifact(paths, split_task(task)[0])
    base, known = prepared_inputs(paths, task), variants_for(paths, task)
    planned = []
    for whole in plan(options.studies, task, base, modal.manifest["modalities"], options.seeds, known):
        own = own_paths(paths, whole.inputs, base)
        folder = own.matrix / task / whole.variant
        matrix: Artifact | None = None
        if options.make_inputs:
            own = make_features(paths, task, whole.inputs, base)
            matrix = make_matrix(own, task, whole.variant, str(whole.inputs.scaling), options.cache, ours=own != paths)
        elif (folder / MANIFEST).is_file():
            command = matrix_command(whole.variant)
            matrix = undamaged(folder) if own != paths else read_artifact(folder, command)
            if matrix and not is_current(own, paths, matrix, str(whole.inputs.scaling)):
                matrix = None
        rest = missing_checkpoints(whole, matrix, options.done, paths) if matrix else whole
        planned.append(PlannedTraining(own, whole, rest))
    return planned


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    options = parser(__doc__)
    add_task_options(options)
    options.add_argument(
        "--study", nargs="+", default=["all"], metavar="S", help=f"studies: {', '.join(STUDIES)} (default: all)"
    )
    add_runs_options(options, "case", seeds=5)
    add_device_option(options)
    options.add_argument(
        "--dry-run", action="store_true", help="only list the runs, which are done, and the estimated time"
    )
    add_ray_option(options, "the runs")
    return options.parse_args()


def main() -> int:
    """Run the command; returns exit code 1 if a training failed."""
    arguments = read_options()

    # They load torch, which would keep `--help` waiting.
    from mma4ctr.evaluation.tables import write_tables
    from mma4ctr.features.matrix_writer import PlusCache
    from mma4ctr.steps.sweep import sweep, sweep_on_ray
    from mma4ctr.steps.training_run import choose_device

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    studies = chosen_studies(arguments.study)
    tasks = chosen_tasks(paths, arguments)
    check_ray_options(arguments)
    device = arguments.device if arguments.ray else str(choose_device(arguments.device))
    if not arguments.dry_run:
        demand_room_for_results(paths, tables=True)
    jobs = arguments.jobs or (1 if device.startswith("cuda") else cores())
    results = read_results(paths.results) if paths.results.exists() else []
    done = {result.run_id for result in results}
    options = SweepOptions(studies, arguments.seeds, done, not arguments.dry_run, PlusCache())
    planned = [training for task in tasks for training in plan_task(paths, task, options)]
    cost = expected_seconds(paths, tasks, results)
    if arguments.dry_run:
        show_plan(planned, cost, jobs)
        return 0
    work = [(one.paths, one.rest) for one in planned if one.rest.checkpoint_epochs]
    runs = sum(len(group.checkpoint_epochs) for _, group in work)
    total = sum(len(one.whole.checkpoint_epochs) for one in planned)
    note(f"{total:,} runs, {runs:,} to do in {len(work):,} trainings")
    if arguments.ray:
        failed = sweep_on_ray(work, cost, arguments.ray, device)
    else:
        failed = sweep(work, cost, jobs, device) if work else 0
    written = write_tables(paths, read_results(paths.results), studies, tasks)
    closing_line(6, f"{len(written)} tables to {paths.saved / 'tables'} and {paths.results}", runs, watch, unit="runs")
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
