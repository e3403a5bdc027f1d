"""Figures of runs with their test predictions: ROC, calibration, UMAP."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from mma4ctr.data.interactions import Interactions
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.figures import NEGATIVE, POSITIVE, line_styles, panels, save_figure, set_title
from mma4ctr.evaluation.ground_truth import true_test_probabilities
from mma4ctr.evaluation.metrics import reliability
from mma4ctr.evaluation.run_records import (
    Result,
    has_predictions,
    newest_of_each,
    read_run,
)
from mma4ctr.features.feature_matrix import load_matrix, load_step_inputs, read_matrix
from mma4ctr.runtime.console import note
from mma4ctr.storage.paths import Paths

LABELS = ("negative", "positive")
# Points of a curve in the report. The curve looks the same with all points; the page would be a hundred times as large.
CURVE_POINTS = 400
# UMAP's number of neighbours.
NEIGHBORS = 15
# UMAP can place a few points far away, which would squeeze the others into a line. The axes end at these percentiles.
AXIS_PERCENTILES = (1.0, 99.0)
AXIS_MARGIN = 0.1


@dataclass(frozen=True)
class Predicted:
    """A run with its predictions of the test rows.

    Attributes:
        result: Its line of results.jsonl.
        data: The interactions of its data set.
        rows: int64 (test rows,) positions among the interactions.
        label: uint8 (test rows,).
        predictions: float32 (test rows,).
        hidden: float32 (test rows, 4 x networks), the inputs of the last layers.
        truth: float64 (test rows,) true probabilities, or None if the data are not simulated.
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
        """Variant, AUC and deviations from the usual protocol, for legends."""
        score = "undefined" if self.result.auc is None else f"{self.result.auc:.4f}"
        parts = [self.result.variant, f"AUC {score}"]
        if (loss := self.result.protocol["loss"]) != "bce":
            parts.append(f"loss {loss}")
        return ", ".join([*parts, *self.result.marks])


def load_predicted(paths: Paths, results: Sequence[Result], task: str) -> list[Predicted]:
    """The newest run of each variant and protocol of a task with predictions, made from the present inputs."""
    own = [one for one in results if one.task == task and one.model == "MMa4CTR"]
    newest = newest_of_each(own, has_predictions(paths))
    if not newest:
        return []
    found = []
    inputs = load_step_inputs(paths, task)
    current = {"interactions": inputs.data.artifact, "modalities": inputs.modal, "user embedding": inputs.embedding}
    made_from = {name: artifact.fingerprint for name, artifact in current.items()}
    for result in newest:
        artifact = read_run(paths, result)
        matrix = read_matrix(paths, task, result.variant)
        if artifact.manifest["inputs"]["matrix"] != matrix.fingerprint or matrix.manifest["inputs"] != made_from:
            note(f"{task} {result.variant}: run {result.run_id} was made from other data than the present, skipped")
            continue
        rows = artifact.array("rows")
        label = inputs.data.label(split_task(task)[1])[rows]
        predictions, hidden = artifact.array("predictions"), artifact.array("hidden")
        truth = true_test_probabilities(paths, task)
        found.append(Predicted(result, inputs.data, rows, label, predictions, hidden, truth))
    return found


def roc_points(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve.

    Args:
        label: 0/1 (rows,).
        score: float (rows,).

    Returns:
        False and true positive rates, at most `CURVE_POINTS` of them; empty if the labels have one class only.
    """
    if label.min() == label.max():
        return np.empty(0), np.empty(0)
    false_rate, true_rate, _ = roc_curve(label, score)
    grid = np.unique(np.linspace(0, len(false_rate) - 1, CURVE_POINTS).astype(int))
    return false_rate[grid], true_rate[grid]


def balanced_sample(label: np.ndarray, most: int, seed: int) -> np.ndarray:
    """A random sample with as many positives as negatives.

    Args:
        label: 0/1 (rows,).
        most: Largest number of rows of a class.
        seed: Of the sample.

    Returns:
        int64 (n,) sorted positions.
    """
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(label == kind) for kind in (0, 1)]
    size = min(most, *(len(rows) for rows in classes))
    return np.sort(np.concatenate([rng.choice(rows, size, replace=False) for rows in classes]))


def embed(values: np.ndarray, seed: int) -> dict[int, np.ndarray]:
    """UMAP (McInnes, Healy and Melville 2018) to 2 and 3 dimensions, from one search for neighbours.

    Args:
        values: float32 (rows, columns).
        seed: Of UMAP.

    Returns:
        {2: float32 (rows, 2), 3: float32 (rows, 3)}.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP warns that a fixed seed means one thread
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


def within_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axis limits by percentiles; points outside them are moved to the edge.

    Args:
        points: float (n, dimensions).

    Returns:
        The moved points (n, dimensions), bool (n,) whether a point lay outside, and the limits (2, dimensions).
    """
    low, high = np.percentile(points, AXIS_PERCENTILES, axis=0)
    margin = AXIS_MARGIN * np.maximum(high - low, 1e-6)
    limits = np.stack([low - margin, high + margin]).astype(points.dtype)
    moved = np.clip(points, *limits)
    return moved, (moved != points).any(axis=1), limits


def draw_roc(paths: Paths, task: str, runs: list[Predicted]) -> Path:
    """Draw the ROC curve of each run of a task."""
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
    """Draw the calibration curves: share of positives by prediction, a panel per task with a curve per run."""
    with panels(len(predicted), width=3.9, height=3.6) as (figure, axes):
        for axis, (task, runs) in zip(axes, predicted.items(), strict=True):
            end = 0.0
            for style, one in zip(line_styles(), runs, strict=False):
                name, mean, share = reliability_curve(one)
                axis.plot(mean, share, label=name, **style)
                end = max(end, 1.05 * mean.max(), 1.05 * share.max())
            axis.plot([0, end], [0, end], color="#888888", linestyle=":", linewidth=1, zorder=0)
            axis.set(xlabel="mean prediction", ylabel="share of positives")
            on_truth = " error (on true probabilities)" if runs[0].truth is not None else ""
            set_title(axis, f"{task}: calibration{on_truth}", [one.result for one in runs])
            axis.legend(loc="upper left", fontsize="small")
        return save_figure(figure, paths, "reliability")


def reliability_curve(one: Predicted) -> tuple[str, np.ndarray, np.ndarray]:
    """The calibration curve of a run.

    Returns:
        The variant with its expected calibration error, mean predictions (bins,) and shares of positives (bins,). For
        simulated data the error on the true probabilities follows in brackets: labels are random draws, so even a
        perfect model has an error above 0 on them.
    """
    mean, share, error = reliability(one.label, one.predictions)
    name = f"{one.result.variant}, error {error:.4f}"
    if one.truth is not None:
        name += f" ({reliability(one.truth, one.predictions)[2]:.4f})"
    return name, mean, share


def draw_umap(paths: Paths, result: Result, kind: str, points: dict[int, np.ndarray], label: np.ndarray) -> list[Path]:
    """Draw scatter plots in 2 and 3 dimensions of a run's test rows.

    Points outside the axes are drawn as crosses at the edge.

    Args:
        paths: Of the path.json in use.
        result: The run.
        kind: `features` or `hidden`.
        points: By number of dimensions, float32 (n, dimensions).
        label: 0/1 (n,).

    Returns:
        The paths of the pictures.
    """
    written = []
    for dimensions, coordinates in points.items():
        with panels(1, width=4.6, height=4.2) as (figure, (axis,)):
            if dimensions == 3:
                axis.remove()
                axis = _space_axis(figure)
            outside = _scatter(axis, coordinates, label)
            axis.set(xlabel="UMAP 1", ylabel="UMAP 2")
            title = f"{result.task}: {kind}, {len(label):,} test rows"
            if outside:
                title += f"\n{outside:,} outside the axes, drawn as crosses at the edge"
            set_title(axis, title, [result])
            figure.legend(loc="outside lower center", ncols=2, markerscale=3)
            written.append(save_figure(figure, paths, f"umap_{result.task}_{kind}_{dimensions}d"))
    return written


def _space_axis(figure: Figure) -> Any:
    axis = figure.add_subplot(projection="3d")
    axis.set_zlabel("UMAP 3", labelpad=0)
    axis.set_box_aspect(None, zoom=0.8)  # at full size the label of the third axis is cut
    axis.locator_params(nbins=4)
    axis.tick_params(labelsize=7, pad=0)
    return axis


def _scatter(axis: Any, points: np.ndarray, label: np.ndarray) -> int:
    """Draw the points of both classes and set the limits; return the number of points outside them."""
    moved, outside, limits = within_axes(points)
    for value, color in ((0, NEGATIVE), (1, POSITIVE)):
        style: dict[str, Any] = {"color": color, "alpha": 0.5, "rasterized": True}
        inside = (label == value) & ~outside
        axis.scatter(*moved[inside].T, s=4, linewidths=0, label=LABELS[value], **style)
        axis.scatter(*moved[(label == value) & outside].T, s=14, marker="x", linewidths=0.8, clip_on=False, **style)
    axis.set(
        **{f"{name}lim": tuple(limits[:, place]) for place, name in zip(range(len(limits[0])), "xyz", strict=False)}
    )
    return int(outside.sum())


def feature_rows(paths: Paths, one: Predicted, chosen: np.ndarray) -> np.ndarray:
    """The features of some test rows.

    Args:
        paths: Of the path.json in use.
        one: The run.
        chosen: int64 (n,) positions among the test rows.

    Returns:
        float32 (n, in_features).
    """
    matrix = load_matrix(paths, one.result.task, one.result.variant, torch.device("cpu"))
    return matrix.test.features(matrix, chosen).numpy()


def hover_texts(one: Predicted, chosen: np.ndarray) -> list[str]:
    """User, item, label and prediction of some test rows."""
    rows = one.rows[chosen]
    users, items = one.data.user_names[one.data.user[rows]], one.data.item_names[one.data.item[rows]]
    return [
        f"user {user}, item {item}, {LABELS[label]}, predicted {probability:.3f}"
        for user, item, label, probability in zip(users, items, one.label[chosen], one.predictions[chosen], strict=True)
    ]
