"""Training of the network: Adam on logits, learning rate schedule, validation interrupt, early stop.

Weight decay of the first layer is decoupled from Adam's step, as in AdamW (Loshchilov and Hutter 2019).

The validation interrupt: an epoch that ends with a validation AUC of 0.5 or less, or a loss that is not finite, is
discarded and tried again at half the learning rate, from new weights if no epoch was kept yet. Test rows are not used
here.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn import functional

from mma4ctr.features.feature_matrix import FactorMatrix, RowGroup
from mma4ctr.model.distributed import SINGLE_PROCESS, ProcessGroup
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Adam, Network, initial_weights, loss_and_gradient, torch_threads
from mma4ctr.model.training_defaults import TrainSettings
from mma4ctr.runtime.console import Stopwatch

# Rows of a batch for each thread. Threads wait for each other, spinning, after each of a batch's many small
# products. At batches of 256 and 512 two were 0.8 to 1.2 times as fast as one, and ten times slower beside other work;
# at 8192 they are 1.5 times as fast.
ROWS_OF_A_THREAD = 1024
# Rows that are permuted at once, and rows of a run where there are more; see `batches`.
SHUFFLED_AT_ONCE, RUN = 1 << 24, 1 << 12


Batches = Sequence[torch.Tensor]

# From labels and logits of the validation rows to their AUC; None if they have one class.
Metric = Callable[[np.ndarray, np.ndarray], float | None]


def learning_rate_at(progress: float, settings: TrainSettings, interrupts: int) -> float:
    """The learning rate after `progress` epochs, a fraction within an epoch; every interrupt halves it."""
    rate = settings.learning_rate * 0.5**interrupts
    if settings.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * progress / settings.epochs))
    return rate * 0.5 ** (int(progress) // settings.halve_every if settings.halve_every else 0)


@dataclass
class Learner:
    """A network and its optimizer."""

    network: Network
    adam: Adam


def draws(rows: int, batch_size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor | None, Batches]]:
    """Draw the rows of an epoch, in portions that fit in memory, and their batches.

    Up to `SHUFFLED_AT_ONCE` rows are permuted as a whole. More rows are cut into runs of `RUN` rows that follow each
    other; the runs are drawn in random order, and the rows of as many runs as fit are permuted together. So memory does
    not grow with the rows, and a batch still holds rows of thousands of runs.

    Args:
        rows: Number of rows.
        batch_size: Rows of a batch; the last has what remains.
        generator: Of the order; its device holds the batches.

    Yields:
        int64 (portion,) positions of the rows that are drawn together, None for all rows in their order; and the
        batches, int64 (batch,) positions in the portion.
    """
    device = generator.device
    if rows <= SHUFFLED_AT_ONCE:
        yield None, torch.randperm(rows, generator=generator, device=device).split(batch_size)
        return
    runs = torch.randperm(-(-rows // RUN), generator=generator, device=device)
    left = runs.new_empty(0)
    within = torch.arange(RUN, device=device)
    for drawn in runs.split(SHUFFLED_AT_ONCE // RUN):
        found = (drawn[:, None] * RUN + within).flatten()
        found = torch.cat([left, found[found < rows]])
        *whole, last = torch.randperm(len(found), generator=generator, device=device).split(batch_size)
        yield found, whole
        left = found[last]
    yield left, [torch.arange(len(left), device=device)]


def batches(rows: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """The batches of an epoch as int64 (batch,) positions of rows; see `draws`."""
    for found, drawn in draws(rows, batch_size, generator):
        yield from drawn if found is None else (found[batch] for batch in drawn)


def _batches_of(
    group: RowGroup, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[RowGroup, torch.Tensor]]:
    """The batches of an epoch: the rows that are in memory, and int64 (batch,) positions among them."""
    for found, drawn in draws(len(group), batch_size, generator):
        rows = group if found is None else group.copied(found)
        yield from ((rows, batch) for batch in drawn)


@torch.no_grad()
def train_epoch(
    learner: Learner,
    matrix: FactorMatrix,
    settings: TrainSettings,
    epoch: int,
    interrupts: int = 0,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> float:
    """One pass over the training rows in an order drawn from seed and epoch.

    Args:
        learner: Network and optimizer, which change.
        matrix: The feature matrix.
        settings: Batch size, schedule, weight decay, loss and seed are used.
        epoch: Number of the epoch, from 0.
        interrupts: Validation interrupts so far.
        processes: Each process takes its share of every batch.

    Returns:
        The mean loss of the rows.
    """
    count, network = len(matrix.train), learner.network
    device = matrix.train.label.device
    generator = torch.Generator(device).manual_seed(settings.seed * 1_000_003 + epoch)
    total = torch.zeros((), device=device)
    buffer = matrix.user_part.new_empty(min(settings.batch_size, count), matrix.in_features)
    start = 0
    for rows, whole in _batches_of(matrix.train, settings.batch_size, generator):
        stop = start + len(whole)
        batch = whole[processes.share(0, len(whole))]
        features = rows.features(matrix, batch, buffer)
        if len(features):
            loss, gradient = loss_and_gradient(settings.loss, network.forward(features), rows.label[batch].float())
            network.backward(features, gradient.mul_(len(features) / (stop - start)))
            total += loss * len(features)
        else:
            network.gradient.zero_()
        rate = learning_rate_at(epoch + start / count, settings, interrupts)
        start = stop
        if settings.weight_decay:
            network.weights[0].mul_(max(0.0, 1 - rate * settings.weight_decay))
        learner.adam.step(network.parameters, processes.sum_(network.gradient), rate)
    return float(processes.sum_(total)) / count


@dataclass
class Epoch:
    """The measurements of one epoch that was kept; `epoch` counts from 1, `learning_rate` is the first of the epoch."""

    epoch: int
    learning_rate: float
    train_loss: float
    valid_loss: float
    valid_auc: float


@dataclass
class Outcome:
    """The result of a training after some number of epochs.

    Attributes:
        settings: How it was trained.
        weights: By name; None if no epoch was kept.
        best_epoch: The epoch of the weights, from 1; 0 without weights.
        interrupts: Number of validation interrupts.
        history: The epochs that were kept.
        seconds: Wall-clock of the passes over the training rows.
        rows_per_second: Of these passes, discarded epochs included.
        ended: Why training stopped before its last epoch; empty if it did not.
        processor_seconds: Of these passes, of all cores.
    """

    settings: TrainSettings
    weights: dict[str, torch.Tensor] | None
    best_epoch: int
    interrupts: int
    history: list[Epoch]
    seconds: float
    rows_per_second: float
    ended: str = ""
    processor_seconds: float = 0.0


@dataclass
class TrainingState:
    """The state of a run between epochs."""

    matrix: FactorMatrix
    settings: TrainSettings
    auc: Metric
    processes: ProcessGroup = SINGLE_PROCESS
    history: list[Epoch] = field(default_factory=list)
    interrupts: int = 0
    fresh_starts: int = 0
    best: Epoch | None = None
    best_weights: dict[str, torch.Tensor] | None = None
    epoch_seconds: float = 0.0
    processor_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        label = self.matrix.train.label
        seed = self.settings.seed + self.fresh_starts
        share = float(label.sum()) / len(label)
        weights = initial_weights(self.matrix.in_features, share, seed, self.settings.networks)
        network = Network({name: values.to(label.device) for name, values in weights.items()})
        self.learner = Learner(network, Adam(network.parameters))
        self._good: tuple[torch.Tensor, Adam] | None = None

    def try_epoch(self) -> bool:
        """Train the next epoch; False if the validation interrupt discarded it."""
        epoch = len(self.history)
        rate = learning_rate_at(epoch, self.settings, self.interrupts)
        watch, before = Stopwatch(), time.process_time()
        with torch_threads(self.settings.batch_size // ROWS_OF_A_THREAD):
            train_loss = train_epoch(self.learner, self.matrix, self.settings, epoch, self.interrupts, self.processes)
        self.epoch_seconds += watch.seconds
        self.processor_seconds += time.process_time() - before
        found = self._validate(train_loss) if self.processes.first else (0.0, 0.0)
        valid_loss, valid_auc = self.processes.broadcast(found, self.matrix.valid.label.device)
        if self.settings.max_interrupts and valid_auc <= 0.5:
            self._interrupt()
            return False
        shown = Epoch(epoch + 1, rate, train_loss, valid_loss, valid_auc)
        self.history.append(shown)
        self._good = self.learner.network.parameters.clone(), copy.deepcopy(self.learner.adam)
        better = not self.settings.patience or self.best is None or valid_auc > self.best.valid_auc
        if better and math.isfinite(valid_loss):
            self.best, self.best_weights = shown, self.learner.network.state()
        return True

    def _validate(self, train_loss: float) -> tuple[float, float]:
        """Mean loss and AUC of the validation rows; AUC 0.5 if a loss is not finite."""
        valid = self.matrix.valid
        logits, _ = predict(self.learner.network, self.matrix, valid)
        valid_loss = float(functional.binary_cross_entropy_with_logits(logits, valid.label.float()))
        if not (math.isfinite(train_loss) and math.isfinite(valid_loss)):
            return valid_loss, 0.5
        found = self.auc(valid.label.cpu().numpy(), logits.cpu().numpy())
        return valid_loss, 0.5 if found is None else found

    def _interrupt(self) -> None:
        self.interrupts += 1
        if self._good:
            self.learner.network.parameters.copy_(self._good[0])
            self.learner.adam = copy.deepcopy(self._good[1])
        else:
            self.fresh_starts += 1
            self._start()

    @property
    def ended(self) -> str:
        """Why training is over before its last epoch; empty if it goes on."""
        if self.settings.max_interrupts and self.interrupts >= self.settings.max_interrupts:
            return f"ended after {self.interrupts} interrupts: validation AUC fell to 0.5 or the loss was not finite"
        if self.best and self.settings.patience and len(self.history) - self.best.epoch >= self.settings.patience:
            return f"stopped early: validation AUC has not improved for {self.settings.patience} epochs"
        return ""


def train(
    matrix: FactorMatrix,
    settings: TrainSettings,
    auc: Metric,
    checkpoint_epochs: Sequence[int] = (),
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> list[Outcome]:
    """Train, and return the outcome at each checkpoint.

    With schedule `halving` a run of 10 epochs is the beginning of a run of 30, so one training gives all checkpoints.
    A `cosine` schedule depends on the number of epochs, so each checkpoint is a training of its own.

    Args:
        matrix: The feature matrix.
        settings: How to train.
        auc: Of the validation rows.
        checkpoint_epochs: Numbers of epochs; empty for `settings.epochs`.
        on_epoch: Called after each epoch that is kept.
        processes: Processes that share the work.

    Returns:
        Outcomes in ascending order of epochs. Seconds count the passes over the training rows up to the checkpoint.
    """
    checkpoint_epochs = sorted(set(checkpoint_epochs)) or [settings.epochs]
    if settings.schedule == "cosine":
        runs = [replace(settings, epochs=epochs) for epochs in checkpoint_epochs]
        return [_trained(TrainingState(matrix, run, auc, processes), [run.epochs], on_epoch)[0] for run in runs]
    return _trained(TrainingState(matrix, settings, auc, processes), checkpoint_epochs, on_epoch)


def _trained(
    training: TrainingState, checkpoint_epochs: Sequence[int], on_epoch: Callable[[Epoch], None]
) -> list[Outcome]:
    """Continue a training up to each checkpoint in turn."""
    outcomes = []
    for checkpoint in checkpoint_epochs:
        while len(training.history) < checkpoint and not training.ended:
            if training.try_epoch():
                on_epoch(training.history[-1])
        seen = (len(training.history) + training.interrupts) * len(training.matrix.train)
        seconds = training.epoch_seconds
        outcomes.append(
            Outcome(
                settings=replace(training.settings, epochs=checkpoint),
                weights=training.best_weights,
                best_epoch=training.best.epoch if training.best else 0,
                interrupts=training.interrupts,
                history=list(training.history),
                seconds=seconds,
                rows_per_second=seen / seconds if seconds else 0.0,
                ended=training.ended or ("" if training.best else "no epoch had a finite loss"),
                processor_seconds=training.processor_seconds,
            )
        )
    return outcomes
