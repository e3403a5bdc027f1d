"""The steps as one would write them first: Python loops over lines and rows, dicts, a Dataset that returns one row."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader, Dataset


def keep_rows(path: Path, minimum: int, out: Path) -> int:
    """Step 1: count, filter, drop duplicates, sort, split by time, save arrays and .inter files; returns the rows."""
    often = Counter(line.split("\t", 1)[0] for line in path.open())
    seen, kept = set(), []
    for line in path.open():
        cells = line.rstrip("\n").split("\t")
        if often[cells[0]] >= minimum and line not in seen:
            seen.add(line)
            uid, _, item, _, _, _, finish, like, _, device, time, _ = map(int, cells)
            kept.append((uid, time, item, device, like, finish))
    kept.sort()
    times = sorted(row[1] for row in kept)
    cuts = times[8 * len(times) // 10], times[9 * len(times) // 10]
    users = {uid: number for number, uid in enumerate(sorted({row[0] for row in kept}))}
    items = {item: number for number, item in enumerate(sorted({row[2] for row in kept}))}
    np.save(out / "rows.npy", np.array([(users[row[0]], items[row[2]], *row[3:], row[1]) for row in kept]))
    files = [(out / f"{name}.inter").open("w") for name in ("train", "valid", "test")]
    for uid, time, item, device, like, finish in kept:
        file = files[(time >= cuts[0]) + (time >= cuts[1])]
        file.write(f"{uid}\t{item}\t{device}\t{time}\t{like}\t{finish}\n")
    for file in files:
        file.close()
    return len(kept)


def reduce_vectors(lines: Iterable[str], key: str, width: int, raw_width: int) -> np.ndarray:
    """Step 2: one modality of vectors; float (items, width)."""
    vectors = {}
    for line in lines:
        item = json.loads(line)
        vector = item[key]
        if vector:
            vectors[item["item_id"]] = np.array(vector + [0.0] * (raw_width - len(vector)))
    reduced: np.ndarray = PCA(width).fit_transform(np.stack(list(vectors.values())))
    return reduced


def embed_users(
    user: np.ndarray, item: np.ndarray, label: np.ndarray, block: np.ndarray, features: np.ndarray, blocks: int
) -> dict[tuple[int, int], np.ndarray]:
    """Step 3: the signed means of each user, for each block without its own rows."""
    sums: dict[tuple[int, int], np.ndarray] = defaultdict(lambda: np.zeros(features.shape[1]))
    count: Counter[tuple[int, int]] = Counter()
    for row in range(len(user)):
        sign = 1.0 if label[row] else -1.0
        for other in range(blocks):
            if other != block[row]:
                key = other, int(user[row])
                sums[key] += sign * features[item[row]]
                count[key] += 1
    return {key: total / count[key] for key, total in sums.items()}


class Rows(Dataset):
    """Feature rows one by one."""

    def __init__(self, user_part: np.ndarray, item_part: np.ndarray, user_row, item, label) -> None:  # type: ignore[no-untyped-def]
        self.parts = user_part, item_part
        self.rows = user_row, item, label

    def __len__(self) -> int:
        return len(self.rows[2])

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.float32]:
        user_row, item, label = self.rows
        return np.concatenate([self.parts[0][user_row[row]], self.parts[1][item[row]]]), label[row]


def train_epoch(rows: Rows, model: nn.Module, batch_size: int) -> None:
    """Step 5: an epoch with a DataLoader, autograd and torch's Adam."""
    optimizer = torch.optim.Adam(model.parameters())
    loss = nn.BCEWithLogitsLoss()
    for features, label in DataLoader(rows, batch_size=batch_size, shuffle=True):
        optimizer.zero_grad()
        loss(model(features), label).backward()
        optimizer.step()
