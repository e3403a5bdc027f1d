"""Step 4 of 8, single modalities: the feature matrix of one modality, stored as factors.

Reads    graph_path/<dataset>/, modal_path/<dataset>/, user_embedding_path/<task>/
Writes   matrix_path/<task>/<modality>/: user_part.npy, item_part.npy, and their scaling

The item part is the modality as step 2 wrote it, reduced to 128 columns if it is wider. The user part is the user
embedding of the same modality. cross_matrix.py makes the variants of several modalities.

    python gen_matrix.py --task tiktok_like --variant visual acoustic
"""

from typing import TYPE_CHECKING

from mma4ctr.features.variants import SINGLE
from mma4ctr.runtime.console import run
from mma4ctr.steps.options import parse_matrix_options
from mma4ctr.storage.paths import Paths

if TYPE_CHECKING:
    from mma4ctr.steps.matrices import MatrixOptions


def write_single(paths: Paths, task: str, asked: list[str], options: "MatrixOptions") -> list[str]:
    """Write the single-modality matrices of a task.

    Args:
        paths: Where to read and write.
        task: The task.
        asked: Names of variants, or `all` or `default`.
        options: Scaling, features and cache.

    Returns:
        Names of the matrices.

    Raises:
        UserError: An input is missing or outdated, or a variant cannot be made.
    """
    from mma4ctr.steps.matrices import write_variants

    return write_variants(paths, task, asked, "single", options)


def main() -> None:
    """Run the command."""
    arguments = parse_matrix_options(__doc__, SINGLE, "all")

    # It loads torch, which would keep `--help` waiting.
    from mma4ctr.steps.matrices import write_matrices

    write_matrices(arguments, write_single)


if __name__ == "__main__":
    run(main)
