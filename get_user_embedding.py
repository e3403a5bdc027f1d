"""Step 3 of 8: a user, per modality, as the videos they acted on and did not act on.

Reads    graph_path/<dataset>/, modal_path/<dataset>/
Writes   user_embedding_path/<task>/: <modality>.npy (blocks, users, length + 1) and block.npy, each row's block

With x~ the modality min-max scaled per column and R_u the user's evidence rows (design section 5, after the
study's section on the user embedding):

    e_u = (sum over r in R_u of s_r * x~_item(r)) / |R_u|,   s_r = +1 for label 1, -1 for label 0

Average pooling with stride 1 makes `length` numbers of it, and the user's most frequent device is appended.

With `--evidence train` a training row of fold f sees the training rows of the other folds only (block f), never
its own label; validation and test rows see all training rows (the last block). `--evidence all` lets every row
see every label, the test labels included: the published way, and leaky.

    python get_user_embedding.py --task wechat_click --length 21 --folds 5
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from scipy import sparse

from mma4ctr.data.interactions import TRAIN, Interactions, features_artifact, load_interactions, sums_of_others
from mma4ctr.datasets import split_task
from mma4ctr.features.reduction import column_range
from mma4ctr.runtime.console import Stopwatch, closing_line, note, parser, progress, run, seed_number, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, check_made_from, demand_space, read_artifact
from mma4ctr.storage.paths import Paths, load_paths

R = TypeVar("R")
EVIDENCE = ("train", "all")
# Rows, and items, that are worked on at a time: about 60 MB with all that they need.
PART_ROWS, PART_ITEMS = 500_000, 16_384


def draw_folds(split: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """uint8 (rows,): a fold 0 ... folds-1 for each training row, equally many rows each; `folds` for other rows."""
    block = np.full(len(split), folds, np.uint8)
    train = np.flatnonzero(split == TRAIN)
    block[train] = np.random.default_rng(seed).permutation(len(train)) % folds
    return block


def pool_columns(values: np.ndarray, length: int) -> np.ndarray:
    """Average pooling along the columns to `length` numbers: window d - length + 1, stride 1.

    Where there are fewer columns than `length`, zeros are appended first.

    Args:
        values: float (n, d).

    Returns: float64 (n, length).
    """
    if values.shape[1] < length:
        values = np.pad(values, ((0, 0), (0, length - values.shape[1])))
    window = values.shape[1] - length + 1
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    pooled: np.ndarray = (sums[:, window:] - sums[:, :-window]) / window
    return pooled


def scaled_and_pooled(features: np.ndarray, length: int) -> np.ndarray:
    """float64 (items, length): features with every column scaled to 0 ... 1, then pooled; a part at a time."""
    low, span = column_range(features)

    def pool(start: int) -> np.ndarray:
        return pool_columns((features[start : start + PART_ITEMS] - low) / span, length)

    parts = [future.result() for _, future in in_order(pool, range(0, len(features), PART_ITEMS))]
    return np.concatenate(parts)


def signed_means(
    user: np.ndarray,
    item: np.ndarray,
    label: np.ndarray,
    block: np.ndarray,
    features: np.ndarray,
    users: int,
    folds: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the signed item features over each user's evidence, for every block.

    Args:
        user, item, label, block: aligned (rows,), the evidence rows with their folds 0 ... F-1; int32 user and item.
        features: float64 (items, k).
        users, folds: how many there are.

    Returns:
        float64 (F + 1, users, k), block f without the rows of fold f, the last block with all rows; and
        int64 (F + 1, users), how many rows each mean is over.
    """
    sign = np.where(label > 0, 1.0, -1.0)
    cell = block.astype(np.int32) * np.int32(users) + user
    signs = sparse.csr_matrix((sign, (cell, item)), shape=(folds * users, len(features)))
    sums = (signs @ features).reshape(folds, users, -1)
    counts = np.bincount(cell, minlength=folds * users).reshape(folds, users)
    rows = sums_of_others(counts)
    means: np.ndarray = sums_of_others(sums) / np.maximum(rows, 1)[:, :, None]
    return means, rows


def frequent_device(user: np.ndarray, device: np.ndarray, users: int) -> np.ndarray:
    """int64 (users,): each user's most frequent device, the smallest of equals; -1 for a user with no row."""
    result = np.full(users, -1, np.int64)
    if not len(device):
        return result
    low, span = int(device.min()), int(device.max()) - int(device.min()) + 1
    kinds = None
    if span * users >= 2**63:  # too far apart for a number that stands for user and device
        kinds, device = np.unique(device, return_inverse=True)
        low, span = 0, len(kinds)
    pairs = np.sort(user * np.int64(span) + (device - low))
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    times = np.diff(starts, append=len(pairs))
    pair_user, kind = np.divmod(pairs[starts], span)
    first = np.flatnonzero(np.diff(pair_user, prepend=-1))
    most = np.maximum.reduceat(times, first)
    best = np.flatnonzero(times == np.repeat(most, np.diff(first, append=len(times))))[::-1]
    result[pair_user[best]] = kind[best] + low if kinds is None else kinds[kind[best]]  # the last written stays
    return result


class Evidence:
    """The evidence rows in parts of consecutive users."""

    def __init__(self, data: Interactions, evidence: str) -> None:
        self._data, self._evidence = data, evidence
        first = np.unique(np.append(0, data.user[::PART_ROWS]))
        self.users = np.append(first, len(data.user_ids))
        self._rows = np.searchsorted(data.user, self.users.astype(data.user.dtype))

    def rows(self, part: int) -> np.ndarray:
        """int64 (rows,): positions of a part's rows."""
        begin, end = self._rows[part : part + 2]
        if self._evidence == "all":
            return np.arange(begin, end)
        rows: np.ndarray = begin + np.flatnonzero(self._data.split[begin:end] == TRAIN)
        return rows

    def over_parts(self, work: Callable[[np.ndarray, np.ndarray, int], R]) -> list[R]:
        """`work(rows, user, users)` of each part, in threads: its rows, their users counted from the part's first,
        and how many users it has."""

        def on_part(part: int) -> R:
            first, end = self.users[part : part + 2]
            rows = self.rows(part)
            return work(rows, self._data.user[rows] - first.astype(np.int32), int(end - first))

        return [future.result() for _, future in in_order(on_part, range(len(self.users) - 1))]


def user_devices(data: Interactions, evidence: str) -> np.ndarray:
    """int64 (users,): each user's most frequent device in the evidence rows."""

    def devices(rows: np.ndarray, user: np.ndarray, users: int) -> np.ndarray:
        return frequent_device(user, data.device[rows], users)

    return np.concatenate(Evidence(data, evidence).over_parts(devices))


def with_mean_user(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Give users without evidence the mean of those with it, block by block: table (blocks, users, k)."""
    filled = table.copy()
    for block, count in enumerate(rows):
        known = count > 0
        if known.any():
            filled[block, ~known] = table[block, known].mean(axis=0)
    return filled


def user_tables(
    data: Interactions,
    label: np.ndarray,
    block: np.ndarray,
    features: np.ndarray,
    length: int,
    evidence: str,
    device: np.ndarray,
) -> np.ndarray:
    """The user embedding of one modality: float32 (blocks, users, length + 1).

    Args:
        block: uint8 (rows,), each row's fold; all 0 with `evidence` all.
        device: (users,), see `user_devices`.
    """
    # Pooling is linear, so the items are pooled once instead of every user in every block.
    pooled = scaled_and_pooled(features, length)
    folds = 1 if evidence == "all" else int(block.max(where=data.split == TRAIN, initial=0)) + 1

    def means_of(rows: np.ndarray, user: np.ndarray, users: int) -> tuple[np.ndarray, np.ndarray]:
        return signed_means(user, data.item[rows], label[rows], block[rows], pooled, users, folds)

    parts = Evidence(data, evidence).over_parts(means_of)
    means, rows = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    if evidence == "all":
        means, rows = means[-1:], rows[-1:]
    column = np.broadcast_to(device[:, None], (*means.shape[:2], 1))
    table = np.concatenate([means, column], axis=2)
    return with_mean_user(table, rows).astype(np.float32)


def write_user_embedding(
    task: str, paths: Paths, *, length: int, evidence: str, folds: int, seed: int
) -> tuple[Artifact, int]:
    """Do the whole step for one task; returns the artifact and the number of users."""
    dataset, target = split_task(task)
    data = load_interactions(paths, dataset)
    modal = features_artifact(paths, dataset)
    check_made_from(modal, interactions=data.artifact)
    label = data.label(target)
    labels_seen = np.unique(label[data.split == TRAIN])
    if len(labels_seen) < 2:
        raise UserError(f"{task}: every training row has label {labels_seen[0]}; there is nothing to learn")
    block = np.zeros(len(data), np.uint8) if evidence == "all" else draw_folds(data.split, folds, seed)
    modalities = modal.manifest["modalities"]
    folder = paths.user_embedding / task
    blocks = int(block.max()) + 1
    needed = len(data) + 4 * blocks * len(data.user_ids) * (length + 1) * len(modalities)
    demand_space(paths.user_embedding, needed, f"the user embedding of {task}")
    with ArtifactWriter(
        folder,
        step=3,
        made_by="get_user_embedding.py",
        settings={
            "task": task,
            "length": length,
            "evidence": evidence,
            "folds": 0 if evidence == "all" else folds,
            "seed": seed,
        },
        inputs={"interactions": data.artifact.fingerprint, "modalities": modal.fingerprint},
    ) as writer:
        writer.array("block", block)
        # Length 0 means no embedding: step 4 puts the user's index in its place.
        device = user_devices(data, evidence)
        with progress(f"{task}: user embedding", len(modalities)) as advance:
            for modality in modalities if length else ():
                table = user_tables(data, label, block, modal.array(modality), length, evidence, device)
                writer.array(modality, table)
                advance(1)
        writer.manifest["modalities"] = list(modalities)
        writer.manifest["blocks"] = blocks
        writer.manifest["rows"] = {"users": len(data.user_ids), "rows": len(data)}
    if evidence == "all":
        note(f"{task}: evidence all uses the test labels; results made from it are marked leaky")
    return read_artifact(folder, "get_user_embedding.py"), len(data.user_ids)


def main() -> None:
    options = parser(__doc__)
    add_task_options(options)
    options.add_argument(
        "--length", type=whole_number(0, 10_000), default=21, help="numbers per modality; 0: no embedding"
    )
    options.add_argument("--evidence", choices=EVIDENCE, default="train", help="labelled rows that may be looked at")
    options.add_argument(
        "--folds", type=whole_number(2, 200), default=5, help="folds of the training rows, at most 200"
    )
    options.add_argument("--seed", type=seed_number, default=0, help="draws the folds")
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    rows, written = 0, []
    for task in chosen_tasks(paths, arguments):
        _, users = write_user_embedding(
            task,
            paths,
            length=arguments.length,
            evidence=arguments.evidence,
            folds=arguments.folds,
            seed=arguments.seed,
        )
        rows += users
        written.append(task)
    closing_line(3, f"{paths.user_embedding} ({', '.join(written)})", rows, watch)


if __name__ == "__main__":
    run(main)
