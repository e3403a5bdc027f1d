"""Raw features of a modality as one float32 matrix of the kept items: PCA of vectors, TF-IDF and SVD of token bags."""

from collections.abc import Iterable, Iterator
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
    """Which items have come by, and a hash of what they had: an item may stand twice only with the same content."""

    def __init__(self, items: int) -> None:
        self.seen = np.zeros(items, bool)
        self._content = np.zeros(items, np.uint64)

    def first_time(self, chunk: DenseChunk | BagChunk, item: np.ndarray, content: np.ndarray) -> np.ndarray:
        """bool (n,): rows of the chunk that are wanted (item >= 0) and new.

        Raises `UserError` where an item stands again with other content.
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
                f"{chunk.block.path}:{line}: item {shown_id(chunk, row)} stands again with other features; "
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
    """One PCA over the vectors of all kept items; of all `items` those that are `fitted`, bool (items,), None: all.

    The vectors wait in a file, while their covariance is summed, for the projection: memory holds the result and
    one chunk. Vectors that are no wider than `width` are kept as they are.

    Returns: float32 (items, width), bool (items,) present.
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
        """With each chunk its rows that are new, those of them that are fitted, and how many new ones came before."""
        rows = 0
        for chunk, future in in_order(identified, chunks):
            item, content = future.result()
            new = np.flatnonzero(seen.first_time(chunk, item, content))
            known = new if fitted is None else new[fitted[item[new]]]
            moments.start_from(chunk.values[known])
            order.append(item[new])
            yield chunk, new, known, rows
            rows += len(new)

    def stored(part: tuple[DenseChunk, np.ndarray, np.ndarray, int]) -> tuple[int, np.ndarray, np.ndarray]:
        chunk, new, known, rows = part
        vectors = chunk.values[new]
        waiting[rows : rows + len(new)] = vectors
        return moments.of_part(vectors if len(known) == len(new) else chunk.values[known])

    # One thread for a product: the cores are at work side by side, and threads that wait for them spin.
    with threadpool_limits(1):
        for _, part in in_order(stored, wanted()):
            moments.include(part.result())
        place = np.concatenate(order)
        width = min(width, modality.raw_width)
        reduction = PCA.fit(moments, min(width, moments.rows)) if width < modality.raw_width and moments.rows else None
        features = np.zeros((len(items), len(reduction.components) if reduction else width), np.float32)

        def reduced(start: int) -> None:
            rows = slice(start, min(start + ROWS_AT_A_TIME, len(place)))
            vectors = waiting[rows]
            features[place[rows]] = reduction.transform(vectors) if reduction else vectors

        for _, done in in_order(reduced, range(0, len(place), ROWS_AT_A_TIME)):
            done.result()
    return features, seen.seen


def bag_features(
    chunks: Iterable[BagChunk], items: IdIndex, width: int, fitted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """TF-IDF and truncated SVD of the token bags of the kept items; of all `items` those that are `fitted`, bool
    (items,), None: all. Tokens that none of these has do not count.

    Returns: float32 (items, width), bool (items,) present. Items without a token are not present.
    """
    seen = SeenItems(len(items))
    row_parts, token_parts, weight_parts = [np.empty(0, np.int32)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for chunk in chunks:
        item = items.positions(chunk.ids)
        content = np.zeros(len(item), np.uint64)
        mixed = (chunk.token.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ chunk.weight.view(np.uint32)
        np.add.at(content, chunk.row, mixed * np.uint64(0xFF51AFD7ED558CCD))
        new = seen.first_time(chunk, item, content)
        wanted = new[chunk.row] & (chunk.weight > 0)
        row_parts.append(item[chunk.row[wanted]])
        token_parts.append(chunk.token[wanted])
        weight_parts.append(chunk.weight[wanted])
    row, token = np.concatenate(row_parts), np.concatenate(token_parts)
    weight = np.concatenate(weight_parts).astype(np.float64)
    # Sorted vocabulary: the result does not depend on the order of lines or files.
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
    """Give items without a modality the column mean of those (that are `fitted`) that have it, in place."""
    known = present if fitted is None else present & fitted
    features[~present] = features[known].mean(axis=0, dtype=np.float64)


def reduced_features(
    raw: RawDataset,
    modality: Modality,
    width: int,
    items: IdIndex,
    bad: BadLines,
    temp: Path,
    fitted: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features and presence of one modality, as `dense_features` and `bag_features` give them."""
    chunks = raw.read_features(modality.name, bad)
    if modality.kind == "dense":
        dense = (chunk for chunk in chunks if isinstance(chunk, DenseChunk))
        return dense_features(dense, items, modality, width, temp, fitted)
    return bag_features((chunk for chunk in chunks if isinstance(chunk, BagChunk)), items, width, fitted)


def modality_features(
    raw: RawDataset, modality: Modality, width: int, items: IdIndex, names: np.ndarray, bad: BadLines, temp: Path
) -> tuple[np.ndarray, np.ndarray] | None:
    """Features and presence of one modality; None, with a word on why, where no item has it.

    Args:
        names: the items' ids as the raw files write them.
    """
    if not raw.feature_files(modality.name):
        tell = note if modality.optional else warn
        tell(f"{raw.name}: {modality.name} is left out, no file of it in {raw.folder}")
        return None
    features, present = reduced_features(raw, modality, width, items, bad, temp)
    few = raw.coverage_warning(modality.name, present, names)
    if few:
        warn(few)
    if not present.any():
        warn(f"{raw.name}: {modality.name} is left out, no kept item has it")
        return None
    fill_missing(features, present)
    if features.shape[1] < width and not (modality.at_most and width == modality.width):
        warn(f"{raw.name}: {modality.name} has {features.shape[1]} columns, the data give no {width}")
    share = present.mean()
    note(f"{raw.name}: {modality.name} {features.shape[1]} columns, {share:.1%} of {len(items):,} items have it")
    return features, present
