"""Planning a sweep: its folders, the artifacts and runs that exist already, and the expected time of the others."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from mma4ctr.data.interactions import features_artifact, interactions_artifact, user_embedding_artifact
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.plans import Group
from mma4ctr.evaluation.run_records import Result, run_folder, run_id_of, run_settings
from mma4ctr.evaluation.studies import MODEL, Inputs
from mma4ctr.evaluation.study_cells import prepared_inputs
from mma4ctr.runtime.console import note, print_table
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import MANIFEST, Artifact, check_made_from, listed_files, read_artifact
from mma4ctr.storage.paths import SWEEP, Paths

# Rows per second of one training, while no finished run has measured it.
GUESSED_RATE = 300_000.0


@dataclass(frozen=True)
class PlannedTraining:
    """One training of the sweep.

    Attributes:
        paths: Its folders.
        whole: The training with all its checkpoints.
        rest: The training with the checkpoints that no finished run has.
    """

    paths: Paths
    whole: Group
    rest: Group


def own_paths(paths: Paths, inputs: Inputs, base: Inputs) -> Paths:
    """Return the folders for the inputs of a protocol.

    Args:
        paths: The user's folders.
        inputs: How the inputs of the protocol are made.
        base: How the inputs in the user's folders are made.

    Returns:
        The user's folders if both are equal; else folders below `sweep/` for what differs.
    """
    if inputs == base:
        return paths
    name = f"{inputs.split}-{inputs.evidence}-{inputs.length}-{inputs.scaling}"
    own = replace(paths, user_embedding=paths.user_embedding / SWEEP / name, matrix=paths.matrix / SWEEP / name)
    if inputs.split != base.split:
        own = replace(own, graph=paths.graph / SWEEP / str(inputs.split), modal=paths.modal / SWEEP / str(inputs.split))
    return own


def finished(folder: Path, settings: dict[str, Any], inputs: dict[str, str], *, ours: bool) -> Artifact | None:
    """Return the artifact in a folder if it has these settings and inputs.

    Args:
        folder: The folder.
        settings: Settings that the artifact must have; it may have others.
        inputs: Fingerprints of its inputs, by name.
        ours: The folder is below `sweep/`, so a damaged artifact in it is made again. In the user's own folders it is
            an error.

    Returns:
        The artifact; None if it must be made.

    Raises:
        UserError: An artifact in the user's own folder is damaged.
    """
    if not folder.exists() or (not ours and not (folder / MANIFEST).is_file()):
        return None
    artifact = undamaged(folder) if ours else read_artifact(folder, "adjust_hyperparameter.py")
    if artifact is None:
        set_aside(folder)
        return None
    right = all(artifact.settings.get(key) == value for key, value in settings.items())
    return artifact if right and artifact.manifest["inputs"] == inputs else None


def is_current(own: Paths, paths: Paths, matrix: Artifact, scaling: str) -> bool:
    """Whether a matrix has the present columns and was made from the present outputs of steps 1 to 3.

    Args:
        own: The folders of the protocol.
        paths: The user's folders.
        matrix: In a folder of `own`.
        scaling: The scaling that it should have.
    """
    from mma4ctr.features.feature_matrix import column_version  # it loads torch

    task = matrix.settings["task"]
    dataset, _ = split_task(task)
    if not ({"scaling": scaling} | column_version(matrix.settings["variant"])).items() <= matrix.settings.items():
        return False
    try:
        graph, modal, embedding = (
            interactions_artifact(own, dataset),
            features_artifact(own, dataset),
            user_embedding_artifact(own, task),
        )
        if own.graph != paths.graph:
            check_made_from(graph, interactions=interactions_artifact(paths, dataset))
            check_made_from(modal, modalities=features_artifact(paths, dataset))
        check_made_from(modal, interactions=graph)
        check_made_from(embedding, interactions=graph, modalities=modal)
        check_made_from(matrix, **{"interactions": graph, "modalities": modal, "user embedding": embedding})
    except UserError:
        return False
    return True


def undamaged(folder: Path) -> Artifact | None:
    """Return the artifact in a folder; print a note and return None if a file differs from its hash."""
    try:
        artifact = read_artifact(folder, "adjust_hyperparameter.py")
        artifact.check_files()
    except (UserError, KeyError, TypeError, AttributeError) as error:
        note(f"{folder}: damaged, so it is made again ({error})")
        return None
    return artifact


def set_aside(folder: Path) -> None:
    """Rename a folder of the sweep that no step would replace, so that it can be made again and no file is lost.

    A damaged artifact whose manifest still lists all its files is not renamed: a step replaces it.
    """
    if listed_files(folder) is not None:
        return
    for number in count(1):
        kept = folder.with_name(f"{folder.name}.damaged-{number}")
        if not os.path.lexists(kept):
            folder.rename(kept)
            note(f"{folder}: its old files are kept in {kept.name}")
            return


def missing_checkpoints(group: Group, matrix: Artifact, done: set[str], paths: Paths) -> Group:
    """Return the group with only those checkpoint epochs that no finished run has.

    A run that another study made has kept no scores of the test rows. For the comparison it is made again.

    Args:
        group: A training.
        matrix: Its matrix.
        done: Ids of the finished runs.
        paths: Where the runs are.

    Returns:
        The group with the rest of its checkpoint epochs.
    """
    rest = []
    for checkpoint in group.checkpoint_epochs:
        identity = run_settings(matrix.settings, replace(group.settings, epochs=checkpoint))
        run_id = run_id_of(identity, matrix.fingerprint)
        if run_id not in done or (group.compared and _lacks_scores(run_folder(paths, group.task, run_id))):
            rest.append(checkpoint)
    return replace(group, checkpoint_epochs=tuple(rest))


def _lacks_scores(folder: Path) -> bool:
    """Whether a run has weights but no scores of the test rows."""
    if not (folder / "model.safetensors").is_file():
        return False  # the training failed, or its folder was removed
    return not any((folder / f"{name}.npy").is_file() for name in ("scores", "predictions"))


def rates_of(results: list[Result]) -> Callable[[int], float]:
    """Estimate the speed of a training from finished runs.

    Args:
        results: The finished runs.

    Returns:
        A function from batch size to rows per second. It uses the last run of this batch size, else the nearest size.
    """
    known: dict[int, float] = {}
    for result in results:
        if result.model == MODEL and result.rows_per_second:
            known[result.batch_size] = result.rows_per_second

    def rate(batch_size: int) -> float:
        if not known:
            return GUESSED_RATE
        return known[min(known, key=lambda size: abs(size.bit_length() - batch_size.bit_length()))]

    return rate


def expected_seconds(paths: Paths, tasks: list[str], results: list[Result]) -> Callable[[Group], float]:
    """Return a function that estimates the seconds of a training from the speed of finished runs."""
    rate = rates_of(results)
    training_rows = {task: prepared_inputs(paths, task).train_rows or 0 for task in tasks}

    def cost(group: Group) -> float:
        return max(group.checkpoint_epochs, default=0) * training_rows[group.task] / rate(group.settings.batch_size)

    return cost


def show_plan(planned: list[PlannedTraining], cost: Callable[[Group], float], jobs: int) -> None:
    """Print the trainings with their runs, the number of finished ones and the estimated time of the others.

    Args:
        planned: The trainings.
        cost: Expected seconds of a training.
        jobs: Number of processes.
    """
    rows = []
    for one in planned:
        epochs = one.whole.checkpoint_epochs
        shown = " ".join(map(str, epochs)) if len(epochs) < 5 else f"{epochs[0]} ... {epochs[-1]}"
        done = len(epochs) - len(one.rest.checkpoint_epochs)
        rows.append([one.whole.name, shown, str(len(epochs)), str(done), f"{cost(one.rest):.0f} s"])
    print_table("Trainings", ["training", "results at epoch", "runs", "done", "time left"], rows)
    runs = sum(len(one.whole.checkpoint_epochs) for one in planned)
    to_do = sum(len(one.rest.checkpoint_epochs) for one in planned)
    seconds = sum(cost(one.rest) for one in planned) / jobs
    note(
        f"{len(planned)} trainings, {runs} runs, {runs - to_do} done, {to_do} to do: "
        f"about {seconds / 60:.1f} minutes with {jobs} jobs"
    )
