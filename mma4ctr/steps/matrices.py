"""Step 4: what its two scripts share, from the parsed options to the matrices."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mma4ctr.features.feature_matrix import load_step_inputs
from mma4ctr.features.matrix_writer import Factors, PlusCache, plus_factors, user_part, write_matrix
from mma4ctr.features.reduction import combined
from mma4ctr.features.variants import chosen_variants, content_modalities, variants_for, with_features
from mma4ctr.runtime.console import Stopwatch, closing_line
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.ray_cluster import workers_at
from mma4ctr.steps.options import chosen_tasks
from mma4ctr.storage.paths import Paths, load_paths


@dataclass(frozen=True)
class MatrixOptions:
    """How a run of step 4 makes its matrices.

    Attributes:
        scaling: `zscore` or `minmax`.
        features: `paper`, `plus`, or `plus-<group>` for features plus without a group of columns.
        cache: Tables of features plus, which the tasks of a data set share.
    """

    scaling: str = "zscore"
    features: str = "paper"
    cache: PlusCache = field(default_factory=PlusCache)


def write_variants(
    paths: Paths,
    task: str,
    asked: list[str],
    kind: str,
    options: MatrixOptions,
) -> list[str]:
    """Write the matrices of a task that one script of step 4 makes.

    Args:
        paths: Where to read and write.
        task: The task.
        asked: Names of variants, or `all` or `default`.
        kind: The variants of the script: `single` or `mixed`.
        options: Scaling, features and cache.

    Returns:
        Names of the variants.

    Raises:
        UserError: An input is missing or outdated, or a variant cannot be made.
    """
    known = variants_for(paths, task)
    # Features plus of a single modality need no combination, so either script writes them.
    single = kind == "single" or (options.features != "paper" and not known.mixed)
    variants = known.single if single else known.mixed
    inputs = load_step_inputs(paths, task)
    chosen = chosen_variants(asked, known, variants, inputs.modalities, task)
    for variant in chosen:
        modalities = variants[variant]
        if options.features == "paper":
            values = [inputs.modal.array(name) for name in modalities]
            item_part = combined(values, crossed=variant in known.cross)
            factors = Factors(user_part(inputs, modalities), item_part)
        else:
            content = content_modalities(known, variant, inputs.modalities)
            factors = plus_factors(inputs, content, paths.temp, options.features.partition("-")[2], options.cache)
        write_matrix(paths, inputs, with_features(variant, options.features), factors, scaling=options.scaling)
    return chosen


def write_matrices(arguments: argparse.Namespace, write: Callable[..., list[str]]) -> None:
    """Write the matrices that the command line of one of the two scripts asks for.

    Args:
        arguments: What `parse_matrix_options` returned.
        write: Maps paths, task, the variants asked for and the options to the names of the matrices written.

    Raises:
        UserError: An input is missing or outdated, or there is nothing to send to a cluster.
    """
    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    tasks = chosen_tasks(paths, arguments)
    if arguments.ray and arguments.features == "paper":
        raise UserError("--ray sends the blocks of features plus; add --features plus, or leave --ray out")
    workers = workers_at(arguments.ray, Path(__file__).parents[2]) if arguments.ray else None
    chosen = MatrixOptions(arguments.scaling, arguments.features, PlusCache(workers))
    matrices = sum(len(write(paths, task, arguments.variant, chosen)) for task in tasks)
    closing_line(4, f"{paths.matrix} ({', '.join(tasks)})", matrices, watch, unit="matrices")
