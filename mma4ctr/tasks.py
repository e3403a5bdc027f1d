"""Which tasks and variants a step works on: the options that steps 3 to 5 have in common.

A data set's variants follow from its modalities: each alone, and all pairs, all triples and all of them together,
concatenated or crossed. This is the one place that makes their names: the modalities' first letters where no two are
the same (`vat_concat`, `va_cross`), else their names with + between them (`title+tags_cross`); all of more than three
are `all_concat` and `all_cross`.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mma4ctr.console import Stopwatch, UserError, closing_line, note, parser, unknown_name
from mma4ctr.datasets import BUILT_IN, TASKS, chosen_datasets, known_datasets, split_task, tasks_of
from mma4ctr.interactions import interactions_artifact
from mma4ctr.matrix import (
    FEATURES,
    SCALINGS,
    Factors,
    load_step_inputs,
    plus_factors,
    user_part,
    with_features,
    write_matrix,
)
from mma4ctr.paths import Paths, load_paths

CORE_MODALITIES = ("visual", "acoustic", "textual")
# What stands for the widest concatenation: of the study's data sets it is vat_concat.
DEFAULT_VARIANT = "default"
MIXED = ("concat", "cross")


@dataclass(frozen=True)
class Variants:
    """The variants of one data set by name, each with its modalities."""

    single: dict[str, tuple[str, ...]]
    concat: dict[str, tuple[str, ...]]
    cross: dict[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()

    @property
    def mixed(self) -> dict[str, tuple[str, ...]]:
        return self.concat | self.cross

    @property
    def all(self) -> dict[str, tuple[str, ...]]:
        return self.single | self.mixed

    def widest(self, modalities: Iterable[str]) -> str | None:
        """The concatenation of most of these modalities, the first of equals; where the data set has one modality
        only, that one; None where nothing can be made."""
        there = set(modalities)
        made = [name for name in (self.concat or self.single) if set(self.all[name]) <= there]
        return max(made, key=lambda name: len(self.all[name])) if made else None

    @property
    def default(self) -> str:
        """The variant that is taken where none is named."""
        return str(self.widest(name for names in self.all.values() for name in names))


def variants_of(modalities: Sequence[str], optional: Sequence[str] = ()) -> Variants:
    """The variants of a data set with these modalities; `optional` ones are used alone."""
    letters = {name[0].lower() for name in modalities}

    def name_of(names: tuple[str, ...]) -> str:
        if len(names) > 3:
            return "all"
        return "".join(name[0] for name in names) if len(letters) == len(modalities) else "+".join(names)

    sizes = [size for size in (2, 3, len(modalities)) if 2 <= size <= len(modalities)]
    mixes = [names for size in dict.fromkeys(sizes) for names in combinations(modalities, size)]
    concat, cross = ({f"{name_of(names)}_{kind}": names for names in mixes} for kind in MIXED)
    return Variants({name: (name,) for name in (*modalities, *optional)}, concat, cross, tuple(optional))


STUDY = variants_of(CORE_MODALITIES, ("fused", "face"))
SINGLE, CONCAT, CROSS = STUDY.single, STUDY.concat, STUDY.cross


def variants_for(paths: Paths, task: str) -> Variants:
    """The variants of a task's data set; raises `UserError` where path.json does not know it."""
    dataset, _ = split_task(task)
    if dataset in BUILT_IN:
        return STUDY
    (kind,) = chosen_datasets(paths, [dataset]).values()
    return variants_of([modality.name for modality in kind.modalities])


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


# How step 5 trains on a feature set where nothing else is asked for. What is made of the few columns of plus hangs on
# the training: one that suits 300,000 rows (1e-3, halved every fifth epoch: test AUC 0.8533 on tiktok-real, halved
# every second 0.8520) learns 100,000 by heart (0.8464 on wechat_click after 20 epochs, halved every second 0.8498). So
# the rate is halved whenever validation AUC does not improve, and that epoch is thrown away. Three networks together
# stay near 30,000 parameters; on wechat_click the mean of several was ahead of each by 0.0005 to 0.0015.
TRAINING: dict[str, dict[str, Any]] = {
    "paper": {"learning_rate": 1e-3, "halve_every": 5, "max_interrupts": 10, "interrupt": "collapse", "networks": 1},
    "plus": {"learning_rate": 2e-3, "halve_every": 0, "max_interrupts": 6, "interrupt": "no-gain", "networks": 3},
}


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


def chosen_variants(
    asked: list[str], known: Variants, variants: dict[str, tuple[str, ...]], modalities: list[str], task: str
) -> list[str]:
    """The variants of a step that are asked for and whose modalities are there.

    Variants that lack one are skipped by name; where the default one lacks one, the widest concatenation that can
    be made takes its place. Raises `UserError` for an unknown name, and where nothing is left.

    Args:
        known: all variants of the data set. variants: those of the step.
    """
    if not variants:
        note(f"{task}: has one modality, so there is nothing to mix")
        return []
    if DEFAULT_VARIANT in asked:
        asked = [known.default if name == DEFAULT_VARIANT else name for name in asked]
    for name in asked:
        if name not in (*variants, "all"):
            raise unknown_name("variant", name, ("all", DEFAULT_VARIANT, *variants))
    found = []
    for name in variants if "all" in asked else asked:
        missing = [modality for modality in variants[name] if modality not in modalities]
        if not missing:
            found.append(name)
        elif "all" not in asked or not set(missing) & set(known.optional):
            note(f"{task}: {name} is skipped, there is no {' and no '.join(missing)} modality")
    if not found and asked == [known.default] and (other := known.widest(modalities)):
        found = [other]
        note(f"{task}: {other} takes its place")
    if not found:
        raise UserError(
            f"{task}: {', '.join(asked)}: not to be made from {', '.join(modalities)}; take another --variant"
        )
    return found


def content_modalities(known: Variants, variant: str, there: Sequence[str]) -> tuple[str, ...]:
    """The modalities that features plus see of a variant: its own; of the widest, the optional ones that are there too,
    which no concatenation holds."""
    modalities = known.all[variant]
    if variant == known.widest(there):
        modalities += tuple(other for other in known.optional if other in there)
    return modalities


def write_variants(
    paths: Paths,
    task: str,
    asked: list[str],
    known: Variants,
    variants: dict[str, tuple[str, ...]],
    item_part: Callable[[str, list[np.ndarray]], np.ndarray],
    *,
    scaling: str,
    features: str,
) -> list[str]:
    """Write the matrices of a task that are asked for, of one script of step 4; returns the variants.

    Args:
        known: all variants of the data set. variants: those of the script.
        item_part: from a variant and its modalities, float32 (items, width) each, to the paper's item part.
        features: `paper`, `plus`, or `plus-<group>` for those without a group of columns.

    Raises `UserError`.
    """
    inputs = load_step_inputs(paths, task)
    chosen = chosen_variants(asked, known, variants, inputs.modalities, task)
    for variant in chosen:
        modalities = variants[variant]
        if features == "paper":
            values = [inputs.modal.array(name) for name in modalities]
            factors = Factors(user_part(inputs, modalities), item_part(variant, values))
        else:
            factors = plus_factors(
                inputs, content_modalities(known, variant, inputs.modalities), features.partition("-")[2]
            )
        write_matrix(paths, inputs, with_features(variant, features), factors, scaling=scaling)
    return chosen


def matrices_main(
    description: str | None, variants: dict[str, tuple[str, ...]], default: str, write: Callable[..., list[str]]
) -> None:
    """The command line of both scripts of step 4.

    Args:
        write: from paths, task, the variants asked for, `scaling` and `features` to the names of the matrices written.
    """
    options = parser(description)
    add_task_options(options)
    add_variant_option(options, variants, default)
    add_features_option(options)
    options.add_argument(
        "--scaling", choices=SCALINGS, default="zscore", help="fitted on training rows; minmax: as published"
    )
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    tasks = chosen_tasks(paths, arguments)
    chosen = {"scaling": arguments.scaling, "features": arguments.features}
    matrices = sum(len(write(paths, task, arguments.variant, **chosen)) for task in tasks)
    closing_line(4, f"{paths.matrix} ({', '.join(tasks)})", matrices, watch, unit="matrices")
