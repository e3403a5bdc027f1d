"""Straightforward reference implementations: Python loops over lines and rows, dicts, and a row-wise Dataset."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from csv import DictReader
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mma4ctr.datasets.tiktok import COLUMNS


def keep_rows(path: Path, minimum: int, out: Path) -> int:
    """Step 1: count, filter, drop duplicates, sort, split by time and save; returns the number of rows."""
    with path.open() as raw:
        often = Counter(row["uid"] for row in DictReader(raw, COLUMNS, delimiter="\t"))
    seen: set[tuple] = set()
    kept: list[dict[str, int]] = []
    with path.open() as raw:
        for row in DictReader(raw, COLUMNS, delimiter="\t"):
            whole = tuple(row.values())
            if often[row["uid"]] >= minimum and whole not in seen:
                seen.add(whole)
                kept.append({str(name): int(value) for name, value in row.items()})
    kept.sort(key=itemgetter("uid", "time", "item_id"))
    times = sorted(row["time"] for row in kept)
    cuts = times[8 * len(times) // 10], times[9 * len(times) // 10]
    users = {uid: number for number, uid in enumerate(sorted({row["uid"] for row in kept}))}
    items = {item: number for number, item in enumerate(sorted({row["item_id"] for row in kept}))}
    np.save(out / "user.npy", np.array([users[row["uid"]] for row in kept]))
    np.save(out / "item.npy", np.array([items[row["item_id"]] for row in kept]))
    for name in ("device", "time", "like", "finish"):
        np.save(out / f"{name}.npy", np.array([row[name] for row in kept]))
    with ExitStack() as opened:
        files = [opened.enter_context((out / f"{part}.inter").open("w")) for part in ("train", "valid", "test")]
        names = ("uid", "item_id", "device", "time", "like", "finish")
        for one in kept:
            file = files[(one["time"] >= cuts[0]) + (one["time"] >= cuts[1])]
            file.write("\t".join(str(one[name]) for name in names) + "\n")
    return len(kept)


def reduce_vectors(lines: Iterable[str], key: str, width: int, raw_width: int) -> np.ndarray:
    """Step 2: reduce one modality of vectors; returns float (items, width)."""
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
    """Step 3: compute the signed mean of each user, for each block without the rows of its fold."""
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


def mlp_module(weights: Mapping[str, torch.Tensor]) -> nn.Sequential:
    """The network of step 5 as a torch module, from `<layer>.weight` (out, in) and `<layer>.bias` (out,); logits."""
    values = list(weights.values())
    layers: list[nn.Module] = []
    for weight, bias in zip(values[::2], values[1::2], strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data.copy_(weight)
        linear.bias.data.copy_(bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1], nn.Flatten(0)).to(values[0].device)


class RowDataset(Dataset):
    """A dataset that returns feature rows one by one."""

    def __init__(self, user_part: np.ndarray, item_part: np.ndarray, user_row, item, label) -> None:  # type: ignore[no-untyped-def]
        self.parts = user_part, item_part
        self.rows = user_row, item, label

    def __len__(self) -> int:
        return len(self.rows[2])

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.float32]:
        user_row, item, label = self.rows
        return np.concatenate([self.parts[0][user_row[row]], self.parts[1][item[row]]]), label[row]


def train_epoch(rows: RowDataset, model: nn.Module, batch_size: int) -> None:
    """Step 5: train for one epoch with a DataLoader, autograd and torch's Adam."""
    optimizer = torch.optim.Adam(model.parameters())
    loss = nn.BCEWithLogitsLoss()
    for features, label in DataLoader(rows, batch_size=batch_size, shuffle=True):
        optimizer.zero_grad()
        loss(model(features), label).backward()
        optimizer.step()
