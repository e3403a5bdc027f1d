"""Which tasks and variants a step works on: the options that steps 3 to 5 have in common."""

import argparse
from collections.abc import Callable, Iterable
from itertools import combinations

from mma4ctr.artifacts import read_artifact
from mma4ctr.console import Stopwatch, UserError, closing_line, note, parser, unknown_name
from mma4ctr.datasets import DATASETS, TASKS, split_task
from mma4ctr.matrix import SCALINGS
from mma4ctr.paths import Paths, load_paths

# Without --task: the tasks that the study reports, and finish, which it prepares.
DEFAULT_TARGETS = {"wechat": ("click",), "tiktok": ("like", "finish")}
CORE_MODALITIES = ("visual", "acoustic", "textual")
DEFAULT_VARIANT = "vat_concat"


def _mixed(kind: str) -> dict[str, tuple[str, ...]]:
    made = {}
    for size in (2, 3):
        for names in combinations(CORE_MODALITIES, size):
            made["".join(name[0] for name in names) + f"_{kind}"] = names
    return made


SINGLE: dict[str, tuple[str, ...]] = {name: (name,) for name in (*CORE_MODALITIES, "fused", "face")}
CONCAT = _mixed("concat")
CROSS = _mixed("cross")
VARIANTS = SINGLE | CONCAT | CROSS


def add_task_options(options: argparse.ArgumentParser) -> None:
    """`--dataset` and `--task`."""
    options.add_argument("--dataset", nargs="+", choices=DATASETS, default=[], help="only tasks of these")
    defaults = " ".join(f"{dataset}_{target}" for dataset, targets in DEFAULT_TARGETS.items() for target in targets)
    options.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="T",
        help=f"of {', '.join(TASKS)}; none: {defaults}, where there is data",
    )


def add_variant_option(options: argparse.ArgumentParser, variants: dict[str, tuple[str, ...]], default: str) -> None:
    """`--variant`; `default` is a name, or `all`."""
    options.add_argument(
        "--variant", nargs="+", default=[default], metavar="V", help=f"all, or of {', '.join(variants)}"
    )


def chosen_tasks(paths: Paths, arguments: argparse.Namespace) -> list[str]:
    """The tasks that were named, or the default ones of the data sets that step 1 has prepared."""
    for task in arguments.task:
        split_task(task)
    if arguments.task:
        return [task for task in arguments.task if not arguments.dataset or split_task(task)[0] in arguments.dataset]
    tasks: list[str] = []
    for dataset in arguments.dataset or DATASETS:
        if (paths.graph / dataset).is_dir():
            tasks.extend(f"{dataset}_{target}" for target in DEFAULT_TARGETS[dataset])
        elif arguments.dataset:
            read_artifact(paths.graph / dataset, "preprocess_inter.py")
    if not tasks:
        raise UserError(f"{paths.graph}: holds no data set yet; run preprocess_inter.py first")
    return tasks


def default_variant(modalities: Iterable[str]) -> str | None:
    """`vat_concat`, or where a modality is not there the first concatenation that can be made; None where none can."""
    made = [name for name in (DEFAULT_VARIANT, *CONCAT) if set(CONCAT[name]) <= set(modalities)]
    return made[0] if made else None


def chosen_variants(
    asked: list[str], variants: dict[str, tuple[str, ...]], modalities: list[str], task: str
) -> list[str]:
    """The variants of a step that are asked for and whose modalities are there.

    Variants that lack one are skipped by name; where the default one lacks one, the widest concatenation that can
    be made takes its place. Raises `UserError` for an unknown name, and where nothing is left.
    """
    for name in asked:
        if name not in (*variants, "all"):
            raise unknown_name("variant", name, ("all", *variants))
    found = []
    for name in variants if "all" in asked else asked:
        missing = [modality for modality in variants[name] if modality not in modalities]
        if not missing:
            found.append(name)
        elif "all" not in asked or not set(missing) & {"fused", "face"}:
            note(f"{task}: {name} is skipped, there is no {' and no '.join(missing)} modality")
    if not found and asked == [DEFAULT_VARIANT] and (other := default_variant(modalities)):
        found = [other]
        note(f"{task}: {other} takes its place")
    if not found:
        raise UserError(
            f"{task}: {', '.join(asked)}: not to be made from {', '.join(modalities)}; take another --variant"
        )
    return found


def matrices_main(
    description: str | None, variants: dict[str, tuple[str, ...]], default: str, write: Callable[..., list[str]]
) -> None:
    """The command line of both scripts of step 4.

    Args:
        write: from paths, task, the variants asked for and `scaling` to the names of the matrices written.
    """
    options = parser(description)
    add_task_options(options)
    add_variant_option(options, variants, default)
    options.add_argument(
        "--scaling", choices=SCALINGS, default="zscore", help="fitted on training rows; minmax: as published"
    )
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    tasks = chosen_tasks(paths, arguments)
    matrices = sum(len(write(paths, task, arguments.variant, scaling=arguments.scaling)) for task in tasks)
    closing_line(4, f"{paths.matrix} ({', '.join(tasks)})", matrices, watch, unit="matrices")
