"""Step 4: what its two scripts share, from the command line to the matrices."""

from collections.abc import Callable

import numpy as np

from mma4ctr.features.feature_matrix import load_step_inputs
from mma4ctr.features.matrix_writer import Factors, plus_factors, user_part, write_matrix
from mma4ctr.features.scaling import SCALINGS
from mma4ctr.features.variants import Variants, chosen_variants, content_modalities, with_features
from mma4ctr.runtime.console import Stopwatch, closing_line, parser
from mma4ctr.steps.options import add_features_option, add_task_options, add_variant_option, chosen_tasks
from mma4ctr.storage.paths import Paths, load_paths


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
