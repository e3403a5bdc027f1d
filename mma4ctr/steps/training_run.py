"""One run of step 5: load the matrix, train, test, record."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mma4ctr.evaluation.metrics import Scores, auc, score_predictions
from mma4ctr.evaluation.run_records import (
    Result,
    append_result,
    commit_of,
    id_of_run,
    now,
    run_folder,
    run_id_of,
)
from mma4ctr.features.feature_matrix import FactorMatrix, load_matrix, load_step_inputs
from mma4ctr.model.distributed import SINGLE_PROCESS, ProcessGroup
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Network, parameter_count, save_weights
from mma4ctr.model.trainer import Epoch, Outcome, TrainSettings, train
from mma4ctr.model.training_defaults import default_batch_size
from mma4ctr.runtime.console import (
    Stopwatch,
    note,
    warn,
)
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import ArtifactWriter, read_artifact
from mma4ctr.storage.paths import Paths

# With fewer positives among the test rows AUC is told with its interval.
FEW_POSITIVES = 100


def run_settings(features: dict[str, Any], settings: TrainSettings) -> dict[str, Any]:
    """Everything that decides a result, besides the input arrays; the run's id is made from it.

    Args:
        features: task, variant, embedding_length, split, evidence, folds, scaling: the matrix's own settings.
    """
    training = asdict(settings)
    for name in ("networks", "schedule"):
        if training[name] == getattr(TrainSettings, name):
            del training[name]  # a usual run is named as before there was a choice
    return {"model": "MMa4CTR", **features, **training}


def _predictions_kept(names: Iterable[str]) -> int:
    """How much a run keeps of its test predictions: 2 all arrays, 1 the scores alone, 0 nothing."""
    return 2 if "predictions" in names else int("scores" in names)


def fuller_run(folder: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The test predictions of the finished run in its folder, where it keeps more than `arrays`; else None.

    A sweep keeps less of a run than mlp.py does, so it must not replace the folder of one.
    """
    try:
        run = read_artifact(folder, "mlp.py")
        if id_of_run(run) == folder.name and _predictions_kept(run.array_names) > _predictions_kept(arrays):
            run.check_files()
            return run.array("predictions" if "predictions" in run.array_names else "scores")
    except UserError:
        pass  # not there, or damaged: it is written anew
    return None


def finish_run(
    paths: Paths, matrix: FactorMatrix, outcome: Outcome, user: np.ndarray, started: str, *, keep: str = "all"
) -> Result:
    """Score the test rows, write the run's folder and its line in results.jsonl.

    Args:
        user: (kept rows,) user of every interaction, for GAUC.
        keep: of the test rows write `all`, predictions and hidden features; `scores`, for the comparison; or `nothing`.
    """
    settings, test = outcome.settings, matrix.test
    device = test.label.device
    identity = run_settings(matrix.settings, settings)
    run_id = run_id_of(identity, matrix.fingerprint)
    label = test.label.cpu().numpy()
    folder = run_folder(paths, matrix.settings["task"], run_id)
    inputs = {"matrix": matrix.fingerprint}
    scores: Scores | None = None
    test_seconds = 0.0
    arrays: dict[str, np.ndarray] = {}
    if outcome.weights:
        watch = Stopwatch()
        logits, hidden = predict(Network(outcome.weights), matrix, test)
        probability = torch.sigmoid(logits).cpu().numpy()
        test_seconds = watch.seconds
        if keep == "scores":
            arrays = {"scores": probability}
        if keep == "all":
            arrays = {"rows": test.rows, "predictions": probability, "hidden": hidden.cpu().numpy()}
    fuller = fuller_run(folder, arrays)
    if fuller is not None and outcome.weights:
        probability = fuller  # so that the line in results.jsonl is about the predictions that are kept
    if outcome.weights and matrix.test_labels:
        scores = score_predictions(label, probability, user[test.rows])
    if fuller is None:
        with ArtifactWriter(folder, step=5, made_by="mlp.py", settings=identity, inputs=inputs) as writer:
            writer.json("history", [asdict(epoch) for epoch in outcome.history])
            if outcome.weights:
                save_weights(writer.building / "model.safetensors", outcome.weights)
            for name, values in arrays.items():
                writer.array(name, values)
            writer.manifest["rows"] = {"test": len(test)}
    groups = {"train": matrix.train, "valid": matrix.valid, "test": test}
    result = Result(
        run_id=run_id,
        task=matrix.settings["task"],
        model="MMa4CTR",
        variant=matrix.settings["variant"],
        protocol={**matrix.protocol, "loss": settings.loss, **({} if matrix.test_labels else {"test_labels": False})},
        embedding_length=matrix.settings["embedding_length"],
        in_features=matrix.in_features,
        parameters=parameter_count(matrix.in_features, settings.networks),
        epochs=settings.epochs,
        best_epoch=outcome.best_epoch,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        halve_every=settings.halve_every,
        patience=settings.patience,
        max_interrupts=settings.max_interrupts,
        interrupts=outcome.interrupts,
        seed=settings.seed,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        rows={name: len(group) for name, group in groups.items()},
        positives={name: int(group.label.sum()) for name, group in groups.items()},
        valid_auc=outcome.history[outcome.best_epoch - 1].valid_auc if outcome.best_epoch else None,
        auc=scores.auc if scores else None,
        auc_error=scores.auc_error if scores else None,
        gauc=scores.gauc if scores else None,
        logloss=scores.logloss if scores else None,
        train_seconds=outcome.seconds,
        test_seconds=test_seconds,
        rows_per_second=outcome.rows_per_second,
        started=started,
        commit=commit_of(Path(__file__).parents[2]),
        networks=settings.networks,
        schedule=settings.schedule,
    )
    append_result(paths.results, result)
    return result


def choose_device(name: str) -> torch.device:
    """`auto`, or a device of torch; raises `UserError` where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def run_checkpoints(
    paths: Paths,
    task: str,
    variant: str,
    settings: TrainSettings,
    checkpoint_epochs: Sequence[int],
    device: torch.device,
    *,
    keep: str = "all",
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> list[tuple[Result, Outcome]]:
    """Load, train once, test and record a run for each checkpoint; `batch_size` 0 chooses the batch size.

    Of several processes the first alone tests and records; the others return nothing.
    """
    matrix = load_matrix(paths, task, variant, device)
    user = load_step_inputs(paths, task).data.user
    settings = replace(
        settings, batch_size=settings.batch_size or default_batch_size(settings.schedule, len(matrix.train))
    )
    started = now()
    outcomes = train(matrix, settings, auc, checkpoint_epochs, on_epoch, processes)
    if not processes.first:
        return []
    return [(finish_run(paths, matrix, one, user, started, keep=keep), one) for one in outcomes]


def log_run(result: Result, outcome: Outcome) -> None:
    """One line about a finished run, and a warning where it should not be trusted."""
    name = f"{result.task} {result.variant}"
    if result.auc is None or result.logloss is None:
        if result.test_labels:
            warn(f"{name}: no test AUC; {outcome.ended or 'the test rows have one class only'}")
        else:
            note(f"{name}: no test AUC, because the test rows have no labels; run {result.run_id} has the predictions")
        return
    note(
        f"{name}: test AUC {result.auc:.4f}, LogLoss {result.logloss:.4f}, epoch {result.best_epoch} of "
        f"{len(outcome.history)}, {result.interrupts} interrupts, batch {result.batch_size}, run {result.run_id}"
    )
    if result.positives["test"] < FEW_POSITIVES and result.auc_interval:
        low, high = result.auc_interval
        warn(
            f"{name}: {result.positives['test']} positives in the test rows; with others of their kind AUC would lie "
            f"between {low:.4f} and {high:.4f} (95 %)"
        )
    if outcome.ended:
        note(f"{name}: {outcome.ended}")
    if result.selected_on_test:
        warn(f"{name}: SELECTED ON TEST, the test rows chose the epoch")
    if result.leaky:
        warn(f"{name}: leaky, the user embedding saw the test labels (evidence all)")
