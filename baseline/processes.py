"""One training in a process of its own: what it gets, how it is watched, and how its scores become results."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fuxictr_inputs import write_inputs
from recbole_fields import moments_of, write_atomic_files, write_features
from trainings import HERE, ComparedTraining

from mma4ctr.datasets.base import SPLIT_NAMES
from mma4ctr.evaluation.baselines import FUXICTR, OWN, RECBOLE
from mma4ctr.evaluation.metrics import CLIP, Scores, auc, platt_scaled, score_predictions
from mma4ctr.evaluation.run_records import Result, append_result, commit_of, now, run_folder
from mma4ctr.features.feature_matrix import load_matrix, negatives_setting
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.signals import FOLLOW
from mma4ctr.storage.artifacts import ArtifactWriter
from mma4ctr.storage.scratch import scratch_folder

LAST_LINES = 8


class Place(NamedTuple):
    """Where the models of a framework run.

    Attributes:
        environment: The folder of its environment; None for this one.
        script: Trains a model.
        command: Makes the environment.
    """

    environment: Path | None
    script: str
    command: str = ""


PLACES = {
    OWN: Place(None, "own_model.py"),
    RECBOLE: Place(HERE.parent / ".venv-baseline", "recbole_model.py", "make baseline"),
    FUXICTR: Place(HERE.parent / ".venv-fuxictr", "fuxictr_model.py", "make baseline-fuxictr"),
}
# FuxiCTR's metrics and ours may differ by this much.
SAME = 1e-4


class TrainingFailed(UserError):
    """A model's process ended badly; the message is the last lines it wrote."""


@dataclass
class Workers:
    """The processes of a comparison.

    Attributes:
        threads: Threads of each process.
        report: Called with a training's name, epoch, last epoch and loss, after each epoch.
        running: The processes that live.
    """

    threads: int
    report: Callable[[str, int, int, str], None]
    running: set[subprocess.Popen[str]] = field(default_factory=set)

    def kill(self) -> None:
        """End all processes."""
        for process in list(self.running):
            process.kill()


def write_job(training: ComparedTraining, folder: Path, threads: int) -> list[str]:
    """Write everything a training needs as `job.json` and other files.

    Args:
        training: The training.
        folder: Where to write, and where the process writes its scores.
        threads: Threads of the process.

    Returns:
        The command that starts the process.
    """
    prepared, model = training.prepared, training.model
    job: dict[str, Any] = {
        "model": model.name,
        "seed": training.seed,
        "checkpoint_epochs": list(training.checkpoint_epochs),
        "threads": threads,
        "out": str(folder),
    }
    if model.framework == OWN:
        job |= {"paths": str(prepared.paths.file), "dataset": prepared.dataset, "task": prepared.task}
        job |= {"variant": prepared.variant}
    elif model.framework == FUXICTR:
        job |= write_inputs(prepared, model, folder)
        job |= {"model": model.name_in_framework, "clip": CLIP}
    else:
        graph = prepared.paths.graph / prepared.dataset
        job |= {"graph": str(graph), "label": prepared.target, "features": None, "fields": {}}
        job |= {"yaml": list(map(str, training.yaml))}
        if model.histories:
            job["moments"] = str(folder / "moments.npy")
            np.save(job["moments"], moments_of(prepared.data))
        if model.columns:
            job["graph"] = str(folder / prepared.dataset)
            job["fields"] = write_atomic_files(prepared.data, graph, folder / prepared.dataset)
        if model.features and prepared.variant:
            matrix = load_matrix(prepared.paths, prepared.task, prepared.variant_of(model), torch.device("cpu"))
            write_features(matrix, folder)
            job["features"] = str(folder)
    (folder / "job.json").write_text(json.dumps(job))
    place = PLACES[model.framework]
    python = str(place.environment / "bin/python") if place.environment else sys.executable
    return [python, str(HERE / place.script), str(folder / "job.json")]


def train(training: ComparedTraining, workers: Workers) -> list[Result]:
    """Do one training in a process of its own; each result is recorded as soon as it is there.

    Args:
        training: The training.
        workers: The processes; the new one is among those that run while it lives.

    Returns:
        The results, one for each checkpoint.

    Raises:
        TrainingFailed: If the process ends with an error, or its scores are not usable.
    """
    found: list[Result] = []
    started, last = now(), max(training.checkpoint_epochs)
    with scratch_folder(training.prepared.paths.temp, "baseline-") as folder:
        command = write_job(training, folder, workers.threads)
        environment = os.environ | {"OMP_NUM_THREADS": str(workers.threads), "PYTHONWARNINGS": "ignore", FOLLOW: "1"}
        log = folder / "log"
        with (
            log.open("w") as errors,
            subprocess.Popen(
                # It ends when its standard input does: with this process, whatever ends that.
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env=environment,
            ) as process,
        ):
            workers.running.add(process)
            try:
                for line in process.stdout or ():
                    answer = json.loads(line)
                    if "epoch" in answer:
                        loss = f"loss {answer['loss']:.4f}" if "loss" in answer else ""
                        workers.report(training.name, answer["epoch"], last, loss)
                    else:
                        found.append(record(training, answer, folder, started))
            finally:
                if sys.exc_info()[0]:
                    process.kill()
                workers.running.discard(process)
        if process.returncode:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise TrainingFailed("\n".join(lines[-LAST_LINES:]) or f"ended with exit code {process.returncode}")
    return found


def scored_rows(training: ComparedTraining, folder: Path, part: int) -> np.ndarray:
    """Compare the rows that a process has scored with those of step 1.

    Args:
        training: The training.
        folder: Where the process has written.
        part: Number of the part of the split.

    Returns:
        int64 positions of the rows of the part among the kept interactions.

    Raises:
        TrainingFailed: If the rows or their labels are others, or in another order.
    """
    data, name = training.prepared.data, SPLIT_NAMES[part]
    rows = training.prepared.rows_of(part)
    expected = {
        "user": data.user_names[data.user[rows]],
        "item": data.item_names[data.item[rows]],
        "label": data.label(training.prepared.target)[rows],
    }
    for column, values in expected.items():
        found = np.load(folder / f"{name}_{column}.npy")
        # Ids are text if one of all is; those of a part may still be numbers.
        found, values = (
            (found, values) if found.dtype.kind != "U" != values.dtype.kind else (found.astype(str), values.astype(str))
        )
        if not np.array_equal(found, values):
            raise TrainingFailed(f"its {name} rows are not those of step 1: another {column}")
    return rows


def refuse_other_metrics(scores: Scores, printed: Mapping[str, float]) -> None:
    """Compare our metrics with those of a framework.

    Args:
        scores: Ours.
        printed: Theirs, of the same scores, by the name that ours have.

    Raises:
        TrainingFailed: If one differs by more than `SAME`.
    """
    for name, theirs in printed.items():
        ours = getattr(scores, name)
        if ours is None or not abs(ours - theirs) <= SAME:
            raise TrainingFailed(
                f"its own {name} of the test rows is {theirs:.6f}, ours {ours}; they must agree to {SAME}"
            )


def record(training: ComparedTraining, answer: dict[str, Any], folder: Path, started: str) -> Result:
    """Judge the scores after some number of epochs and append the result.

    Args:
        training: The training.
        answer: What the process has answered at the checkpoint.
        folder: Where it has written the scores.
        started: When it was started.

    Returns:
        The result.

    Raises:
        TrainingFailed: If the scored rows are not those of step 1, a score is not finite, or the framework has other
            metrics of the same scores.
    """
    prepared, model, checkpoint = training.prepared, training.model, int(answer["checkpoint"])
    data = prepared.data
    label = data.label(prepared.target)
    valid, test = (scored_rows(training, folder, part) for part in (1, 2))
    valid_score, score = (np.load(folder / f"{name}_{checkpoint}.npy") for name in SPLIT_NAMES[1:])
    if not (np.isfinite(valid_score).all() and np.isfinite(score).all()):
        raise TrainingFailed(f"after {checkpoint} epochs it scores rows with numbers that are not finite")
    probability = platt_scaled(score, valid_score, label[valid]) if model.ranking else score
    scores = score_predictions(label[test], probability, data.user[test], score)
    refuse_other_metrics(scores, answer.get("printed", {}))
    matrices = prepared.matrices_of(model)
    settings = matrices[-1].settings if matrices else {}
    learned = answer["rows_learned"] * answer.get("passes", checkpoint)
    result = Result(
        run_id=training.run_id(checkpoint),
        task=prepared.task,
        model=model.name,
        variant=prepared.variant_of(model),
        protocol={
            "split": data.artifact.settings["split"],
            "evidence": settings.get("evidence", "train"),
            "folds": settings.get("folds", 0),
            "scaling": settings.get("scaling", "none"),
            "loss": model.loss,
            **model.inputs_setting,
            **negatives_setting(data.artifact.settings),
        },
        embedding_length=settings.get("embedding_length", 0),
        in_features=answer.get("in_features", sum(matrix.manifest["in_features"] for matrix in matrices)),
        parameters=answer["parameters"],
        epochs=checkpoint,
        best_epoch=answer.get("best_epoch", checkpoint),
        batch_size=answer["batch_size"],
        learning_rate=answer["learning_rate"],
        halve_every=0,
        patience=answer.get("patience", 0),
        max_interrupts=0,
        interrupts=0,
        seed=training.seed,
        device=answer["device"],
        rows={name: len(prepared.rows_of(part)) for part, name in enumerate(SPLIT_NAMES)},
        positives={name: int(label[prepared.rows_of(part)].sum()) for part, name in enumerate(SPLIT_NAMES)},
        valid_auc=auc(label[valid], valid_score),
        auc=scores.auc,
        auc_error=scores.auc_error,
        gauc=scores.gauc,
        logloss=scores.logloss,
        train_seconds=answer["train_seconds"],
        test_seconds=answer["test_seconds"],
        rows_per_second=learned / answer["train_seconds"] if answer["train_seconds"] else 0.0,
        started=started,
        commit=commit_of(HERE),
        processor_seconds=answer.get("processor_seconds"),
        peak_memory_mb=answer.get("peak_memory_mb"),
    )
    with ArtifactWriter(
        run_folder(prepared.paths, prepared.task, result.run_id),
        step=5,
        made_by="comp.py",
        settings=training.settings(checkpoint),
        inputs=training.inputs,
    ) as writer:
        writer.array("scores", score)
        writer.manifest["rows"] = {"test": len(test)}
    append_result(prepared.paths.results, result)
    return result
