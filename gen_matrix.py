"""Step 4 of 8, single modalities: the feature matrix of one modality alone, in factors.

Reads    graph_path/<dataset>/, modal_path/<dataset>/, user_embedding_path/<task>/
Writes   matrix_path/<task>/<modality>/: user_part.npy, item_part.npy, and how they were scaled

The item part is the modality as step 2 made it, reduced to 128 columns where it is wider; the user part is the
user embedding of the same modality. cross_matrix.py makes the variants of two and three modalities.

    python gen_matrix.py --task tiktok_like --variant visual acoustic
"""

import numpy as np

from mma4ctr.features.reduction import WIDEST_ITEM_PART, at_most
from mma4ctr.features.variants import SINGLE, variants_for
from mma4ctr.runtime.console import run
from mma4ctr.steps.matrices import matrices_main, write_variants
from mma4ctr.storage.paths import Paths


def write_single(paths: Paths, task: str, asked: list[str], *, scaling: str, features: str = "paper") -> list[str]:
    """Write the single-modality matrices of a task; returns their names. Raises `UserError`."""
    known = variants_for(paths, task)

    def item_part(_variant: str, values: list[np.ndarray]) -> np.ndarray:
        return at_most(values[0], WIDEST_ITEM_PART)

    return write_variants(paths, task, asked, known, known.single, item_part, scaling=scaling, features=features)


def main() -> None:
    matrices_main(__doc__, SINGLE, "all", write_single)


if __name__ == "__main__":
    run(main)
