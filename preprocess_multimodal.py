"""Step 2 of 8: raw item features -> one float32 matrix per modality, rows aligned with step 1's items.

Reads    graph_path/<dataset>/item_ids.npy; feed_info.csv and feed_embeddings.csv (WeChat); the video, audio, title
         and face files (TikTok), all files of a modality together
Writes   modal_path/<dataset>/: <modality>.npy (items, width) and <modality>_present.npy, which items have it

Vectors are reduced by one PCA over all files, token bags by TF-IDF and truncated SVD. Only items of step 1 are kept.
An item without a modality gets the column mean and is marked. No label is read here.

    python preprocess_multimodal.py --dataset wechat --width visual=128 textual=73

Items that came later have features but no row in step 1. --new-items reduces those that a TSV names in the same way and
writes them to modal_path/new-items/<dataset>/, so that mlp.py --predict scores them by their content:

    python preprocess_multimodal.py --dataset wechat --new-items pairs.tsv
"""

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from mma4ctr.data.interactions import id_names, interactions_artifact
from mma4ctr.datasets import BUILT_IN, Kind, chosen_datasets, find_datasets, open_dataset
from mma4ctr.datasets.base import RawDataset
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.runtime.console import Stopwatch, closing_line, parser, run, unknown_name, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.ray_cluster import add_ray_option, workers_at
from mma4ctr.steps.options import add_bad_lines_option, add_dataset_option
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, demand_space, read_artifact
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.unchanged import unchanged


def write_features(raw: RawDataset, interactions: Artifact, widths: dict[str, int], paths: Paths, bad: BadLines) -> int:
    """Run the step for one data set.

    Args:
        raw: The data set.
        interactions: The output of step 1.
        widths: Number of columns by modality, where it differs from the default.
        paths: Where to write.
        bad: Collects bad lines.

    Returns:
        Number of items.

    Raises:
        UserError: The input is unusable, or a file changed while it was read.
    """
    from mma4ctr.features.item_features import FeatureSource, feature_files, modality_features

    items = IdIndex(interactions.array("item_ids"))
    names = id_names(interactions, "item")
    chosen = {modality.name: widths.get(modality.name, modality.width) for modality in raw.modalities}
    files = feature_files(raw)
    demand_space(paths.modal, 4 * len(items) * sum(chosen.values()), f"the features of {len(items):,} items")
    widest = max((modality.raw_width for modality in raw.modalities if raw.feature_files(modality.name)), default=0)
    demand_space(paths.temp, 4 * len(items) * widest, f"the vectors of {len(items):,} items until they are reduced")
    sources = {str(path): {"bytes": path.stat().st_size, "modified": path.stat().st_mtime} for path in files}
    made_from = {"interactions": interactions.fingerprint}
    settings = {"dataset": raw.name, "widths": chosen}
    made_by = "preprocess_multimodal.py"
    source = FeatureSource(raw, items, bad, paths.temp)
    with (
        unchanged(partial(feature_files, raw)) as check,
        ArtifactWriter(
            paths.modal / raw.name, step=2, made_by=made_by, settings=settings, inputs=made_from, sources=sources
        ) as writer,
    ):
        made = {}
        for modality in raw.modalities:
            found = modality_features(source, modality, chosen[modality.name], names)
            if found:
                writer.array(modality.name, found[0])
                writer.array(f"{modality.name}_present", found[1])
                made[modality.name] = found[0].shape[1]
        check()
        if not made:
            raise UserError(f"{raw.folder}: no modality of {raw.name} has features; see the warnings above")
        writer.manifest["modalities"] = made
        writer.manifest["rows"] = {"items": len(items)}
    return len(items)


def write_same_features(base: Artifact, interactions: Artifact, folder: Path) -> Artifact:
    """Copy the features of `base` for another split, for the sweep; no feature depends on the split.

    Args:
        base: The output of step 2.
        interactions: The output of step 1 under the other split.
        folder: Where to write.

    Returns:
        The new artifact.
    """
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
    """Parse an option such as `visual=128`, for argparse."""
    name, _, number = text.partition("=")
    if not name or not number:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODALITY=N, such as visual=128")
    return name, whole_number(1, 100_000)(number)


def check_widths(widths: dict[str, int], kinds: Iterable[Kind]) -> None:
    """Raise `UserError` for a modality that none of the data sets has."""
    names = sorted({modality.name for kind in kinds for modality in kind.modalities})
    for name in widths:
        if name not in names:
            raise unknown_name("modality", name, names)


def main() -> None:
    """Run the command."""
    options = parser(__doc__)
    add_dataset_option(options)
    options.add_argument(
        "--width",
        nargs="+",
        type=width_option,
        default=[],
        metavar="MODALITY=N",
        help="columns of a modality (default: as in the study, "
        + "; ".join(
            f"{kind.name} {' '.join(f'{modality.name}={modality.width}' for modality in kind.modalities)}"
            for kind in BUILT_IN.values()
        )
        + "; for described data sets as in the description)",
    )
    options.add_argument(
        "--new-items",
        type=Path,
        metavar="FILE",
        help="TSV with the column item: reduce only the features of items without kept rows, for mlp.py --predict",
    )
    add_bad_lines_option(options)
    add_ray_option(options, "the reading of the raw files")
    arguments = options.parse_args()

    # They load scipy, which would keep `--help` waiting.
    from mma4ctr.features.new_items import new_items_folder, write_new_features

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    kinds = chosen_datasets(paths, arguments.dataset)
    check_widths(dict(arguments.width), kinds.values())
    if arguments.new_items and arguments.width:
        raise UserError("--width: new items get the widths that step 2 has given to the others; leave it out")
    if arguments.new_items and len(kinds) > 1:
        raise UserError(f"--new-items: several data sets; choose one with --dataset: {', '.join(kinds)}")
    if arguments.new_items and not arguments.new_items.is_file():
        raise UserError(f"--new-items {arguments.new_items}: file not found")
    bad = BadLines(arguments.skip_bad_lines)
    workers = workers_at(arguments.ray, Path(__file__).parent)
    rows, written = 0, []
    for present in find_datasets(paths, arguments.dataset):
        interactions = interactions_artifact(paths, present.name)
        # Step 1 has chosen the track.
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
