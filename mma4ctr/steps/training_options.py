"""The options of a training in step 5, and the settings that follow from them."""

import argparse
from typing import Any

from mma4ctr.model.training_defaults import (
    EPOCHS,
    LOSSES,
    MOST_ROWS_TRAINED,
    PATIENCE,
    SCHEDULES,
    TRAINING,
    TrainSettings,
    default_epochs,
)
from mma4ctr.runtime.console import number_from_zero, positive_number, seed_number, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps.options import add_device_option


def batch_size_option(text: str) -> int:
    """Parse a batch size, where `auto` becomes 0, for argparse."""
    return 0 if text == "auto" else whole_number(1)(text)


def defaults_of(values: dict[str, Any]) -> str:
    """State the default of each feature set, for the help."""
    if values["paper"] == values["plus"]:
        return f"(default: {values['paper']})"
    return f"(default: {values['paper']}, or {values['plus']} with --features plus)"


def add_training_options(options: argparse.ArgumentParser) -> None:
    """Add the options of the training."""
    default = {name: defaults_of({kind: TRAINING[kind][name] for kind in TRAINING}) for name in TRAINING["paper"]}
    add = options.add_argument
    fewer = f"; with features plus and more than {MOST_ROWS_TRAINED // EPOCHS['plus']:,} training rows fewer"
    add("--epochs", type=whole_number(1), metavar="N", help=f"largest number of epochs {defaults_of(EPOCHS)}{fewer}")
    add(
        "--batch-size",
        type=batch_size_option,
        default="auto",
        metavar="N",
        help="rows; auto: a power of two from 256 (512 with cosine) to 8192, for at least 500 steps an epoch",
    )
    add(
        "--learning-rate",
        type=positive_number,
        metavar="RATE",
        help=f"Adam's rate in the first epochs {default['learning_rate']}",
    )
    add(
        "--schedule",
        choices=SCHEDULES,
        help=f"halving: every few epochs; cosine: down to 0 at the last epoch {default['schedule']}",
    )
    add(
        "--halve-every",
        type=whole_number(0),
        metavar="N",
        help=f"epochs between halvings; 0: no halving {default['halve_every']}",
    )
    add(
        "--patience",
        type=whole_number(0),
        metavar="N",
        help="stop after N epochs without a better validation AUC and keep the best epoch; 0: train all epochs and "
        f"keep the last {defaults_of(PATIENCE)}",
    )
    add(
        "--max-interrupts",
        type=whole_number(0),
        metavar="N",
        help=f"stop after N validation interrupts; 0: never interrupt {default['max_interrupts']}",
    )
    add("--loss", choices=LOSSES, default="bce", help="listwise: a softmax over the batch, as published")
    add("--seed", type=seed_number, default=0, help="seed of the weights and of the order of rows")
    add(
        "--networks",
        type=whole_number(1, 1000),
        metavar="N",
        help=f"networks that are trained together and averaged {default['networks']}",
    )
    add(
        "--weight-decay",
        type=number_from_zero,
        metavar="RATE",
        help=f"decay of the first layer's weights, decoupled from Adam {default['weight_decay']}",
    )
    add_device_option(options)


def training_settings(arguments: argparse.Namespace, train_rows: int) -> TrainSettings:
    """Return the settings of the command line, with the defaults of the feature set for missing options.

    Raises:
        UserError: An option has no effect beside the others.
    """
    features = arguments.features
    given = {name: getattr(arguments, name) for name in TRAINING[features]}
    if given["halve_every"] and (given["schedule"] or TRAINING[features]["schedule"]) != "halving":
        raise UserError("--halve-every: the schedule cosine has no halvings; add --schedule halving")
    return TrainSettings(
        epochs=arguments.epochs or default_epochs(features, train_rows),
        batch_size=arguments.batch_size,
        patience=PATIENCE[features] if arguments.patience is None else arguments.patience,
        loss=arguments.loss,
        seed=arguments.seed,
        **TRAINING[features] | {name: value for name, value in given.items() if value is not None},
    )
