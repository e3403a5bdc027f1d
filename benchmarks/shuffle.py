"""Test AUC with one permutation of all training rows, and with the permutation in parts that large data get.

python -m benchmarks.shuffle --paths configs/kuairand-real.json --task kuairand_click
"""

import statistics
from collections.abc import Sequence

import mma4ctr.runtime.environment

import torch

from mma4ctr.evaluation.metrics import auc
from mma4ctr.features.feature_matrix import FactorMatrix, load_matrix
from mma4ctr.features.variants import variants_for, with_features
from mma4ctr.model import trainer
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Network
from mma4ctr.model.training_defaults import EPOCHS, TRAINING
from mma4ctr.runtime.console import parser, print_table, run, whole_number
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.storage.paths import load_paths

# Rows permuted at once, and rows of a run. The second has as many runs in a part as the default, with fewer rows.
ORDERS = {"one permutation": (1 << 24, 1 << 12), "parts": (1 << 13, 1 << 5), "parts, longer runs": (1 << 13, 1 << 8)}


def test_auc(matrix: FactorMatrix, seed: int) -> float:
    """Train features plus with their defaults and return the test AUC."""
    settings = trainer.TrainSettings(epochs=EPOCHS["plus"], seed=seed, **TRAINING["plus"])
    (outcome,) = trainer.train(matrix, settings, auc)
    assert outcome.weights is not None
    logits, _ = predict(Network(outcome.weights), matrix, matrix.test)
    return auc(matrix.test.label.numpy(), logits.numpy()) or 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    options = parser(__doc__)
    add_task_options(options)
    options.add_argument("--seeds", type=whole_number(1), default=5, help="trainings of each order")
    chosen = options.parse_args(arguments)
    paths = load_paths(chosen.paths)
    rows = []
    for task in chosen_tasks(paths, chosen):
        variant = with_features(variants_for(paths, task).default, "plus")
        matrix = load_matrix(paths, task, variant, torch.device("cpu"))
        for name, (at_once, run_length) in ORDERS.items():
            trainer.SHUFFLED_AT_ONCE, trainer.RUN = at_once, run_length
            found = [test_auc(matrix, seed) for seed in range(chosen.seeds)]
            spread = f"{statistics.stdev(found):.4f}" if len(found) > 1 else "-"
            rows.append([task, name, f"{statistics.mean(found):.4f}", spread])
    print_table("Order of the training rows", ["task", "order", "mean test AUC", "standard deviation"], rows)


if __name__ == "__main__":
    run(main)
