"""Test AUC of the shares of positives that users and items have in the training rows.

Where a sample has a fixed number of negatives for each positive of a user, the user's share in the training rows tells
how many positives are left for the test rows: the higher the one, the lower the other.

python -m benchmarks.shares --paths configs/tiktok-real.json --task tiktok_like
"""

from collections.abc import Sequence

import mma4ctr.runtime.environment

import numpy as np

from mma4ctr.data.interactions import TEST, TRAIN, Interactions, load_interactions
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.metrics import auc
from mma4ctr.runtime.console import parser, print_table, run
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.storage.paths import load_paths

# Rows with the share of all, by which each share is smoothed.
PRIOR = 1.0


def log_shares(codes: np.ndarray, label: np.ndarray, size: int) -> np.ndarray:
    """The logarithms of smoothed shares of positives: float64 (size,) of codes int (n,) with labels 0/1 (n,)."""
    positives, rows = np.bincount(codes, label, size), np.bincount(codes, minlength=size)
    shares: np.ndarray = np.log((positives + PRIOR * label.mean()) / (rows + PRIOR))
    return shares


def test_aucs(data: Interactions, label: np.ndarray) -> list[float]:
    """Test AUC of the user's share, of its negative, of the item's share, and of item minus user."""
    train, test = data.split == TRAIN, data.split == TEST
    user = log_shares(data.user[train], label[train], len(data.user_ids))[data.user[test]]
    item = log_shares(data.item[train], label[train], len(data.item_ids))[data.item[test]]
    return [auc(label[test], score) or 0.5 for score in (user, -user, item, item - user)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser(__doc__)
    add_task_options(options)
    chosen = options.parse_args(arguments)
    paths = load_paths(chosen.paths)
    rows = []
    for task in chosen_tasks(paths, chosen):
        dataset, target = split_task(task)
        data = load_interactions(paths, dataset)
        rows.append([task, *(f"{one:.4f}" for one in test_aucs(data, data.label(target)))])
    print_table("Test AUC of shares", ["task", "user", "minus user", "item", "item minus user"], rows)


if __name__ == "__main__":
    run(main)
