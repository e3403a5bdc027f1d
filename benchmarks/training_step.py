"""Time of a training step: ours against `nn.Module`, autograd and `torch.optim.Adam(fused=True)` on the same batches.

A second table has the parts of a step beside bare matrix products of the same shapes.

python -m benchmarks.training_step
"""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import mma4ctr.runtime.environment

import torch
from torch import nn

from benchmarks.reference import mlp_module
from benchmarks.waiting import drawn_matrix
from mma4ctr.model.mlp import Adam, Network, initial_weights, layer_sizes, loss_and_gradient, torch_threads
from mma4ctr.model.trainer import ROWS_OF_A_THREAD
from mma4ctr.runtime.console import parser, print_table, run, whole_number

LEARNING_RATE = 1e-3
Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]


def explicit_steps(batches: Batches, networks: int) -> Callable[[], None]:
    """The steps of `mma4ctr.model.trainer`."""
    network = Network(initial_weights(batches[0][0].shape[1], 0.3, 0, networks))
    adam = Adam(network.parameters)

    def steps() -> None:
        with torch.no_grad():
            for features, label in batches:
                _, gradient = loss_and_gradient("bce", network.forward(features), label)
                network.backward(features, gradient)
                adam.step(network.parameters, network.gradient, LEARNING_RATE)

    return steps


def autograd_steps(batches: Batches, networks: int) -> Callable[[], None]:
    """The same steps with torch's own modules, loss and optimizer."""
    models = [mlp_module(initial_weights(batches[0][0].shape[1], 0.3, seed)) for seed in range(networks)]
    parameters = [values for model in models for values in model.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    loss = nn.BCEWithLogitsLoss()

    def steps() -> None:
        for features, label in batches:
            optimizer.zero_grad()
            torch.stack([loss(model(features), label) for model in models]).sum().backward()
            optimizer.step()

    return steps


def step_seconds(batch_size: int, in_features: int, networks: int, turns: int) -> tuple[float, float, float]:
    """Median processor seconds of a step of ours and of torch's, and the median of their ratio; measured in turns."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(batch_size, in_features, generator=generator), torch.rand(batch_size, generator=generator).round())
        for _ in range(max(4, 40_000 // batch_size))
    ]
    kinds = explicit_steps(batches, networks), autograd_steps(batches, networks)
    taken: tuple[list[float], list[float]] = ([], [])
    with torch_threads(1):
        for turn in range(turns + 1):
            for steps, seconds in zip(kinds, taken, strict=True):
                start = time.process_time()
                steps()
                if turn:  # the first warms up
                    seconds.append((time.process_time() - start) / len(batches))
    ratio = statistics.median(ours / theirs for ours, theirs in zip(*taken, strict=True))
    return statistics.median(taken[0]), statistics.median(taken[1]), ratio


def bare_products(batch: int, in_features: int) -> Callable[[], None]:
    """Return a function that computes only the matrix products of one training step."""
    sizes = layer_sizes(in_features)
    inputs = [torch.randn(batch, before) for before, _ in sizes]
    weights = [torch.randn(after, before) for before, after in sizes]
    outs = [torch.empty(batch, after) for _, after in sizes]
    gradients = [torch.empty_like(weight) for weight in weights]
    downs = [torch.empty(batch, before) for before, _ in sizes]

    def step() -> None:
        for layer, weight in enumerate(weights):
            torch.mm(inputs[layer], weight.t(), out=outs[layer])
        for layer in range(len(weights) - 1, -1, -1):
            torch.mm(outs[layer].t(), inputs[layer], out=gradients[layer])
            if layer:
                torch.mm(outs[layer], weights[layer], out=downs[layer])

    return step


PARTS = ("features", "forward pass", "loss", "backward pass", "Adam", "bare products")


def part_seconds(batch_size: int, turns: int) -> list[float]:
    """Median seconds of each of `PARTS` of a step of features paper, with the threads that step 5 uses."""
    matrix = drawn_matrix("paper", max(100_000, 20 * batch_size))
    network = Network(initial_weights(matrix.in_features, 0.3, 0))
    adam, rows = Adam(network.parameters), matrix.train
    products = bare_products(batch_size, matrix.in_features)
    buffer = matrix.user_part.new_empty(batch_size, matrix.in_features)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).split(batch_size)
    taken: list[list[float]] = []
    with torch_threads(batch_size // ROWS_OF_A_THREAD), torch.no_grad():
        for batch in order[:-1] * turns:
            moments = [time.perf_counter()]
            features = rows.features(matrix, batch, buffer)
            moments.append(time.perf_counter())
            logits = network.forward(features)
            moments.append(time.perf_counter())
            _, gradient = loss_and_gradient("bce", logits, rows.label[batch].float())
            moments.append(time.perf_counter())
            network.backward(features, gradient)
            moments.append(time.perf_counter())
            adam.step(network.parameters, network.gradient, LEARNING_RATE)
            moments.append(time.perf_counter())
            products()
            moments.append(time.perf_counter())
            taken.append([after - before for before, after in pairwise(moments)])
    return [statistics.median(part) for part in zip(*taken, strict=True)]


def measured(turns: int) -> list[tuple[str, int, int, int, float, float, float]]:
    """Measure the networks of features paper and of features plus at several batch sizes.

    Args:
        turns: Repetitions.

    Returns:
        Features, batch size, columns, networks, and what `step_seconds` gives.
    """
    shapes = [("paper", 194, 1), ("plus", 12, 3)]
    return [
        (features, batch_size, in_features, networks, *step_seconds(batch_size, in_features, networks, turns))
        for features, in_features, networks in shapes
        for batch_size in (256, 512, 2048, 8192)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the measurements."""
    options = parser(__doc__, paths=False)
    options.add_argument("--turns", type=whole_number(1), default=15, help="repetitions")
    turns = options.parse_args(arguments).turns
    rows = [
        [
            features,
            f"{batch_size:,}",
            f"{in_features}",
            f"{networks}",
            *(f"{s * 1e6:,.0f}" for s in both),
            f"{ratio:.2f}",
        ]
        for features, batch_size, in_features, networks, *both, ratio in measured(turns)
    ]
    header = ["features", "batch", "columns", "networks", "ours, us", "nn.Module, us", "ratio"]
    print_table("A training step, processor time of one core", header, rows)
    parts = [
        [f"{size:,}", *(f"{seconds * 1e6:,.0f}" for seconds in part_seconds(size, turns))] for size in (512, 2048, 8192)
    ]
    print_table("Parts of a step of features paper, us", ["batch", *PARTS], parts)


if __name__ == "__main__":
    run(main)
