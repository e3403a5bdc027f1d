"""Training defaults of step 5 for each feature set."""

from typing import Any

from mma4ctr.model.mlp import automatic_batch_size

# The few columns of features plus need few passes. On validation rows of the demo's tasks and of kuairand-real a cosine
# schedule over 6 epochs was as good as or better than 10 and 15 epochs, and than halving the rate whenever validation
# AUC stopped improving, in half the time. Batches of 512 were as good as 256 or better. Three networks together stay
# below 40,000 parameters.
TRAINING: dict[str, dict[str, Any]] = {
    "paper": {"learning_rate": 1e-3, "schedule": "halving", "halve_every": 5, "max_interrupts": 10, "networks": 1},
    "plus": {"learning_rate": 2e-3, "schedule": "cosine", "halve_every": 0, "max_interrupts": 10, "networks": 3},
}
EPOCHS = {"paper": 30, "plus": 6}
# At the end of a cosine schedule the rate is 0, and the last weights are best in LogLoss too.
PATIENCE = {"paper": 5, "plus": 0}
SMALLEST_BATCH = {"halving": 256, "cosine": 512}


def default_batch_size(schedule: str, train_rows: int) -> int:
    """The batch size for a learning rate schedule and a number of training rows."""
    return automatic_batch_size(train_rows, SMALLEST_BATCH[schedule])
