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

import numpy as np
from scipy import sparse

from mma4ctr.artifacts import Artifact, ArtifactWriter, check_made_from, demand_space, read_artifact
from mma4ctr.console import Stopwatch, UserError, closing_line, note, parser, progress, run, whole_number
from mma4ctr.datasets import split_task
from mma4ctr.interactions import TRAIN, Interactions, load_interactions
from mma4ctr.paths import Paths, load_paths
from mma4ctr.reduce import min_max
from mma4ctr.tasks import add_task_options, chosen_tasks

EVIDENCE = ("train", "all")


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


def signed_means(
    user: np.ndarray, item: np.ndarray, label: np.ndarray, block: np.ndarray, features: np.ndarray, users: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the signed item features over each user's evidence, for every block.

    Args:
        user, item, label, block: aligned (rows,), the evidence rows with their folds 0 ... F-1.
        features: float64 (items, k).
        users: number of users.

    Returns:
        float64 (F + 1, users, k), block f without the rows of fold f, the last block with all rows; and
        int64 (F + 1, users), how many rows each mean is over.
    """
    folds = int(block.max(initial=0)) + 1
    sign = np.where(label > 0, 1.0, -1.0)
    cell = block.astype(np.int64) * users + user
    signs = sparse.csr_matrix((sign, (cell, item)), shape=(folds * users, len(features)))
    sums = (signs @ features).reshape(folds, users, -1)
    counts = np.bincount(cell, minlength=folds * users).reshape(folds, users)
    # A sum over the other folds, not the total less the fold: the fold's labels must not touch even the last digit.
    others = [[g for g in range(folds) if g != f] for f in range(folds)] + [list(range(folds))]
    total = np.stack([sums[g].sum(axis=0) for g in others])
    rows = np.stack([counts[g].sum(axis=0) for g in others])
    means: np.ndarray = total / np.maximum(rows, 1)[:, :, None]
    return means, rows


def frequent_device(user: np.ndarray, device: np.ndarray, users: int) -> np.ndarray:
    """int64 (users,): each user's most frequent device, the smallest of equals; -1 for a user with no row."""
    kinds, kind = np.unique(device, return_inverse=True)
    pairs, times = np.unique(user.astype(np.int64) * len(kinds) + kind, return_counts=True)
    pair_user, pair_kind = np.divmod(pairs, max(len(kinds), 1))
    best = np.lexsort((pair_kind, -times, pair_user))
    first = best[np.unique(pair_user[best], return_index=True)[1]]
    result = np.full(users, -1, np.int64)
    result[pair_user[first]] = kinds[pair_kind[first]]
    return result


def with_mean_user(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Give users without evidence the mean of those with it, block by block: table (blocks, users, k)."""
    filled = table.copy()
    for block, count in enumerate(rows):
        known = count > 0
        if known.any():
            filled[block, ~known] = table[block, known].mean(axis=0)
    return filled


def user_tables(
    data: Interactions, label: np.ndarray, block: np.ndarray, features: np.ndarray, length: int, evidence: str
) -> np.ndarray:
    """The user embedding of one modality: float32 (blocks, users, length + 1)."""
    seen = np.arange(len(data)) if evidence == "all" else np.flatnonzero(data.split == TRAIN)
    users = len(data.user_ids)
    # Pooling is linear, so the items are pooled once instead of every user in every block.
    pooled = pool_columns(min_max(features), length)
    fold = np.zeros(len(seen), np.uint8) if evidence == "all" else block[seen]
    means, rows = signed_means(data.user[seen], data.item[seen], label[seen], fold, pooled, users)
    if evidence == "all":
        means, rows = means[-1:], rows[-1:]
    device = frequent_device(data.user[seen], data.device[seen], users).astype(np.float64)
    table = np.concatenate([means, np.broadcast_to(device[:, None], (len(means), users, 1))], axis=2)
    return with_mean_user(table, rows).astype(np.float32)


def write_user_embedding(
    task: str, paths: Paths, *, length: int, evidence: str, folds: int, seed: int
) -> tuple[Artifact, int]:
    """Do the whole step for one task; returns the artifact and the number of users."""
    dataset, target = split_task(task)
    data = load_interactions(paths, dataset)
    modal = read_artifact(paths.modal / dataset, "preprocess_multimodal.py")
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
        with progress(f"{task}: user embedding", len(modalities)) as advance:
            for modality in modalities if length else ():
                table = user_tables(data, label, block, modal.array(modality), length, evidence)
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
    options.add_argument("--length", type=whole_number(0), default=21, help="numbers per modality; 0: no embedding")
    options.add_argument("--evidence", choices=EVIDENCE, default="train", help="labelled rows that may be looked at")
    options.add_argument("--folds", type=whole_number(2), default=5, help="folds of the training rows, at most 200")
    options.add_argument("--seed", type=whole_number(0), default=0, help="draws the folds")
    arguments = options.parse_args()
    if arguments.folds > 200:
        raise UserError(f"--folds {arguments.folds}: at most 200")

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
