"""Features of the kept items, one float32 matrix per modality: PCA of vectors, TF-IDF and SVD of token bags."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from mma4ctr.datasets.base import BagChunk, DenseChunk, Modality, RawDataset, shown_id
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.features.reduction import PCA, ROWS_AT_A_TIME, Moments, tfidf_svd
from mma4ctr.runtime.console import note, warn
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.arrays import StoredArray
from mma4ctr.storage.bad_lines import BadLines


class SeenItems:
    """The items read so far, with a hash of their content: an item may be repeated only with the same content.

    Attributes:
        seen: bool (items,).
    """

    def __init__(self, items: int) -> None:
        self.seen = np.zeros(items, bool)
        self._content = np.zeros(items, np.uint64)

    def first_time(self, chunk: DenseChunk | BagChunk, item: np.ndarray, content: np.ndarray) -> np.ndarray:
        """Find the rows of a chunk whose item is read for the first time.

        Args:
            chunk: The chunk, for the message.
            item: int32 (n,), -1 for items that are not kept.
            content: uint64 (n,), hashes of the rows.

        Returns:
            bool (n,).

        Raises:
            UserError: An item is repeated with other content.
        """
        order = np.argsort(item, kind="stable")
        repeated = np.zeros(len(item), bool)
        repeated[order[1:]] = item[order[1:]] == item[order[:-1]]
        new = (item >= 0) & ~repeated & ~self.seen[item]
        self._content[item[new]] = content[new]
        self.seen[item[new]] = True
        differs = (item >= 0) & (content != self._content[item])
        if differs.any():
            row = int(np.flatnonzero(differs)[0])
            line = chunk.block.line_of(int(chunk.line[row]))
            raise UserError(
                f"{chunk.block.path}:{line}: item {shown_id(chunk, row)} is repeated with other features; "
                "remove one of the two lines"
            )
        return new


def dense_features(
    chunks: Iterable[DenseChunk],
    items: IdIndex,
    modality: Modality,
    width: int,
    temp: Path,
    fitted: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Reduce the vectors of the kept items by one PCA.

    The vectors are written to a temporary file while their covariance is summed, then projected. Memory contains the
    result and one chunk. Vectors with at most `width` columns are not reduced.

    Args:
        chunks: The vectors.
        items: The kept items.
        modality: The modality.
        width: Number of columns of the result.
        temp: Folder for temporary files.
        fitted: bool (items,), items to fit on; None for all.

    Returns:
        float32 (items, width) features, and bool (items,) which items have them.
    """
    seen = SeenItems(len(items))
    moments = Moments(modality.raw_width)
    multipliers = np.random.default_rng(0).integers(1, 2**31, modality.raw_width, dtype=np.uint32) | np.uint32(1)
    waiting = StoredArray.scratch(temp, (len(items), modality.raw_width), np.float32)
    order = [np.empty(0, np.int32)]

    def identified(chunk: DenseChunk) -> tuple[np.ndarray, np.ndarray]:
        item = np.where(chunk.length > 0, items.positions(chunk.ids), -1)
        return item, (chunk.values.view(np.uint32) * multipliers).sum(axis=1, dtype=np.uint64)

    def wanted() -> Iterator[tuple[DenseChunk, np.ndarray, np.ndarray, int]]:
        """Yield each chunk with its new rows, those of them to fit on, and the number of new rows before."""
        rows = 0
        for chunk, future in in_order(identified, chunks):
            item, content = future.result()
            new = np.flatnonzero(seen.first_time(chunk, item, content))
            known = new if fitted is None else new[fitted[item[new]]]
            moments.set_shift(chunk.values[known])
            order.append(item[new])
            yield chunk, new, known, rows
            rows += len(new)

    def stored(new_rows: tuple[DenseChunk, np.ndarray, np.ndarray, int]) -> tuple[int, np.ndarray, np.ndarray]:
        chunk, new, known, rows = new_rows
        vectors = chunk.values[new]
        waiting[rows : rows + len(new)] = vectors
        return moments.sums_of(vectors if len(known) == len(new) else chunk.values[known])

    # One BLAS thread: chunks already run in parallel, and waiting BLAS threads would spin.
    with threadpool_limits(1):
        for _, sums in in_order(stored, wanted()):
            moments.include(sums.result())
        place = np.concatenate(order)
        width = min(width, modality.raw_width)
        # Without an item to fit on, the features stay 0, whatever their width; the caller reports it.
        reduction = PCA.fit(moments, min(width, moments.rows)) if width < modality.raw_width and moments.rows else None
        features = np.zeros((len(items), len(reduction.components) if reduction else width), np.float32)

        def reduced(start: int) -> None:
            rows = slice(start, min(start + ROWS_AT_A_TIME, len(place)))
            vectors = waiting[rows]
            features[place[rows]] = reduction.transform(vectors) if reduction else vectors

        for _, done in in_order(reduced, range(0, len(place) if moments.rows else 0, ROWS_AT_A_TIME)):
            done.result()
    return features, seen.seen


def bag_features(
    chunks: Iterable[BagChunk], items: IdIndex, width: int, fitted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reduce the token bags of the kept items by TF-IDF and truncated SVD.

    Args:
        chunks: The token bags.
        items: The kept items.
        width: Number of columns of the result.
        fitted: bool (items,), items to fit on; None for all. Tokens that none of them has are ignored.

    Returns:
        float32 (items, width) features, and bool (items,) which items have at least one token.
    """
    seen = SeenItems(len(items))
    item_chunks, token_chunks, weight_chunks = (
        [np.empty(0, np.int32)],
        [np.empty(0, np.int64)],
        [np.empty(0, np.float32)],
    )
    for chunk in chunks:
        item = items.positions(chunk.ids)
        content = np.zeros(len(item), np.uint64)
        mixed = (chunk.token.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ chunk.weight.view(np.uint32)
        np.add.at(content, chunk.row, mixed * np.uint64(0xFF51AFD7ED558CCD))
        new = seen.first_time(chunk, item, content)
        wanted = new[chunk.row] & (chunk.weight > 0)
        item_chunks.append(item[chunk.row[wanted]])
        token_chunks.append(chunk.token[wanted])
        weight_chunks.append(chunk.weight[wanted])
    row, token = np.concatenate(item_chunks), np.concatenate(token_chunks)
    weight = np.concatenate(weight_chunks).astype(np.float64)
    # The vocabulary is sorted, so the result does not depend on the order of lines or files.
    if fitted is None:
        fitted = np.ones(len(items), bool)
        vocabulary, column = np.unique(token, return_inverse=True)
    else:
        vocabulary = np.unique(token[fitted[row]])
        column = IdIndex(vocabulary).positions(token)
        known = column >= 0
        row, weight, column = row[known], weight[known], column[known]
    bags = sparse.csr_matrix((weight, (row, column)), shape=(len(items), len(vocabulary)))
    present = np.diff(bags.indptr) > 0
    first, later = np.flatnonzero(present & fitted), np.flatnonzero(present & ~fitted)
    if not len(first):
        return np.zeros((len(items), width), np.float32), present
    order = np.concatenate([first, later])
    reduced = tfidf_svd(bags[order], width, fitted=len(first) if len(later) else None)
    features = np.zeros((len(items), reduced.shape[1]), np.float32)
    features[order] = reduced
    return features, present


def fill_missing(features: np.ndarray, present: np.ndarray, fitted: np.ndarray | None = None) -> None:
    """Give items without a modality the column mean of those with it, in place.

    Args:
        features: float32 (items, width).
        present: bool (items,), which items have the modality.
        fitted: bool (items,), items that the mean is taken over; None for all.
    """
    known = present if fitted is None else present & fitted
    features[~present] = features[known].mean(axis=0, dtype=np.float64)


def feature_files(raw: RawDataset) -> list[Path]:
    """Return the files of all modalities."""
    return [path for modality in raw.modalities for path in raw.feature_files(modality.name)]


@dataclass(frozen=True)
class FeatureSource:
    """Where the features of some items are read from.

    Attributes:
        raw: The data set.
        items: The items.
        bad: Collects bad lines.
        temp: Folder for temporary files.
    """

    raw: RawDataset
    items: IdIndex
    bad: BadLines
    temp: Path


def reduced_features(
    source: FeatureSource, modality: Modality, width: int, fitted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read and reduce one modality.

    Args:
        source: The items and their files.
        modality: The modality.
        width: Number of columns of the result.
        fitted: bool (items,), items to fit on; None for all.

    Returns:
        float32 (items, width) features, and bool (items,) which items have them.
    """
    chunks = source.raw.read_features(modality.name, source.bad)
    if modality.kind == "dense":
        dense = (chunk for chunk in chunks if isinstance(chunk, DenseChunk))
        return dense_features(dense, source.items, modality, width, source.temp, fitted)
    return bag_features((chunk for chunk in chunks if isinstance(chunk, BagChunk)), source.items, width, fitted)


def modality_features(
    source: FeatureSource, modality: Modality, width: int, names: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Read and reduce one modality, fill in missing items, and print a summary.

    Args:
        source: The items and their files.
        modality: The modality.
        width: Number of columns of the result.
        names: (items,), ids as the raw files write them.

    Returns:
        As `reduced_features`; None, after a warning, if no item has the modality.
    """
    raw, name = source.raw, modality.name
    if not raw.feature_files(name):
        report = note if modality.optional else warn
        report(f"{raw.name}: {name} is left out: no {name} file in {raw.folder}")
        return None
    features, present = reduced_features(source, modality, width)
    few = raw.coverage_warning(name, present, names)
    if few:
        warn(few)
    if not present.any():
        warn(f"{raw.name}: {name} is left out: no kept item has it")
        return None
    fill_missing(features, present)
    columns = features.shape[1]
    if columns < width and not (modality.at_most and width == modality.width):
        warn(f"{raw.name}: {name} has {columns} columns instead of {width}, because the data allow no more")
    note(f"{raw.name}: {name} {columns} columns, {present.mean():.1%} of {len(source.items):,} items have it")
    return features, present
