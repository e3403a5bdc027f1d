"""The runs of a study, by case and number of epochs, from results.jsonl; and the published figures beside them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from mma4ctr.data.interactions import interactions_artifact
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.baselines import BASELINES, Baseline
from mma4ctr.evaluation.run_records import Result
from mma4ctr.evaluation.studies import BASE_TRAINING, COMPUTATION, MODEL, Case, Inputs, Study, cases_of
from mma4ctr.features.variants import STUDY, Variants, variants_for, with_features
from mma4ctr.model.training_defaults import default_batch_size
from mma4ctr.storage.artifacts import MANIFEST, read_artifact
from mma4ctr.storage.paths import Paths


@cache
def published_figures() -> dict[str, Any]:
    """The figures of the published study by task."""
    tasks: dict[str, Any] = orjson.loads((Path(__file__).parent / "published.json").read_bytes())["tasks"]
    return tasks


def published_figure(task: str, case: Case, epochs: int, metric: str) -> float | None:
    """A published figure of a case, or None if it was not published.

    Args:
        task: For example `tiktok_like`.
        case: A case of a study.
        epochs: Number of epochs.
        metric: `auc`, and for the comparison also `logloss`, `train_seconds`, `test_seconds` and `parameters`.
    """
    path = case.published
    if path and metric in COMPUTATION:
        path = ("comparison", "computation", case.label, "{metric}")
    elif "{metric}" not in path and metric != "auc":
        return None
    found: Any = published_figures().get(task)
    for key in path:
        found = found.get(key.format(metric=metric, epochs=epochs)) if isinstance(found, dict) else None
    return float(found) if path and isinstance(found, int | float) else None


def _is_of_baseline(result: Result, task: str, model: Baseline, base: Inputs) -> bool:
    expected: dict[str, Any] = {"split": base.split, "loss": model.loss, **model.inputs_setting}
    if model.features:
        if (
            not base.variant
            or result.variant != with_features(base.variant, model.features)
            or result.embedding_length != base.length
        ):
            return False
        folds = base.folds if base.evidence == "train" else 0
        expected |= {"evidence": base.evidence, "scaling": base.scaling, "folds": folds}
    same = all(result.protocol.get(name) == value for name, value in expected.items())
    return same and (result.task, result.model) == (task, model.name)


def is_of_case(result: Result, task: str, case: Case, base: Inputs) -> bool:
    """Whether a run belongs to a case, for any number of epochs and any seed.

    Args:
        result: The run.
        task: For example `tiktok_like`.
        case: A case of a study.
        base: How the user's own inputs are made; they replace what the case leaves open.
    """
    same_split = base.train_rows is not None and result.protocol["split"] == base.split
    if same_split and result.rows["train"] != base.train_rows:  # step 1 has made other rows since
        return False
    if case.model in BASELINES:
        return _is_of_baseline(result, task, BASELINES[case.model], base)
    inputs = case.inputs.within(base)
    expected = BASE_TRAINING | case.training
    loss = expected.pop("loss")
    expected["batch_size"] = expected["batch_size"] or default_batch_size(expected["schedule"], base.train_rows or 0)
    expected |= {
        "task": task,
        "model": MODEL,
        "variant": case.variant_name(base.variant),
        "embedding_length": inputs.length,
    }
    protocol: dict[str, Any] = {
        "split": inputs.split,
        "evidence": inputs.evidence,
        "scaling": inputs.scaling,
        "loss": loss,
    }
    protocol["folds"] = inputs.folds if inputs.evidence == "train" else 0
    return all(getattr(result, name) == value for name, value in expected.items()) and all(
        result.protocol[name] == value for name, value in protocol.items()
    )


@dataclass(frozen=True)
class Cell:
    """The runs of one case after one number of epochs.

    Attributes:
        task: For example `tiktok_like`.
        case: A case of a study.
        epochs: Number of epochs.
        runs: One run per seed; empty if there is none.
    """

    task: str
    case: Case
    epochs: int
    runs: list[Result]

    def published(self, metric: str) -> float | None:
        """The published figure, or None if it was not published."""
        return published_figure(self.task, self.case, self.epochs, metric)

    def known(self, metric: str) -> list[float]:
        """The values of a metric in the runs where it is defined."""
        return [value for run in self.runs if (value := getattr(run, metric)) is not None]

    def mean_and_deviation(self, metric: str) -> tuple[float, float] | None:
        """Mean and standard deviation over the seeds, 0 for one seed; None if the metric is undefined or has no run."""
        values = self.known(metric)
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def leaky(self) -> bool:
        """Whether the features of a run saw test labels."""
        return any(run.leaky for run in self.runs)


def prepared_inputs(paths: Paths, task: str) -> Inputs:
    """How the user's own inputs of a task are made: from the manifests of steps 1, 3 and 4, or else the defaults."""
    graph = interactions_artifact(paths, split_task(task)[0])
    found: dict[str, Any] = {"evidence": "train", "length": 21, "scaling": "zscore", "folds": 5}
    modal = paths.modal / split_task(task)[0]
    known = variants_for(paths, task)
    made = (modal / MANIFEST).is_file()
    found["variant"] = known.widest(read_artifact(modal, "").manifest["modalities"]) if made else known.default
    embedding, matrix = paths.user_embedding / task, paths.matrix / task / str(found["variant"])
    if (embedding / MANIFEST).is_file():
        settings = read_artifact(embedding, "get_user_embedding.py").settings
        found |= {"evidence": settings["evidence"], "length": settings["length"]}
        found["folds"] = settings["folds"] or found["folds"]
    if (matrix / MANIFEST).is_file():
        found["scaling"] = read_artifact(matrix, "cross_matrix.py").settings["scaling"]
    return Inputs(split=graph.settings["split"], train_rows=graph.manifest["rows"]["train"], **found)


def cells(results: Sequence[Result], study: Study, task: str, base: Inputs, known: Variants = STUDY) -> list[Cell]:
    """The cells of a study for one task: every case that has runs, after every number of epochs.

    Args:
        results: All finished runs, in the order of writing.
        study: The study.
        task: For example `tiktok_like`.
        base: How the user's own inputs are made.
        known: The variants of the data set.
    """
    table = []
    for case in cases_of(study, known):
        own = [result for result in results if is_of_case(result, task, case, base)]
        if own:
            once = case.model in BASELINES and not BASELINES[case.model].by_epoch  # its scores do not depend on epochs
            more = study.more_epochs if case.model in BASELINES and not once else ()
            for epochs in (*study.epochs, *more):
                # The last run of each seed.
                wanted = case.own_epochs or epochs
                runs = {result.seed: result for result in own if once or result.epochs == wanted}
                table.append(Cell(task, case, epochs, list(runs.values())))
    return table
