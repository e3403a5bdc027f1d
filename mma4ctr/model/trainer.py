"""The network's training: Adam on logits, halving, the validation interrupt, early stop.

An epoch that ends with validation AUC of 0.5 or less, or a loss that is not finite, is thrown away and tried again with
half the rate (the validation interrupt). Test rows are not looked at here.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn import functional

from mma4ctr.features.feature_matrix import FactorMatrix
from mma4ctr.model.distributed import SINGLE_PROCESS, ProcessGroup
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Adam, Network, initial_weights, loss_and_gradient, torch_threads
from mma4ctr.runtime.console import Stopwatch

LOSSES = ("bce", "listwise")
INTERRUPTS = ("collapse", "no-gain")
# Rows of a batch that a thread is worth. Threads wait for each other, spinning, after each of a batch's many small
# products. At batches of 256 and 512 two were 0.8 to 1.2 times as fast as one, and ten times slower where other work
# kept the cores busy; at 8192 they are 1.5 times as fast.
ROWS_OF_A_THREAD = 1024


# From labels and logits of the validation rows to their AUC; None where they have one class.
Metric = Callable[[np.ndarray, np.ndarray], float | None]


@dataclass(frozen=True)
class TrainSettings:
    """How one run is trained. 0 turns `halve_every`, `patience` and `max_interrupts` off; with `patience` 0 the
    last epoch's weights are the result, else those of the epoch with the best validation AUC. `networks` of them learn
    side by side from different first weights, and their mean logit is the result. `interrupt` is what makes the
    validation interrupt throw an epoch away: a `collapse` to AUC 0.5 or less, or `no-gain` over the best epoch.
    """

    epochs: int = 30
    batch_size: int = 512
    learning_rate: float = 1e-3
    halve_every: int = 5
    patience: int = 5
    max_interrupts: int = 10
    loss: str = "bce"
    seed: int = 0
    networks: int = 1
    interrupt: str = "collapse"


def learning_rate_at(epoch: int, settings: TrainSettings, interrupts: int) -> float:
    """The rate of an epoch (the first is 0): halved every `halve_every` epochs and at every interrupt."""
    halvings = interrupts + (epoch // settings.halve_every if settings.halve_every else 0)
    return settings.learning_rate * 0.5**halvings


@torch.no_grad()
def train_epoch(
    network: Network,
    adam: Adam,
    matrix: FactorMatrix,
    settings: TrainSettings,
    epoch: int,
    rate: float,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> float:
    """One pass over the training rows in an order drawn from seed and epoch; returns the mean loss of its rows.

    Each rank takes its share of every batch.
    """
    rows = matrix.train
    device = rows.label.device
    generator = torch.Generator(device).manual_seed(settings.seed * 1_000_003 + epoch)
    order = torch.randperm(len(rows), generator=generator, device=device)
    total = torch.zeros((), device=device)
    buffer = matrix.user_part.new_empty(min(settings.batch_size, len(rows)), matrix.in_features)
    for start in range(0, len(rows), settings.batch_size):
        stop = min(start + settings.batch_size, len(rows))
        batch = order[processes.share(start, stop)]
        features = rows.features(matrix, batch, buffer)
        if len(features):
            loss, gradient = loss_and_gradient(settings.loss, network.forward(features), rows.label[batch])
            network.backward(features, gradient.mul_(len(features) / (stop - start)))
            total += loss * len(features)
        else:
            network.gradient.zero_()
        adam.step(network.parameters, processes.sum_(network.gradient), rate)
    return float(processes.sum_(total)) / len(rows)


@dataclass
class Epoch:
    """What one kept epoch showed."""

    epoch: int
    learning_rate: float
    train_loss: float
    valid_loss: float
    valid_auc: float


@dataclass
class Outcome:
    """A training as it stands after some number of epochs; `weights` is None where no epoch was good."""

    settings: TrainSettings
    weights: dict[str, torch.Tensor] | None
    best_epoch: int
    interrupts: int
    history: list[Epoch]
    seconds: float
    rows_per_second: float
    ended: str = ""


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

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        label = self.matrix.train.label
        seed = self.settings.seed + self.fresh_starts
        weights = initial_weights(self.matrix.in_features, float(label.mean()), seed, self.settings.networks)
        self.network = Network({name: values.to(label.device) for name, values in weights.items()})
        self.adam = Adam(self.network.parameters)
        self._good: tuple[torch.Tensor, Adam] | None = None

    def try_epoch(self) -> bool:
        """Train the next epoch; False where the validation interrupt threw it away."""
        epoch = len(self.history)
        rate = learning_rate_at(epoch, self.settings, self.interrupts)
        watch = Stopwatch()
        with torch_threads(self.settings.batch_size // ROWS_OF_A_THREAD):
            train_loss = train_epoch(self.network, self.adam, self.matrix, self.settings, epoch, rate, self.processes)
        self.epoch_seconds += watch.seconds
        found = self._validate(train_loss) if self.processes.first else (0.0, 0.0)
        valid_loss, valid_auc = self.processes.broadcast(found, self.matrix.valid.label.device)
        floor = self.best.valid_auc if self.best and self.settings.interrupt == "no-gain" else 0.5
        if self.settings.max_interrupts and valid_auc <= floor:
            self._interrupt()
            return False
        shown = Epoch(epoch + 1, rate, train_loss, valid_loss, valid_auc)
        self.history.append(shown)
        self._good = self.network.parameters.clone(), copy.deepcopy(self.adam)
        if not self.settings.patience or self.best is None or valid_auc > self.best.valid_auc:
            self.best, self.best_weights = shown, self.network.state()
        return True

    def _validate(self, train_loss: float) -> tuple[float, float]:
        """Mean loss and AUC of the validation rows; AUC 0.5 where a loss is not finite."""
        valid = self.matrix.valid
        logits, _ = predict(self.network, self.matrix, valid)
        valid_loss = float(functional.binary_cross_entropy_with_logits(logits, valid.label))
        if not (math.isfinite(train_loss) and math.isfinite(valid_loss)):
            return valid_loss, 0.5
        return valid_loss, self.auc(valid.label.cpu().numpy(), logits.cpu().numpy()) or 0.5

    def _interrupt(self) -> None:
        self.interrupts += 1
        if self._good:
            self.network.parameters.copy_(self._good[0])
            self.adam = copy.deepcopy(self._good[1])
        else:
            self.fresh_starts += 1
            self._start()

    @property
    def ended(self) -> str:
        """Why training is over before its last epoch; empty where it goes on."""
        if self.settings.max_interrupts and self.interrupts >= self.settings.max_interrupts:
            if self.settings.interrupt == "no-gain" and self.best:
                return f"ended after {self.interrupts} interrupts: validation AUC no longer improves at any rate"
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
    """Train once; return the outcome at each checkpoint, a number of epochs (`settings.epochs` where none is given).

    A run of 10 epochs is the beginning of a run of 30, so the outcome at checkpoint 10 is exactly that of a run of its
    own. Seconds count the passes over the training rows up to the checkpoint.
    """
    checkpoint_epochs = sorted(set(checkpoint_epochs)) or [settings.epochs]
    training = TrainingState(matrix, settings, auc, processes)
    outcomes = []
    for checkpoint in checkpoint_epochs:
        while len(training.history) < checkpoint and not training.ended:
            if training.try_epoch():
                on_epoch(training.history[-1])
        seen = (len(training.history) + training.interrupts) * len(matrix.train)
        seconds = training.epoch_seconds
        outcomes.append(
            Outcome(
                settings=replace(settings, epochs=checkpoint),
                weights=training.best_weights,
                best_epoch=training.best.epoch if training.best else 0,
                interrupts=training.interrupts,
                history=list(training.history),
                seconds=seconds,
                rows_per_second=seen / seconds if seconds else 0.0,
                ended=training.ended,
            )
        )
    return outcomes
