"""Cold start of items: feature rows for new items, which have features but no kept row.

`preprocess_multimodal.py --new-items` reduces their features and codes their columns beside content. With the paper's
features, content determines the item part. With features plus it determines content bias and content factors; author,
music and other categories contribute their effects and rates; numbers are as they are; an item's own bias, rates and
counts are those of an item without rows.
"""

from dataclasses import dataclass

import numpy as np

from mma4ctr.data.interactions import Interactions
from mma4ctr.data.log_columns import stored_columns
from mma4ctr.datasets import split_task
from mma4ctr.features.behavioral.columns import item_content
from mma4ctr.features.behavioral.content_clusters import nearest
from mma4ctr.features.behavioral.content_factors import projected
from mma4ctr.features.behavioral.inputs import SideInputs, side_inputs
from mma4ctr.features.feature_matrix import StepInputs
from mma4ctr.features.new_items import new_items_folder
from mma4ctr.features.reduction import combined
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
        categories: By name, int64 (n,) codes of the items' categories; empty with the paper's features.
        clusters: uint8 (clusterings, n), of the items' content; None if the matrix has no clusters.
    """

    names: np.ndarray
    item_part: np.ndarray
    vectors: dict[str, np.ndarray]
    categories: dict[str, np.ndarray]
    clusters: np.ndarray | None = None


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
        whole = combined(values, crossed=variant in known.cross, fitted=fitted)
        part = ((whole[fitted:] - shift) / scale).astype(np.float32)
        return NewItems(names, part, {}, {})
    content = item_content(values, fitted)
    stored = stored_columns(inputs.data.artifact, "item")
    given = [artifact.array(f"item_column_{place}") for place in range(len(stored))]
    of_new = side_inputs(stored, len(names), "item", given)
    columns = _plus_columns(matrix, inputs.data, of_new, content)
    vectors = {}
    for kind in matrix.manifest["pairs"]:
        if f"{kind}_of_content" in matrix.array_names:
            vectors[kind] = projected(content[fitted:], matrix.array(f"{kind}_of_content"))
    has_clusters = "cluster_centers" in matrix.array_names
    clusters = nearest(content[fitted:], matrix.array("cluster_centers")) if has_clusters else None
    return NewItems(names, ((columns - shift) / scale).astype(np.float32), vectors, of_new.categories, clusters)


def _plus_columns(matrix: Artifact, data: Interactions, of_new: SideInputs, content: np.ndarray) -> np.ndarray:
    """The item part of features plus for new items, before it is scaled.

    Effects, rates and counts of an item's categories are those of the known items; columns of the item's own rows are
    0.

    Args:
        matrix: The feature matrix.
        data: Step 1's rows.
        of_new: The columns beside content of the new items.
        content: float32 (known + new items, k).

    Returns:
        float64 (new items, columns).
    """
    known = len(data.item_ids)
    of_known = side_inputs(stored_columns(data.artifact, "item"), known, "item")
    numbers = dict(zip(of_new.number_names, of_new.numbers.T, strict=True))
    last_block = matrix.array("item_part")[-known:] * matrix.array("item_scale") + matrix.array("item_shift")
    effects = iter(_summed_effects(matrix, of_new).T)
    rated = {f"item {category}": category for category in of_known.rated}
    # Content biases are linear in the content, so least squares on the known items recovers the coefficients.
    names = matrix.manifest["item_columns"]
    found = np.zeros((len(content) - known, len(names)))
    biases = [place for place, name in enumerate(names) if name.partition(":")[0] == "content-bias"]
    coefficients, *_ = np.linalg.lstsq(content[:known].astype(np.float64), last_block[:, biases], rcond=None)
    found[:, biases] = content[known:] @ coefficients
    for place, name in enumerate(names):
        group, _, rest = name.partition(":")
        category = rated.get(rest if group == "counts" else rest.rpartition(":")[0])
        if group == "item-bias":
            found[:, place] = next(effects, 0)
        elif group == "item-numbers":
            found[:, place] = numbers[name]
        elif group in ("rates", "counts") and category:
            of_category = of_known.categories[category], of_new.categories[category]
            found[:, place] = _value_of_category(*of_category, last_block[:, place])
    return found


def _summed_effects(matrix: Artifact, items: SideInputs) -> np.ndarray:
    """The sum of the effects of each item's categories: float32 (items, targets)."""
    total = np.zeros((len(items.numbers), 0), np.float32)
    for place, category in enumerate(matrix.manifest["item_effects"]):
        table, codes = matrix.array(f"item_effects_{place}"), items.categories[category]
        effects = np.where((codes < len(table))[:, None], table[np.minimum(codes, len(table) - 1)], 0)
        total = total + effects if total.shape[1] else effects
    return total


def _value_of_category(known: np.ndarray, codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value (n,) that all known items of a category have, 0 where there are none.

    Args:
        known: int64 (items,) codes of the known items.
        codes: int64 (n,) codes of others.
        values: float64 (items,) of the known items.
    """
    there, first = np.unique(known, return_index=True)
    position = np.minimum(np.searchsorted(there, codes), len(there) - 1)
    value: np.ndarray = np.where(there[position] == codes, values[first[position]], 0)
    return value
