"""The settings of a training in step 5, and their defaults for each feature set.

Without torch, so that scripts parse their options before it is loaded.
"""

from dataclasses import dataclass
from typing import Any

LOSSES = ("bce", "listwise")
# `halving`: every few epochs, as published. `cosine`: from the initial rate to 0 over all epochs.
SCHEDULES = ("halving", "cosine")

# The few columns of features plus need few passes. On validation rows of the demo's tasks and of kuairand-real a cosine
# schedule over 6 epochs was as good as or better than 10 and 15 epochs, and than halving the rate whenever validation
# AUC stopped improving, in half the time. Batches of 512 were as good as 256 or better. Three networks together stay
# below 40,000 parameters. Decay of the first layer's weights keeps weak columns from adding noise, and allows a larger
# learning rate (docs/method.md has the measurements).
TRAINING: dict[str, dict[str, Any]] = {
    "paper": {
        "learning_rate": 1e-3,
        "schedule": "halving",
        "halve_every": 5,
        "max_interrupts": 10,
        "networks": 1,
        "weight_decay": 0.0,
    },
    "plus": {
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "halve_every": 0,
        "max_interrupts": 10,
        "networks": 3,
        "weight_decay": 0.5,
    },
}
EPOCHS = {"paper": 30, "plus": 6}
# Training rows that features plus are trained on by default, counted once for each epoch. On 11 million rows of
# simulated KuaiVideo 1, 2 and 6 epochs gave a test AUC of 0.7871, 0.7872 and 0.7873.
MOST_ROWS_TRAINED = 120_000_000
# At the end of a cosine schedule the rate is 0, and the last weights are best in LogLoss too.
PATIENCE = {"paper": 5, "plus": 0}
SMALLEST_BATCH = {"halving": 256, "cosine": 512}
# The automatic batch size gives at least this many steps an epoch, as the study's 8192 did on its data.
STEPS_PER_EPOCH = 500


@dataclass(frozen=True)
class TrainSettings:
    """How one run is trained.

    Attributes:
        epochs: Largest number of epochs.
        batch_size: Rows of a batch.
        learning_rate: Adam's initial learning rate.
        schedule: One of `SCHEDULES`.
        halve_every: Epochs after which schedule `halving` halves the rate; 0 never.
        patience: Stop after this many epochs without a better validation AUC, and keep the weights of the best epoch; 0
            trains all epochs and keeps the last weights.
        max_interrupts: Stop after this many validation interrupts; 0 disables them.
        loss: One of `LOSSES`.
        seed: Of the first weights and the order of the rows.
        networks: Number of networks that train on the same batches; the prediction is their mean logit.
        weight_decay: Each step multiplies the weights of the first layer by 1 - learning rate x weight decay.
    """

    epochs: int = 30
    batch_size: int = 512
    learning_rate: float = 1e-3
    schedule: str = "halving"
    halve_every: int = 5
    patience: int = 5
    max_interrupts: int = 10
    loss: str = "bce"
    seed: int = 0
    networks: int = 1
    weight_decay: float = 0.0


def default_epochs(features: str, train_rows: int) -> int:
    """The largest number of epochs of a feature set; fewer with features plus and very many training rows."""
    if features == "paper":
        return EPOCHS[features]
    return min(EPOCHS[features], max(1, MOST_ROWS_TRAINED // max(train_rows, 1)))


def automatic_batch_size(train_rows: int, smallest: int = 256) -> int:
    """The largest power of two from `smallest` to 8192 that gives at least 500 steps an epoch."""
    return min(8192, max(smallest, 1 << max(0, (train_rows // STEPS_PER_EPOCH).bit_length() - 1)))


def default_batch_size(schedule: str, train_rows: int) -> int:
    """The batch size for a learning rate schedule and a number of training rows."""
    return automatic_batch_size(train_rows, SMALLEST_BATCH[schedule])
