"""The figures of the data sets: negatives per positive, activity of users, popularity of items."""

from pathlib import Path

import numpy as np

from mma4ctr.data.interactions import load_interactions
from mma4ctr.evaluation.data_statistics import negatives_per_positive
from mma4ctr.evaluation.figures import COLORS, panels, save_figure
from mma4ctr.storage.artifacts import Artifact
from mma4ctr.storage.paths import Paths


def doubling_buckets(counts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Count how many numbers lie in the buckets 1, 2-3, 4-7, ...

    Args:
        counts: int (n,), at least 1.

    Returns:
        Labels and sizes of the buckets, from the first bucket with a number in it.
    """
    bucket = np.floor(np.log2(np.maximum(counts, 1))).astype(int)
    sizes = np.bincount(bucket)
    first = int(bucket.min())
    labels = [f"{2**k}" if k == 0 else f"{2**k}-{2 ** (k + 1) - 1}" for k in range(first, len(sizes))]
    return labels, sizes[first:]


def draw_ratios(paths: Paths, artifacts: dict[str, Artifact]) -> Path:
    """Draw the negatives per positive of each task as bars, one panel per data set."""
    with panels(len(artifacts), width=4.2) as (figure, axes):
        for axis, (name, artifact) in zip(axes, artifacts.items(), strict=True):
            ratios = dict(sorted(negatives_per_positive(artifact).items(), key=lambda item: item[1]))
            bars = axis.barh(list(ratios), list(ratios.values()), color=COLORS[0], height=0.7)
            axis.bar_label(bars, fmt="{:,.1f}", padding=3, fontsize=8)
            if ratios:
                axis.set_xscale("log")
                axis.set_xlim(right=max(ratios.values()) * 4)
            axis.set(xlabel="negatives per positive", title=name)
            axis.grid(axis="y", visible=False)
        return save_figure(figure, paths, "negatives_per_positive")


def draw_counts(paths: Paths, counts: dict[str, np.ndarray], name: str, unit: str, of: str) -> Path:
    """Draw buckets and a log-log curve of counts, two panels per data set.

    Args:
        paths: Where to write.
        counts: int (users or items,) by data set.
        name: Name of the figure.
        unit: `users` or `items`.
        of: What is counted, for the axes.

    Returns:
        The file.
    """
    with panels(2 * len(counts), width=3.4, height=3.0) as (figure, axes):
        for position, (dataset, values) in enumerate(counts.items()):
            labels, sizes = doubling_buckets(values)
            axis, curve = axes[2 * position], axes[2 * position + 1]
            color = COLORS[position % len(COLORS)]
            axis.barh(labels, sizes, color=color)
            axis.set(xlabel=f"number of {unit}", ylabel=of, title=dataset)
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", labelsize=7)
            ordered = np.sort(values)[::-1]
            curve.loglog(np.arange(1, len(ordered) + 1), ordered, color=color)
            curve.set(xlabel=f"rank among {unit}", ylabel=of, title=dataset)
        return save_figure(figure, paths, name)


def draw_data(paths: Paths, artifacts: dict[str, Artifact]) -> list[Path]:
    """Draw the figures of the data sets: negatives per positive, activity of users, popularity of items."""
    data = {name: load_interactions(paths, name) for name in artifacts}
    by_user = {name: np.bincount(one.user) for name, one in data.items()}
    by_item = {name: np.bincount(one.item) for name, one in data.items()}
    return [
        draw_ratios(paths, artifacts),
        draw_counts(paths, by_user, "activity", "users", "interactions per user"),
        draw_counts(paths, by_item, "popularity", "items", "interactions per item"),
    ]
