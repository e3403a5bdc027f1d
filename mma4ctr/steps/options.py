"""The options that several scripts have in common: data sets, tasks, variants and feature sets."""

import argparse

from mma4ctr.data.interactions import interactions_artifact
from mma4ctr.datasets import BUILT_IN, TASKS, chosen_datasets, known_datasets, split_task, tasks_of
from mma4ctr.features.variants import FEATURES
from mma4ctr.runtime.console import unknown_name
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import Paths


def add_task_options(options: argparse.ArgumentParser) -> None:
    """`--dataset` and `--task`."""
    options.add_argument("--dataset", nargs="+", metavar="D", default=[], help="only tasks of these")
    defaults = " ".join(f"{kind.name}_{target}" for kind in BUILT_IN.values() for target in kind.default_targets)
    options.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="T",
        help=f"of {', '.join(TASKS)}, and of your own; none: {defaults} and your own, where there is data",
    )


def add_variant_option(options: argparse.ArgumentParser, variants: dict[str, tuple[str, ...]], default: str) -> None:
    """`--variant`; `default` is a name, or `all`."""
    options.add_argument(
        "--variant",
        nargs="+",
        default=[default],
        metavar="V",
        help=f"all, default (the widest concatenation: vat_concat), or of {', '.join(variants)}; of your own data, of "
        "its modalities",
    )


def add_features_option(options: argparse.ArgumentParser) -> None:
    """`--features`."""
    options.add_argument(
        "--features",
        choices=FEATURES,
        default="paper",
        help="the study's, or plus: what the training rows say of user, item and pair",
    )


def chosen_tasks(paths: Paths, arguments: argparse.Namespace) -> list[str]:
    """The tasks that were named, or the default ones of the data sets that step 1 has prepared."""
    kinds = chosen_datasets(paths, arguments.dataset)
    there = tasks_of(known_datasets(paths).values())
    for task in arguments.task:
        if task not in there:
            raise unknown_name("task", task, there)
    if arguments.task:
        return [task for task in arguments.task if split_task(task)[0] in kinds]
    tasks: list[str] = []
    for dataset, kind in kinds.items():
        if (paths.graph / dataset).is_dir():
            tasks.extend(f"{dataset}_{target}" for target in kind.default_targets)
        elif arguments.dataset:
            interactions_artifact(paths, dataset)
    if not tasks:
        raise UserError(f"{paths.graph}: holds no data set yet; run preprocess_inter.py first")
    return tasks
