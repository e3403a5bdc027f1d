"""Training on a GPU beside the CPU: do both learn the same, and how many rows a second does each train?

One epoch of each feature set is trained on both devices from the same first weights, on drawn rows whose labels depend
on the features; the orders of the rows differ, because each device draws its own. Then the rows a second of an epoch at
two batch sizes: on the CPU, on the GPU with the steps of `mma4ctr.model.trainer`, and with one step captured as a CUDA
graph, which is launched at once and so does not wait for Python between its kernels.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --rows 20000    # tries the script where there is no GPU; no graph
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import mma4ctr.runtime.environment

import torch

from benchmarks.waiting import drawn_matrix
from mma4ctr.evaluation.metrics import auc
from mma4ctr.features.feature_matrix import FactorMatrix, Pairs, RowGroup
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Adam, Network, initial_weights, loss_and_gradient, torch_threads
from mma4ctr.model.trainer import ROWS_OF_A_THREAD, Learner, batches, train_epoch
from mma4ctr.model.training_defaults import TRAINING, TrainSettings
from mma4ctr.runtime.console import note, parser, print_table, run, whole_number
from mma4ctr.runtime.errors import UserError

ROWS, TEST_ROWS = 2_000_000, 200_000
BATCH_SIZES = (512, 8192)
# Largest difference of AUC between the devices after an epoch.
MOST_DIFFERENCE = 1e-3
# The published training of tiktok_like, whose length in epochs and rows is not stated beside it.
PUBLISHED = "The published study trained MMa4CTR on tiktok_like in 163.8 s on an RTX 3090."


def matrix_with_signal(features: str, rows: int) -> FactorMatrix:
    """A drawn matrix whose labels depend on the features; the last rows are the test rows.

    Args:
        features: `paper` or `plus`.
        rows: Number of training rows.
    """
    matrix = drawn_matrix(features, rows + TEST_ROWS)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(matrix.in_features, generator=generator) / matrix.in_features**0.5
    logit = torch.cat(
        [matrix.train.features(matrix, part) @ direction for part in torch.arange(len(matrix.train)).split(1 << 16)]
    )
    label = torch.bernoulli(torch.sigmoid(2 * logit - 1), generator=generator).byte()
    train = matrix.train

    def group(part: slice) -> RowGroup:
        return RowGroup(train.rows[part], train.user_row[part], train.item_row[part], label[part])

    return replace(matrix, train=group(slice(rows)), test=group(slice(rows, None)))


def on_device(matrix: FactorMatrix, device: torch.device) -> FactorMatrix:
    """The same matrix with its tensors on a device."""

    def moved(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device)
        if isinstance(value, tuple):
            return tuple(map(moved, value))
        if isinstance(value, (RowGroup, Pairs)):
            return replace(value, **{one.name: moved(getattr(value, one.name)) for one in fields(value)})
        return value

    return replace(matrix, **{one.name: moved(getattr(matrix, one.name)) for one in fields(matrix)})


def first_learner(matrix: FactorMatrix, networks: int) -> Learner:
    """A learner with the first weights of seed 0, the same on every device."""
    weights = initial_weights(matrix.in_features, 0.3, 0, networks)
    network = Network({name: values.to(matrix.user_part.device) for name, values in weights.items()})
    return Learner(network, Adam(network.parameters))


def auc_after_an_epoch(features: str, matrix: FactorMatrix) -> float:
    """Train one epoch and return the AUC of the test rows."""
    settings = TrainSettings(epochs=1, batch_size=512, **TRAINING[features])
    learner = first_learner(matrix, settings.networks)
    with torch_threads(settings.batch_size // ROWS_OF_A_THREAD):  # as step 5 trains on a CPU
        train_epoch(learner, matrix, settings, 0)
    logits, _ = predict(learner.network, matrix, matrix.test)
    return auc(matrix.test.label.cpu().numpy(), logits.cpu().numpy()) or 0.5


def rows_per_second(work: Callable[[], object], rows: int, device: torch.device) -> float:
    """Rows a second of an epoch, after one that warms up."""
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return rows / taken[-1]


class CapturedSteps:
    """Epochs whose training step is one CUDA graph.

    A graph repeats the same kernels on the same memory. So the positions of the batch, the learning rate and the bias
    corrections of Adam lie in tensors that are filled before each launch.

    Args:
        matrix: On the GPU.
        settings: Batch size, learning rate, weight decay and number of networks are used.
    """

    def __init__(self, matrix: FactorMatrix, settings: TrainSettings) -> None:
        self._matrix, self._settings = matrix, settings
        device = matrix.user_part.device
        self._learner = first_learner(matrix, settings.networks)
        self._batch = torch.arange(settings.batch_size, device=device)
        self._buffer = matrix.user_part.new_empty(settings.batch_size, matrix.in_features)
        # A size of 0 and a share of 1 keep the first weights while libraries warm up.
        self._size = torch.zeros((), device=device)
        self._correction, self._kept = (torch.ones((), device=device) for _ in range(2))
        self._generator = torch.Generator(device).manual_seed(0)
        with torch.no_grad():
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(3):  # libraries allocate their workspaces before the capture
                    self._step()
            torch.cuda.current_stream(device).wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step()
        for moments in (self._learner.adam.mean, self._learner.adam.square):
            moments.zero_()

    def _step(self) -> None:
        rows, network, adam = self._matrix.train, self._learner.network, self._learner.adam
        features = rows.features(self._matrix, self._batch, self._buffer)
        _, gradient = loss_and_gradient("bce", network.forward(features), rows.label[self._batch].float())
        network.backward(features, gradient)
        adam.mean.lerp_(network.gradient, 1 - Adam.BETA1)
        adam.square.mul_(Adam.BETA2).addcmul_(network.gradient, network.gradient, value=1 - Adam.BETA2)
        root = adam.square.sqrt().div_(self._correction).add_(Adam.EPSILON)
        network.weights[0].mul_(self._kept)
        network.parameters.sub_(adam.mean / root * self._size)

    def epoch(self) -> None:
        """Train one epoch without its last, smaller batch."""
        adam, settings = self._learner.adam, self._settings
        self._kept.fill_(1 - settings.learning_rate * settings.weight_decay)
        for batch in batches(len(self._matrix.train), settings.batch_size, self._generator):
            if len(batch) < settings.batch_size:
                break
            adam.steps += 1
            self._batch.copy_(batch)
            self._size.fill_(settings.learning_rate / (1 - Adam.BETA1**adam.steps))
            self._correction.fill_((1 - Adam.BETA2**adam.steps) ** 0.5)
            self._graph.replay()

    def auc(self) -> float:
        """AUC of the test rows."""
        logits, _ = predict(self._learner.network, self._matrix, self._matrix.test)
        return auc(self._matrix.test.label.cpu().numpy(), logits.cpu().numpy()) or 0.5


def speeds(features: str, matrix: FactorMatrix, captured: bool) -> list[list[str]]:
    """Rows of the table of speeds: device, batch size, rows a second."""
    device, rows = matrix.user_part.device, len(matrix.train)
    made = []
    for batch_size in BATCH_SIZES:
        settings = TrainSettings(epochs=1, batch_size=batch_size, **TRAINING[features])
        learner = first_learner(matrix, settings.networks)
        with torch_threads(batch_size // ROWS_OF_A_THREAD):
            eager = rows_per_second(partial(train_epoch, learner, matrix, settings, 0), rows, device)
        made.append([features, f"{device.type}, steps", f"{batch_size:,}", f"{eager:,.0f}"])
        if captured:
            steps = CapturedSteps(matrix, settings)
            fast = rows_per_second(steps.epoch, rows, device)
            made.append([features, f"{device.type}, graph", f"{batch_size:,}", f"{fast:,.0f}"])
            note(f"{features}, batch {batch_size:,}, graph: test AUC {steps.auc():.4f} after two epochs")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; returns 1 if the devices differ by more than the bar."""
    options = parser(__doc__, paths=False)
    options.add_argument("--rows", type=whole_number(10_000), default=ROWS, help="training rows")
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="the device beside the CPU")
    given = options.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device; --device cpu tries the script without one")
    device = torch.device(given.device)
    agreement, fast = [], []
    worst = 0.0
    for features in ("paper", "plus"):
        matrix = matrix_with_signal(features, given.rows)
        moved = on_device(matrix, device)
        own, other = auc_after_an_epoch(features, matrix), auc_after_an_epoch(features, moved)
        worst = max(worst, abs(own - other))
        agreement.append([features, f"{own:.4f}", f"{other:.4f}", f"{abs(own - other):.5f}"])
        fast += speeds(features, matrix, captured=False)
        if device.type == "cuda":
            fast += speeds(features, moved, captured=True)
    print_table("Test AUC after one epoch", ["features", "cpu", device.type, "difference"], agreement)
    print_table("Speed of training", ["features", "device", "batch", "rows/s"], fast)
    note(PUBLISHED)
    return 0 if worst <= MOST_DIFFERENCE else 1


if __name__ == "__main__":
    run(main)
