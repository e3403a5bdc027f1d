"""Step 4 of 8, mixed modalities: two or three modalities concatenated or crossed, in factors.

Reads    graph_path/<dataset>/, modal_path/<dataset>/, user_embedding_path/<task>/
Writes   matrix_path/<task>/<variant>/: user_part.npy, item_part.npy, and how they were scaled

The user part holds the user embeddings of the modalities side by side. The item part (design section 5):
- concat: the modalities side by side; whatever is wider than 128 is reduced by PCA to 128, each modality first,
  then the concatenation;
- cross: the longer ones reduced by PCA to the shortest width, then multiplied element by element.
Columns of users and items are never multiplied with each other, so two tables are the whole matrix.

`--features plus` writes `matrix_path/<task>/<variant>.plus/` instead: what the training rows say of the user, of the
item and of the pair, out of fold (mma4ctr/features/behavioral/columns.py). The content of the widest variant takes in
optional modalities too.

    python cross_matrix.py --task wechat_click --variant vat_concat at_cross
"""

import numpy as np

from mma4ctr.features.reduction import concat, cross
from mma4ctr.features.variants import DEFAULT_VARIANT, STUDY, variants_for
from mma4ctr.runtime.console import run
from mma4ctr.steps.matrices import matrices_main, write_variants
from mma4ctr.storage.paths import Paths


def write_mixed(paths: Paths, task: str, asked: list[str], *, scaling: str, features: str = "paper") -> list[str]:
    """Write the concat and cross matrices of a task; returns their names. Raises `UserError`."""
    known = variants_for(paths, task)

    def item_part(variant: str, values: list[np.ndarray]) -> np.ndarray:
        return cross(values) if variant in known.cross else concat(values)

    return write_variants(paths, task, asked, known, known.mixed, item_part, scaling=scaling, features=features)


def main() -> None:
    matrices_main(__doc__, STUDY.mixed, DEFAULT_VARIANT, write_mixed)


if __name__ == "__main__":
    run(main)
