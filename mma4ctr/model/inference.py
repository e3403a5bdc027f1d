"""A trained network at work: test rows for step 5, and any pairs of users and items for whoever uses the model."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import csv
from safetensors.torch import load_file
from torch.nn import functional

from mma4ctr.datasets.columns import ids_of
from mma4ctr.features.feature_matrix import FactorMatrix, Pairs, RowGroup, load_matrix, load_step_inputs, read_matrix
from mma4ctr.features.variants import split_variant
from mma4ctr.model.cold_start import load_new_items
from mma4ctr.model.mlp import Network, torch_threads
from mma4ctr.runtime.console import progress
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.artifacts import Artifact
from mma4ctr.storage.delimited import read_tsv
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.unchanged import unchanged

# Rows that are scored at a time by one network: on a CPU 4 MB of first-layer outputs, which stay in its cache.
SCORING_ROWS = {"cpu": 8192, "cuda": 65_536}
# Pairs of users and all items that are scored at a time.
PAIRS_AT_A_TIME = 1 << 20
HEADER = b"user\titem\tscore\n"


@torch.no_grad()
def predict(network: Network, matrix: FactorMatrix, rows: RowGroup) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (rows,), of several networks their mean, and the last hidden layers (rows, networks x width).

    The first layer is linear in the two parts, so it is multiplied once per user and once per item, not per row; only
    the columns of a pair are made for each row.
    """
    weight, device = network.weights[0].flatten(0, 1), rows.label.device
    user_part, user_row, first_user = _used(matrix.user_part, rows.user_row)
    item_part, item_row, first_item = _used(matrix.item_part, rows.item_row)
    users, width = user_part.shape
    user_weight, item_weight, row_weight = weight.split([width, item_part.shape[1], matrix.row_features], dim=1)
    halves = weight.new_empty(users + len(item_part), len(weight))
    torch.addmm(network.biases[0].flatten(), user_part, user_weight.T, out=halves[:users])
    torch.mm(item_part, item_weight.T, out=halves[users:])
    logits, hidden = (
        weight.new_empty(len(rows)),
        weight.new_empty(len(rows), network.networks * network.weights[-1].shape[2]),
    )
    step = SCORING_ROWS[device.type] // network.networks

    def score(start: int) -> None:
        chunk = slice(start, start + step)
        both = torch.stack((user_row[chunk] - first_user, item_row[chunk] + (users - first_item)), dim=1)
        # Looks ahead in the table and adds while it reads: half the time of two gathers and a sum.
        first_layer = functional.embedding_bag(both, halves, mode="sum")
        if matrix.row_features:
            columns = weight.new_empty(len(first_layer), matrix.row_features)
            matrix.gather_row_features(rows.chosen(chunk), columns)
            first_layer.addmm_(columns, row_weight.T)
        logits[chunk], hidden[chunk] = network.forward_from_first(first_layer)

    starts = range(0, len(rows), step)
    if device.type == "cpu":
        _one_core_each(score, starts)
    else:
        for start in starts:
            score(start)
    return logits, hidden


def _used(part: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The rows of a part that `index` is about, an index into them, and what is to be subtracted from it.

    The range of rows that occur, as test rows see one block of the user part; the rows themselves where that range is
    far longer than `index`.
    """
    low, high = (int(index.min()), int(index.max())) if len(index) else (0, -1)
    if high - low < 2 * len(index):
        return part[low : high + 1], index, low
    rows, place = torch.unique(index, return_inverse=True)
    return part[rows], place, 0


def _one_core_each(work: Callable[[int], None], items: Iterable[int]) -> None:
    """Spread items over threads that use one core each.

    torch splits every operation over the cores and waits for them; whole chunks need no waiting, and numpy's tanh
    would leave all cores but one idle.
    """
    with torch_threads(1) as cores, ThreadPoolExecutor(cores) as pool:  # the threads started here take them over
        list(pool.map(work, items))


def _stand_in(rows: torch.Tensor, artifact: Artifact, part: str) -> torch.Tensor:
    """(1, width): the row of a user or an item of whom nothing is known. Of features plus, it is that of one without
    any training row, whose columns were 0 before they were scaled; else the mean of the `rows`.
    """
    if split_variant(artifact.settings["variant"])[1] == "paper":
        return rows.mean(dim=0, keepdim=True)
    blank = -artifact.array(f"{part}_shift") / artifact.array(f"{part}_scale")
    return torch.from_numpy(blank.astype(np.float32)).unsqueeze(0)


@dataclass(frozen=True)
class Scorer:
    """A run of mlp.py, ready for pairs.

    Attributes:
        network: its weights. matrix: what all training rows say of each user and item, one block, and after the last
            user and the last item one who stands for whoever is not known.
        users, items: their ids as the raw files write them, those of new items after the others.
    """

    network: Network
    matrix: FactorMatrix
    users: pa.Array
    items: pa.Array

    def score(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float32 (pairs,): probabilities for int64 positions of users and items."""
        # One user after the other finds the user's vectors in the cache: a tenth to a fifth more pairs a second.
        users, order = torch.from_numpy(user).sort()
        items = torch.from_numpy(item)[order]
        rows = RowGroup(order.numpy(), users, items, items, torch.empty(len(user)))
        probability = torch.empty(len(user))
        probability[order] = torch.sigmoid(predict(self.network, self.matrix, rows)[0])
        return probability.numpy()


def positions(ids: pa.Array, known: pa.Array) -> np.ndarray:
    """int64 (n,): the place of each id among the known ones, their number for one that is not known."""
    found: np.ndarray = pc.fill_null(pc.index_in(ids, value_set=known), len(known)).to_numpy(zero_copy_only=False)
    return found.astype(np.int64)


def load_network(run: Artifact) -> Network:
    """The weights of a run; raises `UserError` where they are gone, or not those that were written."""
    return Network(load_file(run.file("model.safetensors")))


def load_scorer(paths: Paths, run: Artifact) -> Scorer:
    """The network and the tables of a run of mlp.py; raises `UserError` where the matrix has been made anew since."""
    task, variant = run.settings["task"], run.settings["variant"]
    matrix = load_matrix(paths, task, variant, torch.device("cpu"))
    if run.manifest["inputs"]["matrix"] != matrix.fingerprint:
        raise UserError(
            f"--run {run.folder.name}: was trained on another matrix than the one now in "
            f"{paths.matrix / task / variant}; train again with mlp.py, or name a newer run"
        )
    inputs = load_step_inputs(paths, task)
    artifact = read_matrix(paths, task, variant)
    users, items = len(inputs.data.user_ids), len(inputs.data.item_ids)
    user_part, item_part = matrix.user_part[-users:], matrix.item_part[-items:]
    names, new_part = pa.array(inputs.data.item_names), item_part[:0]
    vectors_of_new: dict[str, np.ndarray] = {}
    if new := load_new_items(paths, inputs, artifact):
        names = pa.concat_arrays([pc.cast(names, pa.string()), pa.array(new.names, pa.string())])
        new_part, vectors_of_new = torch.from_numpy(new.item_part), new.vectors

    def with_others(kind: str, one: Pairs) -> Pairs:
        """New items have the vectors that their content tells; else they, and who is not known, have vectors of 0."""
        item_vectors = one.item_vectors[-items:]
        if kind in vectors_of_new:
            item_vectors = torch.cat([item_vectors, torch.from_numpy(vectors_of_new[kind])])
        missing = items + len(new_part) + 1 - len(item_vectors)
        return Pairs(
            functional.pad(one.user_vectors[-users:], (0, 0, 0, 0, 0, 1)),
            functional.pad(item_vectors, (0, 0, 0, missing)),
            one.shift,
        )

    whole = FactorMatrix(
        torch.cat([user_part, _stand_in(user_part, artifact, "user")]),
        torch.cat([item_part, new_part, _stand_in(item_part, artifact, "item")]),
        matrix.train,
        matrix.valid,
        matrix.test,
        matrix.settings,
        matrix.fingerprint,
        tuple(map(with_others, artifact.manifest.get("pairs", ()), matrix.pairs)),
    )
    return Scorer(load_network(run), whole, pa.array(inputs.data.user_names), names)


def score_pairs(scorer: Scorer, pairs: Path, file: BinaryIO) -> tuple[int, int]:
    """Score a TSV with the columns `user` and `item`, block by block, into a TSV `user item score` in its order.

    Returns: pairs, and how many of them have a user or an item that is not known. Raises `UserError`.
    """

    def asked(table: pa.Table) -> tuple[Asked, Asked]:
        return asked_for(table["user"], scorer.users, "user"), asked_for(table["item"], scorer.items, "item")

    def scored() -> Iterator[tuple[pa.Table, int]]:
        for user, item in read_tsv(pairs, ("user", "item"), asked, description="scoring"):
            missing = int(((user.place == len(scorer.users)) | (item.place == len(scorer.items))).sum())
            yield _scores(user.text, item.text, scorer.score(user.place, item.place)), missing

    count = unknown = 0
    with unchanged(lambda: [pairs]) as check:
        file.write(HEADER)
        # A block is turned into text while the next one is scored.
        for (table, missing), text in in_order(lambda block: _text(block[0]), scored()):
            file.write(text.result())
            count += len(table)
            unknown += missing
        check()
    return count, unknown


@dataclass(frozen=True)
class Asked:
    """Ids of one column of a file: `text` (n,) as they are written, without quotes and blanks around them, and `place`
    int64 (n,), as `positions` tells it.
    """

    text: pa.Array
    place: np.ndarray


def asked_for(column: pa.ChunkedArray, known: pa.Array, name: str) -> Asked:
    """A column of texts as ids, alike where they are written alike: `001` is not 1, and no word is a number.

    Args:
        known: integers or strings. Raises `BadLine` for what can be no id.
    """
    text = pc.utf8_trim_whitespace(column.combine_chunks())
    ids = ids_of(text, name)
    if not pa.types.is_integer(known.type):
        return Asked(text, positions(text, known))
    place = positions(pa.array(ids.values), known)
    place[ids.named] = len(known)
    return Asked(text, place)


def _scores(user: pa.Array, item: pa.Array, score: np.ndarray) -> pa.Table:
    return pa.table({"user": user, "item": item, "score": score})


def _text(table: pa.Table) -> pa.Buffer:
    """The lines of a TSV. A quote within an id stands as it is; an id that starts with one is put in quotes, so that no
    reader takes it for the beginning of a quoted cell.
    """
    texts = [column for column in table.columns if pa.types.is_string(column.type)]
    if any(pc.any(pc.match_substring(column, '"')).as_py() for column in texts):
        columns = [pc.cast(column, pa.string()).to_pylist() for column in table.columns]
        lines = ("\t".join(map(_cell, row)) + "\n" for row in zip(*columns, strict=True))
        return pa.py_buffer("".join(lines).encode())
    text = pa.BufferOutputStream()
    csv.write_csv(table, text, csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none"))
    return text.getvalue()


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if text.startswith('"') else text


def top_items(scorer: Scorer, users: Path, count: int, file: BinaryIO) -> tuple[int, int]:
    """For each user of a TSV with the column `user` the `count` best of all items, best first, as `score_pairs` writes.

    Returns: users, and how many of them are not known. Raises `UserError`.
    """

    def asked_users(table: pa.Table) -> Asked:
        return asked_for(table["user"], scorer.users, "user")

    with unchanged(lambda: [users]) as check:
        blocks = list(read_tsv(users, ("user",), asked_users, description="users"))
        check()
    asked = pa.chunked_array([block.text for block in blocks], pa.string()).combine_chunks()
    place = np.concatenate([np.empty(0, np.int64), *(block.place for block in blocks)])
    items = len(scorer.items)
    count = min(count, items)
    at_a_time = max(1, PAIRS_AT_A_TIME // items)
    file.write(HEADER)
    with progress("scoring", len(place)) as advance:
        for chosen in _slices(len(place), at_a_time):
            one = place[chosen]
            score = scorer.score(np.repeat(one, items), np.tile(np.arange(items), len(one))).reshape(-1, items)
            best = np.argsort(-score, axis=1, kind="stable")[:, :count]
            item = scorer.items.take(pa.array(best.ravel()))
            user = asked[chosen.start : chosen.stop].take(pa.array(np.repeat(np.arange(len(one)), count)))
            file.write(_text(_scores(user, item, np.take_along_axis(score, best, axis=1).ravel())))
            advance(len(one))
    return len(place), int((place == len(scorer.users)).sum())


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
