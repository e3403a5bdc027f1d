"""Features of new items: items without a row in step 1, reduced in the same way as those of step 1's items."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from mma4ctr.data.interactions import features_artifact
from mma4ctr.data.log_columns import MostFrequent, coded_like, listed_values, missing_values
from mma4ctr.datasets.base import MISSING, ColumnNames, RawDataset, Values
from mma4ctr.datasets.columns import Ids, ids_of
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.log_columns import amounts_of, categories_of
from mma4ctr.features.item_features import FeatureSource, feature_files, fill_missing, reduced_features
from mma4ctr.runtime.console import note
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, check_made_from
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.delimited import read_header, read_tsv
from mma4ctr.storage.paths import NEW_ITEMS, Paths
from mma4ctr.storage.unchanged import unchanged


def new_items_folder(paths: Paths, dataset: str) -> Path:
    """Return the folder of the features of a data set's new items."""
    return paths.modal / NEW_ITEMS / dataset


def read_new_items(file: Path, known: IdIndex) -> Ids:
    """Return the distinct ids in the column `item` of a TSV that are not known, sorted; raises `UserError`."""
    blocks = read_tsv(file, ("item",), lambda table: ids_of(table["item"], "item"), description="items")
    values, names = [np.empty(0, np.int64)], [pa.array([], pa.string())]
    for ids in blocks:
        distinct, first = np.unique(ids.values, return_index=True)
        unknown = known.positions(distinct) < 0
        values.append(distinct[unknown])
        names.append(ids.shown().take(pa.array(first[unknown])))
    distinct, first = np.unique(np.concatenate(values), return_index=True)
    return Ids(distinct, np.arange(len(distinct)), pa.concat_arrays(names).take(pa.array(first)))


def new_columns(raw: RawDataset, file: Path, items: np.ndarray, bad: BadLines) -> Values:
    """The columns beside content of new items: from the table of the items, or else from the TSV that names the items.

    Args:
        raw: The data set.
        file: The TSV.
        items: int64 (n,), sorted ids of the new items.
        bad: Collects bad lines of the table.

    Returns:
        Raw values (n,) by column.

    Raises:
        UserError: An item is listed twice with different values, or the TSV cannot be read.
    """
    columns = raw.columns_of("item")
    if raw.column_files("item"):
        return listed_values(raw.read_columns("item", bad), IdIndex(items), columns)
    there = read_header(file, (), delimiter="\t", quoted=False)
    given = ColumnNames(*(tuple(filter(there.__contains__, names)) for names in (columns.categories, columns.numbers)))
    if lacking := [name for name in columns.names if name not in given.names]:
        note(f"{file}: no column {', '.join(lacking)}; new items have it missing")

    def read(table: pa.Table) -> tuple[np.ndarray, Values]:
        values = {name: categories_of(table[name], name).values for name in given.categories}
        values |= {name: amounts_of(table[name], name) for name in given.numbers}
        return ids_of(table["item"], "item").values, values

    gathered = MostFrequent(given)
    for ids, values in read_tsv(file, ("item", *given.names), read, description="items"):
        gathered.add(ids, values)
    return missing_values(columns, len(items)) | gathered.values(IdIndex(items))


def write_new_features(raw: RawDataset, interactions: Artifact, file: Path, paths: Paths, bad: BadLines) -> int:
    """Reduce the features of new items, which step 1 has no row of.

    The same files are read again and the reduction is fitted on the same items, so the features are comparable.

    Args:
        raw: The data set.
        interactions: The output of step 1.
        file: A TSV with the column `item`.
        paths: Where to write.
        bad: Collects bad lines.

    Returns:
        Number of new items with features or with columns beside content.

    Raises:
        UserError: The input is unusable, or the raw features changed since step 2.
    """
    modal = features_artifact(paths, raw.name)
    check_made_from(modal, interactions=interactions)
    kept = interactions.array("item_ids")
    with unchanged(lambda: [file, *feature_files(raw), *raw.column_files("item")]) as check:
        new = read_new_items(file, IdIndex(kept))
        if not len(new.values):
            raise UserError(
                f"{file}: no new items: every item in this file has kept rows, so --new-items is not needed"
            )
        ids = np.union1d(kept, new.values)
        fitted = IdIndex(kept).positions(ids) >= 0
        source = FeatureSource(raw, IdIndex(ids), bad, paths.temp)
        found, has_any = {}, np.zeros(len(new.values), bool)
        modalities = {modality.name: modality for modality in raw.modalities}
        for name in modal.manifest["modalities"]:
            width = modal.settings["widths"][name]
            features, present = reduced_features(source, modalities[name], width, fitted)
            before = modal.array(name)
            if (present & fitted).any():
                fill_missing(features, present, fitted)
            if features[fitted].shape != before.shape or not np.allclose(features[fitted], before, atol=1e-4):
                raise UserError(
                    f"{modal.folder}: the {name} features differ from those now in {raw.folder}; run "
                    "preprocess_multimodal.py without --new-items, and the steps after it, again"
                )
            found[name] = features[~fitted]
            has_any |= present[~fitted]
            note(f"{raw.name}: {present[~fitted].mean():.1%} of {len(new.values):,} new items have {name}")
        columns = new_columns(raw, file, new.values, bad)
        for column in columns.values():
            has_any |= column != MISSING if column.dtype.kind == "i" else np.isfinite(column)
        check()
    with ArtifactWriter(
        new_items_folder(paths, raw.name),
        step=2,
        made_by="preprocess_multimodal.py --new-items",
        settings={"dataset": raw.name},
        inputs={"modalities": modal.fingerprint},
    ) as writer:
        for name, features in found.items():
            writer.array(name, features[has_any])
        for place, column in enumerate(coded_like(interactions, "item", columns)):
            writer.array(f"item_column_{place}", column[has_any])
        names = new.text.take(pa.array(np.flatnonzero(has_any)))
        writer.array("item_names", np.char.encode(np.array(names.to_pylist(), str), "utf-8"))
        writer.manifest["rows"] = {"items": int(has_any.sum())}
    return int(has_any.sum())
