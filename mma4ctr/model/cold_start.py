"""Cold start of items: feature rows for new items, which have features but no kept row.

`preprocess_multimodal.py --new-items` reduces their features. They determine the item part of the paper's features.
With features plus they determine the content bias and the content factors; the item bias and the counts are those of an
item without rows.
"""

from dataclasses import dataclass

import numpy as np

from mma4ctr.datasets import split_task
from mma4ctr.features.behavioral.columns import item_content
from mma4ctr.features.behavioral.content_factors import projected
from mma4ctr.features.feature_matrix import StepInputs
from mma4ctr.features.new_items import new_items_folder
from mma4ctr.features.reduction import WIDEST_ITEM_PART, at_most, concat, cross
from mma4ctr.features.variants import content_modalities, split_variant, variants_for
from mma4ctr.runtime.console import warn
from mma4ctr.storage.artifacts import MANIFEST, Artifact, read_artifact
from mma4ctr.storage.paths import Paths


@dataclass(frozen=True)
class NewItems:
    """Feature rows of new items.

    Attributes:
        names: (n,), ids as the raw files write them.
        item_part: float32 (n, width), scaled as in the matrix.
        vectors: float32 (n, k) by kind of pair table, for the kinds that content determines.
    """

    names: np.ndarray
    item_part: np.ndarray
    vectors: dict[str, np.ndarray]


def load_new_items(paths: Paths, inputs: StepInputs, matrix: Artifact) -> NewItems | None:
    """Compute the feature rows of the new items that step 2 has reduced.

    New items that belong to other features than the current ones are ignored with a warning.

    Args:
        paths: Where to read.
        inputs: The outputs of steps 1 to 3.
        matrix: The feature matrix.

    Returns:
        The new items, or None if there are none.

    Raises:
        UserError: The features of the new items are damaged.
    """
    folder = new_items_folder(paths, split_task(inputs.task)[0])
    if not (folder / MANIFEST).is_file():
        return None
    artifact = read_artifact(folder, "preprocess_multimodal.py --new-items", dataset=folder.name)
    if artifact.manifest["inputs"]["modalities"] != inputs.modal.fingerprint:
        warn(f"{folder}: passed over, because step 2 has run since; run preprocess_multimodal.py --new-items again")
        return None
    names = np.char.decode(artifact.array("item_names"), "utf-8")
    if not len(names):
        return None
    variant, features, _ = split_variant(matrix.settings["variant"])
    known = variants_for(paths, inputs.task)
    modalities = known.all[variant] if features == "paper" else content_modalities(known, variant, inputs.modalities)
    values = [np.concatenate([inputs.modal.array(name), artifact.array(name)]) for name in modalities]
    fitted = len(inputs.data.item_ids)
    shift, scale = matrix.array("item_shift"), matrix.array("item_scale")
    if features == "paper":
        if variant in known.single:
            whole = at_most(values[0], WIDEST_ITEM_PART, fitted)
        else:
            whole = (cross if variant in known.cross else concat)(values, fitted)
        part = ((whole[fitted:] - shift) / scale).astype(np.float32)
        return NewItems(names, part, {})
    content = item_content(values, fitted)
    columns = np.zeros((len(names), len(scale)))
    last_block = matrix.array("item_part")[-fitted:]
    for place, name in enumerate(matrix.manifest["item_columns"]):
        if name.partition(":")[0] == "content-bias":
            # Linear in the content, so least squares on the known items recovers the coefficients.
            of_known = last_block[:, place] * scale[place] + shift[place]
            coefficients, *_ = np.linalg.lstsq(content[:fitted].astype(np.float64), of_known, rcond=None)
            columns[:, place] = content[fitted:] @ coefficients
    vectors = {}
    for kind in matrix.manifest["pairs"]:
        if f"{kind}_of_content" in matrix.array_names:
            vectors[kind] = projected(content[fitted:], matrix.array(f"{kind}_of_content"))
    return NewItems(names, ((columns - shift) / scale).astype(np.float32), vectors)
