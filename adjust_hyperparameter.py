"""Step 6 of 8: every experiment of the study: many runs of step 5, and their tables.

Reads    what steps 1 and 2 made; makes user embeddings and matrices that are not there, those of other protocols and
         lengths in folders of their own (below `sweep/` in each path)
Writes   lines in saved_path/results.jsonl, torch_model_path/<task>/<run id>/, saved_path/tables/<study>.{md,csv}

The studies are listed in mma4ctr/evaluation/studies.py. Runs that differ only in epochs are one training with results
taken at each checkpoint. A run that stands in results.jsonl already, made from the same inputs, is not repeated: after
a crash the same command goes on where it was.

    python adjust_hyperparameter.py --study embedding-length batch-size --task wechat_click --seeds 5 --jobs 2
"""

from dataclasses import replace

import mma4ctr.runtime.environment

import cross_matrix
import gen_matrix
import get_user_embedding
import preprocess_multimodal
from mma4ctr.data.interactions import features_artifact, interactions_artifact, user_embedding_artifact
from mma4ctr.data.splits import write_other_split
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.plans import Group, plan
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.evaluation.studies import STUDIES, Inputs, Study
from mma4ctr.evaluation.study_cells import prepared_inputs
from mma4ctr.evaluation.tables import write_tables
from mma4ctr.features.feature_matrix import column_version
from mma4ctr.features.matrix_writer import PlusCache
from mma4ctr.features.variants import MADE_BY, split_variant, variant_kind, variants_for
from mma4ctr.runtime.console import (
    Stopwatch,
    closing_line,
    note,
    parser,
    run,
    unknown_name,
    whole_number,
)
from mma4ctr.runtime.parallel import cores
from mma4ctr.runtime.ray_cluster import add_ray_option
from mma4ctr.steps.matrices import MatrixOptions
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.steps.sweep import finished, missing_checkpoints, rates_of, show_plan, sweep, sweep_on_ray, undamaged
from mma4ctr.steps.training_run import choose_device
from mma4ctr.storage.artifacts import MANIFEST, Artifact, read_artifact
from mma4ctr.storage.paths import SWEEP, Paths, load_paths
from mma4ctr.storage.writable import demand_room_for_results


def own_paths(paths: Paths, inputs: Inputs, base: Inputs) -> Paths:
    """Where the inputs of a protocol lie: the user's own folders where they are those, else folders of their own."""
    if inputs == base:
        return paths
    name = f"{inputs.split}-{inputs.evidence}-{inputs.length}-{inputs.scaling}"
    own = replace(paths, user_embedding=paths.user_embedding / SWEEP / name, matrix=paths.matrix / SWEEP / name)
    if inputs.split != base.split:
        own = replace(own, graph=paths.graph / SWEEP / str(inputs.split), modal=paths.modal / SWEEP / str(inputs.split))
    return own


def make_features(paths: Paths, task: str, inputs: Inputs, base: Inputs) -> Paths:
    """Steps 1 to 3 for a protocol, where they are not made yet; returns its folders."""
    dataset, _ = split_task(task)
    own = own_paths(paths, inputs, base)
    graph = interactions_artifact(paths, dataset)
    modal = features_artifact(paths, dataset)
    if own.graph != paths.graph:
        split, folder = str(inputs.split), own.graph / dataset
        other = finished(folder, {"split": split}, {"interactions": graph.fingerprint}, ours=True)
        graph = other or write_other_split(graph, folder, split=split, seed=0)
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


def make_matrix(own: Paths, task: str, variant: str, scaling: str, cache: PlusCache, *, ours: bool = False) -> Artifact:
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
    return read_artifact(folder, MADE_BY[variant_kind(variant)])


def chosen_studies(names: list[str]) -> list[Study]:
    """The studies named; raises `UserError` with those there are."""
    for name in names:
        if name != "all" and name not in STUDIES:
            raise unknown_name("study", name, ("all", *STUDIES))
    return list(STUDIES.values()) if "all" in names else [STUDIES[name] for name in dict.fromkeys(names)]


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
    device = choose_device(arguments.device)
    if not arguments.dry_run:
        demand_room_for_results(paths, tables=True)
    jobs = arguments.jobs or (1 if device.type == "cuda" else cores())
    results = read_results(paths.results) if paths.results.exists() else []
    done = {result.run_id for result in results}
    rate = rates_of(results)

    groups: list[tuple[Group, Group]] = []  # whole, and what is left of it
    work: list[tuple[Paths, Group]] = []
    training_rows = {}
    cache = PlusCache()
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
                matrix = make_matrix(own, task, whole.variant, str(whole.inputs.scaling), cache, ours=own != paths)
                rest = missing_checkpoints(whole, matrix, done)
            elif (folder / MANIFEST).is_file():
                there = (
                    undamaged(folder) if own != paths else read_artifact(folder, MADE_BY[variant_kind(whole.variant)])
                )
                rest = missing_checkpoints(whole, there, done) if there else whole
            else:
                rest = whole
            groups.append((whole, rest))
            if rest.checkpoint_epochs:
                work.append((own, rest))

    def cost(group: Group) -> float:
        """Expected seconds of a training."""
        return max(group.checkpoint_epochs, default=0) * training_rows[group.task] / rate(group.settings.batch_size)

    if arguments.dry_run:
        show_plan(groups, cost, jobs)
        return 0
    runs = sum(len(group.checkpoint_epochs) for _, group in work)
    note(
        f"{sum(len(whole.checkpoint_epochs) for whole, _ in groups):,} runs, {runs:,} to do in {len(work):,} trainings"
    )
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
