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
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from mma4ctr.data.interactions import features_artifact, id_names, interactions_artifact
from mma4ctr.datasets import BUILT_IN, Kind, chosen_datasets, find_datasets, open_dataset
from mma4ctr.datasets.base import RawDataset
from mma4ctr.datasets.columns import Ids, ids_of
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.features.item_features import (
    fill_missing,
    modality_features,
    reduced_features,
)
from mma4ctr.model.cold_start import new_items_folder
from mma4ctr.runtime.console import Stopwatch, closing_line, note, parser, run, unknown_name, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.ray_cluster import add_ray_option, workers_at
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, check_made_from, demand_space, read_artifact
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.delimited import read_tsv
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.unchanged import unchanged


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
    are read, the same items fitted. Returns how many have features; raises `UserError`.
    """
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
