"""results.jsonl: one line per finished run, with one schema for all models. Tables and figures are made from it.

`python -m mma4ctr.evaluation` prints the newest result of every task, model and variant.
"""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, get_origin, get_type_hints

import numpy as np
import orjson

from mma4ctr.datasets.base import GIVEN_VALID_TEST, SPLIT_NAMES
from mma4ctr.model.training_defaults import TrainSettings
from mma4ctr.runtime.console import warn
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact, fingerprint_of, read_artifact
from mma4ctr.storage.locks import locked
from mma4ctr.storage.paths import Paths

# What the outputs say of runs whose scores are too good.
LEAKY, SELECTED_ON_TEST = MARKS = ("LEAKY", "SELECTED ON TEST")


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        run_id: 12 hexadecimal digits, see `run_id_of`.
        task: For example `tiktok_like`.
        model: `MMa4CTR` or the name of a baseline.
        variant: The matrix that the model reads; `ids` for a model without features.
        protocol: Split, evidence, folds, scaling, loss and, if negatives were drawn, their number.
        embedding_length: Numbers per modality in the user embedding.
        in_features: Number of feature columns.
        parameters: Number of trainable parameters.
        epochs: Largest number of epochs.
        best_epoch: The epoch whose weights were tested, counted from 1; 0 if there is none.
        batch_size: Rows per step.
        learning_rate: Of the first epoch.
        halve_every: Epochs after which the learning rate halves; 0 for never.
        patience: Epochs without a better validation AUC before training ends; 0 for no early stop.
        max_interrupts: Largest number of rejected epochs.
        interrupts: Number of rejected epochs.
        seed: Of the weights and of the order of rows.
        device: Name of the processor.
        rows: Number of rows of each part of the split.
        positives: Number of rows with label 1 of each part.
        valid_auc: AUC of the validation rows at the weights that were tested.
        auc: Of the test rows; None if it is undefined or training never recovered from a collapse.
        gauc: AUC within users; None if it is undefined.
        logloss: Mean negative log-likelihood, in nats.
        train_seconds: Wall-clock seconds of the passes over the training rows.
        test_seconds: Wall-clock seconds to score the test rows.
        rows_per_second: Training rows per second.
        started: UTC, ISO 8601.
        commit: Git commit of the code.
        auc_error: Standard error of `auc`.
        networks: Number of networks that are averaged.
        schedule: Learning rate schedule, `halving` or `cosine`; `no-gain` in results of before.
        processor_seconds: Processor seconds of the passes over the training rows; None in results of before.
        peak_memory_mb: Peak resident memory of the process that trained, in MB (10^6 bytes); likewise.
        weight_decay: Of the first layer.
    """

    run_id: str
    task: str
    model: str
    variant: str
    protocol: dict[str, Any]
    embedding_length: int
    in_features: int
    parameters: int
    epochs: int
    best_epoch: int
    batch_size: int
    learning_rate: float
    halve_every: int
    patience: int
    max_interrupts: int
    interrupts: int
    seed: int
    device: str
    rows: dict[str, int]
    positives: dict[str, int]
    valid_auc: float | None
    auc: float | None
    gauc: float | None
    logloss: float | None
    train_seconds: float
    test_seconds: float
    rows_per_second: float
    started: str
    commit: str
    auc_error: float | None = None
    networks: int = 1
    schedule: str = "halving"
    processor_seconds: float | None = None
    peak_memory_mb: float | None = None
    weight_decay: float = 0.0

    @property
    def auc_interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of AUC, or None where the standard error is unknown."""
        if self.auc is None or self.auc_error is None:
            return None
        return max(0.0, self.auc - 1.96 * self.auc_error), min(1.0, self.auc + 1.96 * self.auc_error)

    @property
    def leaky(self) -> bool:
        """Whether the features of the run saw test labels."""
        return self.protocol["evidence"] == "all"

    @property
    def selected_on_test(self) -> bool:
        """Whether the test rows chose the epoch, as in published benchmarks without validation rows."""
        return bool(self.protocol["split"] == GIVEN_VALID_TEST)

    @property
    def test_labels(self) -> bool:
        """Whether the labels of the test rows are known; else the run has predictions, but no scores."""
        return bool(self.protocol.get("test_labels", True))

    @property
    def marks(self) -> tuple[str, ...]:
        """`LEAKY` and `SELECTED ON TEST`, whichever apply: such scores are too good."""
        applies = {LEAKY: self.leaky, SELECTED_ON_TEST: self.selected_on_test}
        return tuple(mark for mark in MARKS if applies[mark])


RUN = re.compile("[0-9a-f]{12}")
TASK = re.compile(r"[A-Za-z0-9][\w.-]*_[\w.-]+", re.ASCII)
VARIANT = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
FIELDS = tuple(Result.__dataclass_fields__)


def run_settings(features: dict[str, Any], settings: TrainSettings) -> dict[str, Any]:
    """Return all settings that decide a result; the run id is made from them and from the input arrays.

    Args:
        features: Settings of the matrix: task, variant, embedding_length, split, evidence, folds and scaling.
        settings: Settings of the training.

    Returns:
        The settings. Default values of newer settings are left out, so that run ids stay the same.
    """
    training = asdict(settings)
    for name in ("networks", "schedule", "weight_decay"):
        if training[name] == getattr(TrainSettings, name):
            del training[name]
    return {"model": "MMa4CTR", **features, **training}


def run_id_of(settings: dict[str, Any], inputs: str) -> str:
    """The id of a run: 12 hexadecimal digits.

    Args:
        settings: Everything that determines the result, apart from the input arrays.
        inputs: Fingerprint of the input arrays.
    """
    return fingerprint_of({"settings": settings, "inputs": inputs})[:12]


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit_of(folder: Path) -> str:
    """The git commit of a folder, with `+` if files differ from it; `unknown` outside a checkout."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def append_result(path: Path, result: Result) -> None:
    """Append one line and sync it; safe with several writing processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = orjson.dumps(asdict(result)) + b"\n"
    with locked(path, wait=True), path.open("a+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        if size:
            handle.seek(size - 1)
            if handle.read(1) != b"\n":
                line = b"\n" + line  # a killed writer left a partial line
        handle.write(line)
        handle.flush()
        os.fsync(handle.fileno())


# JSON types of fields that accept several. A float without decimals is an integer in JSON.
_KINDS: dict[Any, tuple[type, ...]] = {float: (float, int), float | None: (float, int, NoneType)}
_PROTOCOL = ("split", "evidence", "folds", "scaling", "loss")


# Compatibility: names in results of earlier versions, and their present names.
RENAMED_MODELS = {"rates": "bias model"}
RENAMED_GROUPS = {
    "user-rate": "user-bias",
    "item-rate": "item-bias",
    "content": "content-bias",
    "taste": "content-factors",
    "alike": "label-svd",
    "shown-alike": "exposure-svd",
}


def with_present_names(content: dict[str, Any]) -> dict[str, Any]:
    """A line of results.jsonl with the present names of the model and of the feature group."""
    renamed = dict(content)
    if isinstance(content.get("model"), str):
        renamed["model"] = RENAMED_MODELS.get(content["model"], content["model"])
    if isinstance(content.get("variant"), str):
        features, sign, group = content["variant"].partition(".plus-")
        renamed["variant"] = features + sign + RENAMED_GROUPS.get(group, group)
    if interrupt := renamed.pop("interrupt", None):
        renamed["schedule"] = "halving" if interrupt == "collapse" else str(interrupt)
    return renamed


def result_of(content: Any) -> Result:
    """Convert a line of results.jsonl.

    Raises:
        TypeError: The line is not a result.
    """
    if not isinstance(content, dict):
        raise TypeError("not a JSON object")
    result = Result(**with_present_names(content))
    for name, kind in get_type_hints(Result).items():
        value = getattr(result, name)
        kinds = _KINDS.get(kind, (get_origin(kind) or kind,))
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
    # These become parts of paths, so they are checked even if path.json does not contain the data set.
    if not (RUN.fullmatch(result.run_id) and TASK.fullmatch(result.task) and VARIANT.fullmatch(result.variant)):
        raise TypeError(f"{result.task} {result.variant} {result.run_id} is not the name of a run")
    missing = [key for key in _PROTOCOL if key not in result.protocol]
    missing += [part for part in SPLIT_NAMES if part not in result.rows or part not in result.positives]
    if missing:
        raise TypeError(f"{missing[0]} is missing")
    return result


def read_results(path: Path) -> list[Result]:
    """The finished runs in the order of writing; the last line of each run id counts.

    A damaged line is reported with its number and skipped.

    Raises:
        UserError: The file does not exist or cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no results yet; run mlp.py first") from None
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; results.jsonl must be a readable file, move what is in its place"
        ) from None
    found: dict[str, Result] = {}
    damaged = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            result = result_of(orjson.loads(line))
        except (orjson.JSONDecodeError, TypeError) as error:
            damaged += 1
            if damaged <= 3:
                warn(f"{path}:{number}: not a result, skipped ({error})")
            continue
        found.pop(result.run_id, None)
        found[result.run_id] = result
    if damaged > 3:
        warn(f"{path}: {damaged - 3:,} more lines are not results")
    return list(found.values())


def newest_of_each(results: Sequence[Result], wanted: Callable[[Result], bool] = lambda result: True) -> list[Result]:
    """The last run of every task, model, variant and protocol, sorted.

    Args:
        results: Runs in the order of writing.
        wanted: Only runs for which this is true count.
    """
    last = {(r.task, r.model, r.variant, fingerprint_of(r.protocol)): r for r in results if wanted(r)}
    return sorted(last.values(), key=lambda r: (r.task, r.model, r.variant))


def run_folder(paths: Paths, task: str, run_id: str) -> Path:
    """The folder of a run."""
    return paths.torch_model / task / run_id


def id_of_run(artifact: Artifact) -> str:
    """The run id that follows from the settings and inputs of an artifact."""
    return run_id_of(artifact.settings, *artifact.manifest["inputs"].values())


def read_run(paths: Paths, result: Result) -> Artifact:
    """Read the folder of a run.

    Raises:
        UserError: The folder is missing, damaged, or contains another run.
    """
    folder = run_folder(paths, result.task, result.run_id)
    artifact = read_artifact(folder, "mlp.py" if result.model == "MMa4CTR" else "comp.py")
    found = id_of_run(artifact)
    if found != result.run_id:
        raise UserError(
            f"{folder}: contains the run {found}, not {result.run_id}; move it to its own folder or remove it"
        )
    return artifact


def read_history(paths: Paths, result: Result) -> list[dict[str, Any]]:
    """The epochs of a run of mlp.py; empty if its folder no longer exists."""
    exists = run_folder(paths, result.task, result.run_id).is_dir()
    return list(read_run(paths, result).json("history")) if exists else []


def test_scores(paths: Paths, result: Result) -> np.ndarray | None:
    """The scores (rows,) by which a run ranks the test rows, in their order; None if they were not kept."""
    folder = run_folder(paths, result.task, result.run_id)
    for name in ("predictions", "scores"):
        if (folder / f"{name}.npy").is_file():
            return read_run(paths, result).array(name)
    return None


def has_predictions(paths: Paths) -> Callable[[Result], bool]:
    """A predicate for runs whose test predictions are on disk. Runs of mlp.py keep them, those of the sweep do not."""
    return lambda result: (run_folder(paths, result.task, result.run_id) / "predictions.npy").is_file()


def find_run(paths: Paths, run_id: str) -> Result:
    """The result of a run of mlp.py.

    Args:
        paths: Of the path.json in use.
        run_id: Id of a run, or `last` for the newest one with predictions.

    Raises:
        UserError: results.jsonl has no such run of mlp.py.
    """
    known = {result.run_id: result for result in read_results(paths.results) if result.model == "MMa4CTR"}
    if run_id == "last":
        run_id = next((r.run_id for r in reversed(known.values()) if has_predictions(paths)(r)), run_id)
    if run_id in known:
        return known[run_id]
    last = ", ".join(f"{result.run_id} ({result.task} {result.variant})" for result in list(known.values())[-5:])
    raise UserError(f"--run {run_id}: {paths.results} has no such run of mlp.py; the newest are {last or 'none'}")


def drawn_negatives(result: Result) -> str:
    """`, 4 negatives drawn for each positive`; empty if the data contain the negatives."""
    count = result.protocol.get("negatives")
    return f", {count} negative{'s' if count > 1 else ''} drawn for each positive" if count else ""
