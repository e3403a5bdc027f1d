"""Step 4 of 8, single modalities: the feature matrix of one modality alone, in factors.

Reads    graph_path/<dataset>/, modal_path/<dataset>/, user_embedding_path/<task>/
Writes   matrix_path/<task>/<modality>/: user_part.npy, item_part.npy, and how they were scaled

The item part is the modality as step 2 made it, reduced to 128 columns where it is wider; the user part is the
user embedding of the same modality. cross_matrix.py makes the variants of two and three modalities.

    python gen_matrix.py --task tiktok_like --variant visual acoustic
"""

from mma4ctr.console import run
from mma4ctr.matrix import (
    Factors,
    load_step_inputs,
    plus_factors,
    split_variant,
    user_part,
    with_features,
    write_matrix,
)
from mma4ctr.paths import Paths
from mma4ctr.reduce import WIDEST_ITEM_PART, at_most
from mma4ctr.tasks import SINGLE, chosen_variants, matrices_main, variants_for


def write_single(paths: Paths, task: str, asked: list[str], *, scaling: str, features: str = "paper") -> list[str]:
    """Write the single-modality matrices of a task; returns their names. Raises `UserError`."""
    inputs = load_step_inputs(paths, task)
    known = variants_for(paths, task)
    variants = chosen_variants(asked, known, known.single, inputs.modalities, task)
    for variant in variants:
        name, modalities = with_features(variant, features), known.single[variant]
        if features == "paper":
            factors = Factors(user_part(inputs, modalities), at_most(inputs.modal.array(variant), WIDEST_ITEM_PART))
        else:
            factors = plus_factors(inputs, modalities, split_variant(name)[2])
        write_matrix(paths, inputs, name, factors, scaling=scaling)
    return variants


def main() -> None:
    matrices_main(__doc__, SINGLE, "all", write_single)


if __name__ == "__main__":
    run(main)
