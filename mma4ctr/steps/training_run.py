"""One training of step 5: load the matrix, train, predict the test rows, and record a run for each checkpoint."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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
    run_settings,
)
from mma4ctr.features.feature_matrix import FactorMatrix, load_matrix, load_step_inputs
from mma4ctr.model.distributed import SINGLE_PROCESS, ProcessGroup
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Network, parameter_count, save_weights
from mma4ctr.model.trainer import Epoch, Outcome, train
from mma4ctr.model.training_defaults import TrainSettings, default_batch_size
from mma4ctr.runtime.console import (
    Stopwatch,
    note,
    warn,
)
from mma4ctr.runtime.errors import UserError, first_line
from mma4ctr.runtime.system import peak_memory_mb
from mma4ctr.storage.artifacts import ArtifactWriter, read_artifact
from mma4ctr.storage.paths import Paths

# With fewer positives in the test rows, a warning gives the confidence interval of AUC.
FEW_POSITIVES = 100


@dataclass(frozen=True)
class Training:
    """One training, with results after one or several numbers of epochs.

    Attributes:
        task: For example `tiktok_like`.
        variant: Name of the matrix.
        settings: Of the training; with `batch_size` 0 the batch size follows from the number of training rows.
        checkpoint_epochs: Each of these numbers of epochs gives a run.
        keep: What each run keeps of the test rows: `all` (predictions and hidden features), `scores` (for the
            comparison), or `nothing`.
    """

    task: str
    variant: str
    settings: TrainSettings
    checkpoint_epochs: Sequence[int]
    keep: str = "all"


@dataclass(frozen=True)
class _TestPredictions:
    """What a trained network predicts for the test rows.

    Attributes:
        probability: float32 (test rows,).
        hidden: float32 (test rows, 4 x networks), outputs of the last hidden layers.
        seconds: Duration of the prediction.
    """

    probability: np.ndarray
    hidden: np.ndarray
    seconds: float


def _predictions_kept(names: Iterable[str]) -> int:
    """Rank what a run keeps of its test predictions: 2 all arrays, 1 the scores only, 0 nothing."""
    return 2 if "predictions" in names else int("scores" in names)


def fuller_run(folder: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the test predictions of a finished run if it keeps more arrays than a new one would.

    A sweep keeps less of a run than mlp.py, so it must not replace a run of mlp.py.

    Args:
        folder: The folder of the run.
        arrays: The arrays that the new run would keep.

    Returns:
        float32 (test rows,); None if there is no such run or it is damaged, so that it is written again.
    """
    try:
        run = read_artifact(folder, "mlp.py")
        if id_of_run(run) == folder.name and _predictions_kept(run.array_names) > _predictions_kept(arrays):
            run.check_files()
            return run.array("predictions" if "predictions" in run.array_names else "scores")
    except UserError:
        pass
    return None


def _predict_test_rows(matrix: FactorMatrix, outcome: Outcome) -> _TestPredictions | None:
    """Predict the test rows; None if the training ended without weights."""
    if not outcome.weights:
        return None
    watch = Stopwatch()
    logits, hidden = predict(Network(outcome.weights), matrix, matrix.test, with_hidden=True)
    probability = torch.sigmoid(logits).cpu().numpy()
    seconds = watch.seconds
    return _TestPredictions(probability, hidden.cpu().numpy(), seconds)


def _arrays_to_keep(matrix: FactorMatrix, predicted: _TestPredictions | None, keep: str) -> dict[str, np.ndarray]:
    """Choose the arrays of a run's folder."""
    if predicted is None or keep == "nothing":
        return {}
    if keep == "scores":
        return {"scores": predicted.probability}
    return {"rows": matrix.test.rows, "predictions": predicted.probability, "hidden": predicted.hidden}


def finish_run(
    paths: Paths, matrix: FactorMatrix, outcome: Outcome, user: np.ndarray, started: str, *, keep: str = "all"
) -> Result:
    """Score the test rows, write the folder of the run and append its line to results.jsonl.

    Args:
        paths: Where to write.
        matrix: The feature matrix.
        outcome: The training up to the checkpoint.
        user: (kept rows,) user of every interaction, for GAUC.
        started: Time when the training started.
        keep: As in `Training`.

    Returns:
        The result.
    """
    identity = run_settings(matrix.settings, outcome.settings)
    run_id = run_id_of(identity, matrix.fingerprint)
    folder = run_folder(paths, matrix.settings["task"], run_id)
    predicted = _predict_test_rows(matrix, outcome)
    arrays = _arrays_to_keep(matrix, predicted, keep)
    fuller = fuller_run(folder, arrays)
    scores: Scores | None = None
    if predicted is not None:
        # The line in results.jsonl describes the predictions on disk.
        probability = predicted.probability if fuller is None else fuller
        if matrix.test_labels:
            scores = score_predictions(matrix.test.label.cpu().numpy(), probability, user[matrix.test.rows])
    if fuller is None:
        inputs = {"matrix": matrix.fingerprint}
        with ArtifactWriter(folder, step=5, made_by="mlp.py", settings=identity, inputs=inputs) as writer:
            writer.json("history", [asdict(epoch) for epoch in outcome.history])
            if outcome.weights:
                save_weights(writer.building / "model.safetensors", outcome.weights)
            for name, values in arrays.items():
                writer.array(name, values)
            writer.manifest["rows"] = {"test": len(matrix.test)}
    seconds = predicted.seconds if predicted else 0.0
    result = _result_of(run_id, matrix, outcome, scores, seconds, started)
    append_result(paths.results, result)
    return result


def _result_of(
    run_id: str, matrix: FactorMatrix, outcome: Outcome, scores: Scores | None, test_seconds: float, started: str
) -> Result:
    """Return the line of a run in results.jsonl."""
    settings, device = outcome.settings, matrix.test.label.device
    groups = {"train": matrix.train, "valid": matrix.valid, "test": matrix.test}
    return Result(
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
        processor_seconds=outcome.processor_seconds,
        peak_memory_mb=peak_memory_mb(),
        weight_decay=settings.weight_decay,
    )


def choose_device(name: str) -> torch.device:
    """Return a device of torch.

    Args:
        name: A name such as `cpu` or `cuda:1`; `auto` is CUDA if available, else the CPU.

    Returns:
        The device.

    Raises:
        UserError: The device does not exist, or cannot compute.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: {first_line(error)}") from None
    return device


def run_checkpoints(
    paths: Paths,
    training: Training,
    device: torch.device,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> list[tuple[Result, Outcome]]:
    """Train once, and predict, score and record a run for each checkpoint.

    Args:
        paths: Where to read and write.
        training: What to train.
        device: The device of this process.
        on_epoch: Called after each epoch.
        processes: The processes that train together.

    Returns:
        A result and its training for each checkpoint; nothing in processes other than the first, which records.

    Raises:
        UserError: An input is missing or outdated, or the device has too little memory.
    """
    try:
        return _run_checkpoints(paths, training, device, on_epoch, processes)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{training.task} {training.variant}: the device {device} has too little memory ({first_line(error)}); use "
            "a smaller --batch-size, fewer trainings at a time, or --device cpu"
        ) from None


def _run_checkpoints(
    paths: Paths,
    training: Training,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
    processes: ProcessGroup,
) -> list[tuple[Result, Outcome]]:
    """See `run_checkpoints`."""
    matrix = load_matrix(paths, training.task, training.variant, device)
    user = load_step_inputs(paths, training.task).data.user
    settings = training.settings
    batch_size = settings.batch_size or default_batch_size(settings.schedule, len(matrix.train))
    settings = replace(settings, batch_size=batch_size)
    started = now()
    outcomes = train(matrix, settings, auc, training.checkpoint_epochs, on_epoch, processes)
    if not processes.first:
        return []
    return [(finish_run(paths, matrix, one, user, started, keep=training.keep), one) for one in outcomes]


def log_run(result: Result, outcome: Outcome) -> None:
    """Print one line about a finished run, and a warning if its result is unreliable."""
    name = f"{result.task} {result.variant}"
    if not outcome.weights:
        warn(f"{name}: no weights, so no test AUC; {outcome.ended}")
        return
    if result.leaky:
        warn(f"{name}: leaky, the user embedding saw the test labels (evidence all)")
    if outcome.ended:
        note(f"{name}: {outcome.ended}")
    if result.auc is None or result.logloss is None:
        if result.test_labels:
            warn(f"{name}: no test AUC; the test rows have one class only")
        else:
            valid = "" if result.valid_auc is None else f"validation AUC {result.valid_auc:.4f}, "
            note(
                f"{name}: {valid}epoch {result.best_epoch} of {len(outcome.history)}; no test AUC, because the test "
                f"rows have no labels; for a submission: mlp.py --run {result.run_id} --predict test"
            )
        return
    note(
        f"{name}: test AUC {result.auc:.4f}, LogLoss {result.logloss:.4f}, epoch {result.best_epoch} of "
        f"{len(outcome.history)}, {result.interrupts} interrupts, batch {result.batch_size}, run {result.run_id}"
    )
    if result.positives["test"] < FEW_POSITIVES and result.auc_interval:
        low, high = result.auc_interval
        warn(
            f"{name}: only {result.positives['test']} positives in the test rows; the 95 % confidence interval of AUC "
            f"is {low:.4f} to {high:.4f}"
        )
    if result.selected_on_test:
        warn(f"{name}: SELECTED ON TEST, the test rows chose the epoch")
