"""Figures of runs with their test predictions: ROC, calibration, UMAP."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_curve

from mma4ctr.data.interactions import Interactions
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.figures import NEGATIVE, POSITIVE, line_styles, panels, save_figure, set_title
from mma4ctr.evaluation.ground_truth import probabilities_of_test_rows
from mma4ctr.evaluation.metrics import reliability
from mma4ctr.evaluation.run_records import (
    Result,
    keeps_predictions,
    newest_of_each,
    read_run,
)
from mma4ctr.features.feature_matrix import load_matrix, load_step_inputs, read_matrix
from mma4ctr.runtime.console import note
from mma4ctr.storage.paths import Paths

LABELS = ("negative", "positive")


# Points of a curve in the page; the picture is the same, the page a hundredth as large.
CURVE_POINTS = 400


NEIGHBORS = 15


@dataclass(frozen=True)
class Predicted:
    """A run with what it said of the test rows: labels uint8, predictions float32, hidden float32 (rows, 4).

    Attributes:
        truth: the true probabilities, float64, where the data are simulated.
    """

    result: Result
    data: Interactions
    rows: np.ndarray
    label: np.ndarray
    predictions: np.ndarray
    hidden: np.ndarray
    truth: np.ndarray | None

    @property
    def name(self) -> str:
        """For legends."""
        score = "undefined" if self.result.auc is None else f"{self.result.auc:.4f}"
        words = [self.result.variant, f"AUC {score}"]
        if (loss := self.result.protocol["loss"]) != "bce":
            words.append(f"loss {loss}")
        return ", ".join(words + ["LEAKY"] * self.result.leaky)


def load_predicted(paths: Paths, results: Sequence[Result], task: str) -> list[Predicted]:
    """The newest run of each variant and protocol of a task that kept its predictions and fits the data as it is."""
    found = []
    inputs = load_step_inputs(paths, task)
    current = {"interactions": inputs.data.artifact, "modalities": inputs.modal, "user embedding": inputs.embedding}
    made_from = {name: artifact.fingerprint for name, artifact in current.items()}
    for result in newest_of_each(
        [r for r in results if r.task == task and r.model == "MMa4CTR"], keeps_predictions(paths)
    ):
        artifact = read_run(paths, result)
        matrix = read_matrix(paths, task, result.variant)
        if artifact.manifest["inputs"]["matrix"] != matrix.fingerprint or matrix.manifest["inputs"] != made_from:
            note(f"{task} {result.variant}: run {result.run_id} is of other data than those there now, left out")
            continue
        rows = artifact.array("rows")
        label = inputs.data.label(split_task(task)[1])[rows]
        said, hidden = artifact.array("predictions"), artifact.array("hidden")
        found.append(Predicted(result, inputs.data, rows, label, said, hidden, probabilities_of_test_rows(paths, task)))
    return found


def roc_points(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, at most `CURVE_POINTS` of them; empty for one class."""
    if label.min() == label.max():
        return np.empty(0), np.empty(0)
    false_rate, true_rate, _ = roc_curve(label, score)
    grid = np.unique(np.linspace(0, len(false_rate) - 1, CURVE_POINTS).astype(int))
    return false_rate[grid], true_rate[grid]


def balanced_sample(label: np.ndarray, most: int, seed: int) -> np.ndarray:
    """int64 sorted positions of equally many positives and negatives, at most `most` of each."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(label == kind) for kind in (0, 1)]
    size = min(most, *(len(rows) for rows in classes))
    return np.sort(np.concatenate([rng.choice(rows, size, replace=False) for rows in classes]))


def embed(values: np.ndarray, seed: int) -> dict[int, np.ndarray]:
    """UMAP (McInnes, Healy and Melville 2018) to 2 and 3 dimensions, from one search for neighbours.

    Returns: {2: float32 (rows, 2), 3: float32 (rows, 3)}.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that a fixed seed means one thread
        import umap
        from umap.umap_ import nearest_neighbors

        neighbors = min(NEIGHBORS, len(values) - 1)
        found = nearest_neighbors(values, neighbors, "euclidean", {}, False, np.random.RandomState(seed))
        return {
            dimensions: umap.UMAP(
                n_components=dimensions, n_neighbors=neighbors, random_state=seed, precomputed_knn=found
            ).fit_transform(values)
            for dimensions in (2, 3)
        }


def draw_roc(paths: Paths, task: str, runs: list[Predicted]) -> Path:
    """One curve for each run of a task."""
    with panels(1, width=4.6, height=4.2) as (figure, (axis,)):
        axis.plot([0, 1], [0, 1], color="#888888", linestyle=":", linewidth=1)
        for style, one in zip(line_styles(), runs, strict=False):
            axis.plot(*roc_points(one.label, one.predictions), label=one.name, **style | {"marker": ""})
        axis.set(xlabel="false positive rate", ylabel="true positive rate")
        set_title(axis, f"{task}: ROC on test rows", [one.result for one in runs])
        axis.set_aspect("equal")
        axis.legend(loc="lower right")
        return save_figure(figure, paths, f"roc_{task}")


def draw_reliability(paths: Paths, predicted: dict[str, list[Predicted]]) -> Path:
    """Share of positives against prediction, a panel per task with a curve for each of its runs."""
    with panels(len(predicted), width=3.9, height=3.6) as (figure, axes):
        for axis, (task, runs) in zip(axes, predicted.items(), strict=True):
            end = 0.0
            for style, one in zip(line_styles(), runs, strict=False):
                name, said, seen = reliability_curve(one)
                axis.plot(said, seen, label=name, **style)
                end = max(end, 1.05 * said.max(), 1.05 * seen.max())
            axis.plot([0, end], [0, end], color="#888888", linestyle=":", linewidth=1, zorder=0)
            axis.set(xlabel="mean prediction", ylabel="share of positives")
            told = " error (on true probabilities)" if runs[0].truth is not None else ""
            set_title(axis, f"{task}: calibration{told}", [one.result for one in runs])
            axis.legend(loc="upper left", fontsize="small")
        return save_figure(figure, paths, "reliability")


def reliability_curve(one: Predicted) -> tuple[str, np.ndarray, np.ndarray]:
    """A run's variant with its expected calibration error, and the points of its curve.

    Where the data are simulated, the error on the true probabilities stands beside it: on labels, drawn by chance, not
    even a perfect model has 0.
    """
    said, seen, error = reliability(one.label, one.predictions)
    name = f"{one.result.variant}, error {error:.4f}"
    if one.truth is not None:
        name += f" ({reliability(one.truth, one.predictions)[2]:.4f})"
    return name, said, seen


def draw_umap(paths: Paths, result: Result, kind: str, points: dict[int, np.ndarray], label: np.ndarray) -> list[Path]:
    """Scatter pictures in 2 and 3 dimensions of a run's test rows."""
    written = []
    for dimensions, place in points.items():
        with panels(1, width=4.6, height=4.2) as (figure, (axis,)):
            if dimensions == 3:
                axis.remove()
                axis = figure.add_subplot(projection="3d")
                axis.set_zlabel("UMAP 3", labelpad=0)
                axis.set_box_aspect(None, zoom=0.8)  # else the label of the third axis is cut
                axis.locator_params(nbins=4)
                axis.tick_params(labelsize=7, pad=0)
            for value, color in ((0, NEGATIVE), (1, POSITIVE)):
                look: dict[str, Any] = {
                    "s": 4,
                    "color": color,
                    "alpha": 0.5,
                    "linewidths": 0,
                    "label": LABELS[value],
                    "rasterized": True,
                }
                axis.scatter(*place[label == value].T, **look)
            axis.set(xlabel="UMAP 1", ylabel="UMAP 2")
            set_title(axis, f"{result.task}: {kind}, {len(label):,} test rows", [result])
            figure.legend(loc="outside lower center", ncols=2, markerscale=3)
            written.append(save_figure(figure, paths, f"umap_{result.task}_{kind}_{dimensions}d"))
    return written


def feature_rows(paths: Paths, one: Predicted, chosen: np.ndarray) -> np.ndarray:
    """float32 (n, in_features): the feature rows of some test rows."""
    matrix = load_matrix(paths, one.result.task, one.result.variant, torch.device("cpu"))
    return matrix.test.features(matrix, chosen).numpy()


def hover_texts(one: Predicted, chosen: np.ndarray) -> list[str]:
    """User, item, label and prediction of some test rows."""
    rows = one.rows[chosen]
    users, items = one.data.user_names[one.data.user[rows]], one.data.item_names[one.data.item[rows]]
    return [
        f"user {user}, item {item}, {LABELS[label]}, predicted {chance:.3f}"
        for user, item, label, chance in zip(users, items, one.label[chosen], one.predictions[chosen], strict=True)
    ]
