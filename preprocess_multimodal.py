"""Step 2 of 8: raw item features -> one float32 matrix per modality, rows aligned with step 1's items.

Reads    graph_path/<dataset>/item_ids.npy; feed_info.csv and feed_embeddings.csv (WeChat); the video, audio, title
         and face files (TikTok), all parts of a modality together
Writes   modal_path/<dataset>/: <modality>.npy (items, width) and <modality>_present.npy, which items really had it

Vectors are reduced by one PCA over all parts, token bags by TF-IDF and truncated SVD. Only items of step 1 are
held. An item without a modality gets the column mean and is marked. No label is read here.

    python preprocess_multimodal.py --dataset wechat --width visual=128 textual=73

Items that came later have features and no row in step 1. Those that a file asks for are reduced in the same way, into
modal_path/new-items/<dataset>/, and mlp.py --predict scores them by their content:

    python preprocess_multimodal.py --dataset wechat --new-items pairs.tsv
"""

import argparse
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import sparse
from threadpoolctl import threadpool_limits

from mma4ctr.data.interactions import features_artifact, id_names, interactions_artifact
from mma4ctr.datasets import BUILT_IN, Kind, chosen_datasets, find_datasets, open_dataset
from mma4ctr.datasets.base import BagChunk, DenseChunk, Modality, RawDataset, shown_id
from mma4ctr.datasets.columns import Ids, ids_of
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.features.reduction import PCA, ROWS_AT_A_TIME, Moments, tfidf_svd
from mma4ctr.model.cold_start import new_items_folder
from mma4ctr.runtime.console import Stopwatch, closing_line, note, parser, run, unknown_name, warn, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order
from mma4ctr.runtime.ray_cluster import add_ray_option, workers_at
from mma4ctr.storage.arrays import StoredArray
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, check_made_from, demand_space, read_artifact
from mma4ctr.storage.delimited import read_tsv
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.text_blocks import BadLines
from mma4ctr.storage.unchanged import unchanged


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
    few = raw.few_have_it(modality.name, present, names)
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


def feature_files(raw: RawDataset) -> list[Path]:
    """The files of all modalities."""
    return [path for modality in raw.modalities for path in raw.feature_files(modality.name)]


def write_features(raw: RawDataset, interactions: Artifact, widths: dict[str, int], paths: Paths, bad: BadLines) -> int:
    """Do the whole step for one data set; returns the number of items. Raises `UserError`."""
    items = IdIndex(interactions.array("item_ids"))
    names = id_names(interactions, "item")
    chosen = {modality.name: widths.get(modality.name, modality.width) for modality in raw.modalities}
    files = feature_files(raw)
    demand_space(paths.modal, 4 * len(items) * sum(chosen.values()), f"the features of {len(items):,} items")
    widest = max((modality.raw_width for modality in raw.modalities if raw.feature_files(modality.name)), default=0)
    demand_space(paths.temp, 4 * len(items) * widest, f"the vectors of {len(items):,} items, until they are reduced,")
    sources = {str(path): {"bytes": path.stat().st_size, "modified": path.stat().st_mtime} for path in files}
    made_from = {"interactions": interactions.fingerprint}
    settings = {"dataset": raw.name, "widths": chosen}
    made_by = "preprocess_multimodal.py"
    with (
        unchanged(partial(feature_files, raw)) as check,
        ArtifactWriter(
            paths.modal / raw.name, step=2, made_by=made_by, settings=settings, inputs=made_from, sources=sources
        ) as writer,
    ):
        made = {}
        for modality in raw.modalities:
            found = modality_features(raw, modality, chosen[modality.name], items, names, bad, paths.temp)
            if found:
                writer.array(modality.name, found[0])
                writer.array(f"{modality.name}_present", found[1])
                made[modality.name] = found[0].shape[1]
        check()
        if not made:
            raise UserError(f"{raw.folder}: no modality of {raw.name} has any feature; see the warnings above")
        writer.manifest["modalities"] = made
        writer.manifest["rows"] = {"items": len(items)}
    return len(items)


def new_items(file: Path, known: IdIndex) -> Ids:
    """The distinct ids in the column `item` of a TSV that are not among the known ones, sorted; raises `UserError`."""
    blocks = read_tsv(file, ("item",), lambda table: ids_of(table["item"], "item"), description="items")
    values, names = [np.empty(0, np.int64)], [pa.array([], pa.string())]
    for ids in blocks:
        distinct, first = np.unique(ids.values, return_index=True)
        unknown = known.positions(distinct) < 0
        values.append(distinct[unknown])
        names.append(ids.shown().take(pa.array(first[unknown])))
    distinct, first = np.unique(np.concatenate(values), return_index=True)
    return Ids(distinct, np.arange(len(distinct)), pa.concat_arrays(names).take(pa.array(first)))


def write_new_features(raw: RawDataset, interactions: Artifact, file: Path, paths: Paths, bad: BadLines) -> int:
    """The features of the items in a TSV that step 1 has no row of, reduced as those of its items are: the same files
    are read, the same items fitted. Returns how many have features; raises `UserError`."""
    modal = features_artifact(paths, raw.name)
    check_made_from(modal, interactions=interactions)
    kept = interactions.array("item_ids")
    with unchanged(lambda: [file, *feature_files(raw)]) as check:
        new = new_items(file, IdIndex(kept))
        if not len(new.values):
            raise UserError(f"{file}: every item of it has kept rows, so there are no features to make")
        ids = np.union1d(kept, new.values)
        fitted = IdIndex(kept).positions(ids) >= 0
        found, somewhere = {}, np.zeros(len(new.values), bool)
        modalities = {modality.name: modality for modality in raw.modalities}
        for name in modal.manifest["modalities"]:
            width = modal.settings["widths"][name]
            features, present = reduced_features(raw, modalities[name], width, IdIndex(ids), bad, paths.temp, fitted)
            before = modal.array(name)
            if (present & fitted).any():
                fill_missing(features, present, fitted)
            if features[fitted].shape != before.shape or not np.allclose(features[fitted], before, atol=1e-4):
                raise UserError(
                    f"{modal.folder}: the {name} features of its items are others than those now in {raw.folder}; run "
                    "preprocess_multimodal.py again, without --new-items, and the steps after it"
                )
            found[name] = features[~fitted]
            somewhere |= present[~fitted]
            note(f"{raw.name}: {present[~fitted].mean():.1%} of {len(new.values):,} new items have {name}")
        check()
    with ArtifactWriter(
        new_items_folder(paths, raw.name),
        step=2,
        made_by="preprocess_multimodal.py --new-items",
        settings={"dataset": raw.name},
        inputs={"modalities": modal.fingerprint},
    ) as writer:
        for name, features in found.items():
            writer.array(name, features[somewhere])
        names = new.text.take(pa.array(np.flatnonzero(somewhere)))
        writer.array("item_names", np.char.encode(np.array(names.to_pylist(), str), "utf-8"))
        writer.manifest["rows"] = {"items": int(somewhere.sum())}
    return int(somewhere.sum())


def write_same_features(base: Artifact, interactions: Artifact, folder: Path) -> Artifact:
    """The features of `base` for the same items under another split, for the sweep: no feature depends on the split."""
    with ArtifactWriter(
        folder,
        step=2,
        made_by="adjust_hyperparameter.py",
        settings=base.settings,
        inputs={"interactions": interactions.fingerprint, "modalities": base.fingerprint},
        sources=base.manifest["sources"],
    ) as writer:
        writer.adopt(base, base.array_names)
        writer.manifest["modalities"] = base.manifest["modalities"]
        writer.manifest["rows"] = base.manifest["rows"]
    return read_artifact(folder, "adjust_hyperparameter.py")


def width_option(text: str) -> tuple[str, int]:
    """An argparse type: `visual=128`."""
    name, _, number = text.partition("=")
    if not name or not number:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODALITY=N")
    return name, whole_number(1, 100_000)(number)


def check_widths(widths: dict[str, int], kinds: Iterable[Kind]) -> None:
    """Raises `UserError` for a modality that none of the data sets has."""
    names = sorted({modality.name for kind in kinds for modality in kind.modalities})
    for name in widths:
        if name not in names:
            raise unknown_name("modality", name, names)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--dataset", nargs="+", metavar="D", default=[], help="only these; none: all there are")
    options.add_argument(
        "--width",
        nargs="+",
        type=width_option,
        default=[],
        metavar="MODALITY=N",
        help="columns of a modality; none: the study's, "
        + "; ".join(
            f"{kind.name} {' '.join(f'{modality.name}={modality.width}' for modality in kind.modalities)}"
            for kind in BUILT_IN.values()
        )
        + "; of your own data what their description says",
    )
    options.add_argument(
        "--new-items",
        type=Path,
        metavar="FILE",
        help="a TSV with the column item: only the features of those without a kept row, for mlp.py --predict",
    )
    options.add_argument("--skip-bad-lines", type=whole_number(0), default=0, metavar="N", help="go on past up to N")
    add_ray_option(options, "the reading of the raw files")
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    kinds = chosen_datasets(paths, arguments.dataset)
    check_widths(dict(arguments.width), kinds.values())
    if arguments.new_items and len(kinds) > 1:
        raise UserError(f"--new-items: of which data set? Name it with --dataset, of {', '.join(kinds)}")
    if arguments.new_items and not arguments.new_items.is_file():
        raise UserError(f"--new-items {arguments.new_items}: there is no such file")
    bad = BadLines(arguments.skip_bad_lines)
    workers = workers_at(arguments.ray, Path(__file__).parent)
    rows, written = 0, []
    for present in find_datasets(paths, arguments.dataset):
        interactions = interactions_artifact(paths, present.name)
        # The track is step 1's choice.
        raw = open_dataset(kinds[present.name], paths, interactions.settings["track"])
        assert raw is not None
        raw.workers = workers
        if arguments.new_items:
            rows += write_new_features(raw, interactions, arguments.new_items, paths, bad)
            written.append(str(new_items_folder(paths, raw.name)))
            continue
        rows += write_features(raw, interactions, dict(arguments.width), paths, bad)
        written.append(str(paths.modal / raw.name))
    bad.report()
    closing_line(2, ", ".join(written), rows, watch)


if __name__ == "__main__":
    run(main)
