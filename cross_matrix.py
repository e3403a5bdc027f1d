"""Step 4 of 8, several modalities: feature matrices of concatenated or crossed modalities, stored as factors.

Reads    graph_path/<dataset>/, modal_path/<dataset>/, user_embedding_path/<task>/
Writes   matrix_path/<task>/<variant>/: user_part.npy, item_part.npy, and their scaling

The user part concatenates the user embeddings of the modalities. The item part (docs/method.md, Variants) is
- concat: the concatenated modalities; anything wider than 128 is reduced to 128 by PCA, each modality first, then the
  concatenation;
- cross: the element-wise product of the modalities, each reduced by PCA to the shortest width.
No column depends on both user and item, so the two parts determine the matrix.

`--features plus` writes `matrix_path/<task>/<variant>.plus/` instead: columns of the user, the item and the pair,
fitted on the training rows out of fold (mma4ctr/features/behavioral/columns.py). The item content of the widest variant
includes optional modalities.

    python cross_matrix.py --task wechat_click --variant vat_concat at_cross
"""

from typing import TYPE_CHECKING

from mma4ctr.features.variants import DEFAULT_VARIANT, STUDY
from mma4ctr.runtime.console import run
from mma4ctr.steps.options import parse_matrix_options
from mma4ctr.storage.paths import Paths

if TYPE_CHECKING:
    from mma4ctr.steps.matrices import MatrixOptions


def write_mixed(paths: Paths, task: str, asked: list[str], options: "MatrixOptions") -> list[str]:
    """Write the concat and cross matrices of a task.

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

    return write_variants(paths, task, asked, "mixed", options)


def main() -> None:
    """Run the command."""
    arguments = parse_matrix_options(__doc__, STUDY.mixed, DEFAULT_VARIANT)

    # It loads torch, which would keep `--help` waiting.
    from mma4ctr.steps.matrices import write_matrices

    write_matrices(arguments, write_mixed)


if __name__ == "__main__":
    run(main)
