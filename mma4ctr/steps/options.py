"""The options that several scripts share: data sets, tasks, variants, features, bad lines and device."""

import argparse

from mma4ctr.data.interactions import interactions_artifact
from mma4ctr.datasets import BUILT_IN, TASKS, chosen_datasets, known_datasets, split_task, tasks_of
from mma4ctr.features.scaling import SCALINGS
from mma4ctr.features.variants import FEATURES
from mma4ctr.runtime.console import parser, unknown_name, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.ray_cluster import add_ray_option
from mma4ctr.storage.paths import Paths

# Devices of trainings on a Ray cluster, each of which sees the GPU that it was given only.
RAY_DEVICES = ("auto", "cpu", "cuda")


def add_dataset_option(options: argparse.ArgumentParser) -> None:
    """Add `--dataset` to a script that reads raw files."""
    options.add_argument(
        "--dataset",
        nargs="+",
        metavar="D",
        default=[],
        help="data sets (default: all that path.json names and whose files exist)",
    )


def add_bad_lines_option(options: argparse.ArgumentParser) -> None:
    """Add `--skip-bad-lines`."""
    options.add_argument(
        "--skip-bad-lines", type=whole_number(0), default=0, metavar="N", help="skip up to N bad lines"
    )


def add_task_options(options: argparse.ArgumentParser) -> None:
    """Add `--dataset` and `--task` to a script that works on the tasks of prepared data sets."""
    options.add_argument(
        "--dataset", nargs="+", metavar="D", default=[], help="only tasks of these data sets (default: all)"
    )
    defaults = " ".join(f"{kind.name}_{target}" for kind in BUILT_IN.values() for target in kind.default_targets)
    options.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="T",
        help=f"tasks: {', '.join(TASKS)}, and those of described data sets (default: {defaults} and those of "
        "described data sets, for each data set that step 1 has prepared)",
    )


def add_variant_option(options: argparse.ArgumentParser, variants: dict[str, tuple[str, ...]], default: str) -> None:
    """Add `--variant`.

    Args:
        options: The parser.
        variants: The variants of the published study that the help lists.
        default: A name, or `all`.
    """
    options.add_argument(
        "--variant",
        nargs="+",
        default=[default],
        metavar="V",
        help=f"variants: {', '.join(variants)}, or those of a described data set; all; or default, the concatenation "
        f"of all modalities, such as vat_concat (default: {default})",
    )


def add_features_option(options: argparse.ArgumentParser) -> None:
    """Add `--features`."""
    options.add_argument(
        "--features",
        choices=FEATURES,
        default="paper",
        help="paper: the columns of the published study; plus: in their place biases, rates, content factors and "
        "residual SVDs, estimated out of fold from the training rows",
    )


def parse_matrix_options(
    description: str | None, variants: dict[str, tuple[str, ...]], default: str
) -> argparse.Namespace:
    """Parse the command line of one of the two scripts of step 4.

    Args:
        description: The docstring of the script, for its help.
        variants: Variants of the published study that the script makes, for its help.
        default: The default of `--variant`.

    Returns:
        The options.
    """
    options = parser(description)
    add_task_options(options)
    add_variant_option(options, variants, default)
    add_features_option(options)
    options.add_argument(
        "--scaling", choices=SCALINGS, default="zscore", help="fitted on training rows; minmax: as published"
    )
    add_ray_option(options, "the blocks of features plus")
    return options.parse_args()


def add_runs_options(options: argparse.ArgumentParser, kind: str, seeds: int) -> None:
    """Add `--seeds` and `--jobs` to a script that trains many runs.

    Args:
        options: The parser.
        kind: What is trained with each seed, such as `case`.
        seeds: The default number of seeds.
    """
    options.add_argument(
        "--seeds",
        type=whole_number(1, 10_000),
        default=seeds,
        metavar="N",
        help=f"runs of each {kind}, with seeds 0 to N - 1",
    )
    options.add_argument(
        "--jobs",
        type=whole_number(1, 1000),
        metavar="N",
        help="number of processes (default: one per core, one on CUDA)",
    )


def add_device_option(options: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    options.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: CUDA if available, else cpu")


def check_ray_options(arguments: argparse.Namespace) -> None:
    """Raise `UserError` if `--jobs` or `--device` do not fit with `--ray`."""
    if arguments.ray and arguments.jobs:
        raise UserError("--jobs: the Ray cluster of --ray decides how many run at a time; leave out --jobs")
    if arguments.ray and arguments.device not in RAY_DEVICES:
        raise UserError(f"--device {arguments.device}: with --ray one of {', '.join(RAY_DEVICES)}")


def chosen_tasks(paths: Paths, arguments: argparse.Namespace) -> list[str]:
    """Return the tasks to work on.

    Args:
        paths: The folders.
        arguments: The parsed `--dataset` and `--task`.

    Returns:
        The tasks that were named, or the default tasks of the data sets that step 1 has prepared.

    Raises:
        UserError: A data set or task is unknown, or no data set is prepared.
    """
    kinds = chosen_datasets(paths, arguments.dataset)
    known = tasks_of(known_datasets(paths).values())
    for task in arguments.task:
        if task not in known:
            raise unknown_name("task", task, known)
    if arguments.task:
        for task in arguments.task:
            if split_task(task)[0] not in kinds:
                raise UserError(
                    f"--task {task}: is not a task of --dataset {' '.join(arguments.dataset)}; leave one of the two out"
                )
        return list(arguments.task)
    tasks: list[str] = []
    for dataset, kind in kinds.items():
        if (paths.graph / dataset).is_dir():
            tasks.extend(f"{dataset}_{target}" for target in kind.default_targets)
        elif arguments.dataset:
            interactions_artifact(paths, dataset)
    if not tasks:
        raise UserError(f"{paths.graph}: contains no prepared data set; run preprocess_inter.py first")
    return tasks
