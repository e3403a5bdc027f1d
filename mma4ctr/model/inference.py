"""Prediction with a trained network: test rows for step 5, and any pairs of users and items for `--predict`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load_file
from torch.nn import functional

from mma4ctr.datasets.columns import ids_of
from mma4ctr.features.feature_matrix import (
    FactorMatrix,
    LookupTable,
    Pairs,
    RowGroup,
    load_matrix,
    load_step_inputs,
    read_matrix,
)
from mma4ctr.features.variants import split_variant
from mma4ctr.model.cold_start import load_new_items
from mma4ctr.model.context import ContextLookups, context_lookups
from mma4ctr.model.mlp import Network, torch_threads
from mma4ctr.model.score_files import HEADER, score_table, text_lines
from mma4ctr.runtime.console import progress
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order, slices
from mma4ctr.storage.artifacts import Artifact
from mma4ctr.storage.delimited import read_header, read_tsv
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.unchanged import unchanged

# Rows that one network scores at a time. On a CPU they have 4 MB of first-layer outputs, which stay in the cache.
ROWS_ON_CPU, ROWS_ON_DEVICE = 8192, 65_536
# Bytes up to which the first layer is computed once for each user and item: 512 for each of them and each network.
MOST_FIRST_LAYERS = 3 << 27
# Training rows whose mean recency is taken.
ROWS_OF_A_MEAN = 1 << 20
# Pairs that `top_items` scores at a time.
PAIRS_AT_A_TIME = 1 << 20


@torch.no_grad()
def predict(
    network: Network, matrix: FactorMatrix, rows: RowGroup, *, with_hidden: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Predict rows.

    Args:
        network: One or several networks.
        matrix: The feature matrix.
        rows: The rows.
        with_hidden: Keep the last hidden layers.

    Returns:
        float32 (rows,) logits, the mean over the networks, and float32 (rows, networks * width) last hidden layers;
        (0, networks * width) if they are not kept.
    """
    device = rows.label.device
    first_layer = _first_layer(network, matrix, rows)
    logits = torch.empty(len(rows), device=device)
    kept = len(rows) if with_hidden else 0
    hidden = torch.empty(kept, network.networks * network.weights[-1].shape[2], device=device)
    step = (ROWS_ON_CPU if device.type == "cpu" else ROWS_ON_DEVICE) // network.networks

    def score(start: int) -> None:
        chunk = slice(start, start + step)
        logits[chunk], last = network.forward_from_first(first_layer(chunk))
        if with_hidden:
            hidden[chunk] = last

    starts = range(0, len(rows), step)
    if device.type == "cpu":
        _one_core_each(score, starts)
    else:
        for start in starts:
            score(start)
    rows.arrays.release()
    return logits, hidden


def _first_layer(network: Network, matrix: FactorMatrix, rows: RowGroup) -> Callable[[slice], torch.Tensor]:
    """A function from a slice of the rows to their first layer before tanh: float32 (n, networks * width).

    The first layer is linear in the user part and the item part, so it is computed once per user and once per item
    instead of once per row, unless there are very many of them. Only the columns of pairs are computed for each row.
    """
    weight, bias = network.weights[0].flatten(0, 1), network.biases[0].flatten()
    user_part, user_row, first_user = _used(matrix.user_part, rows.user_row)
    item_part, item_row, first_item = _used(matrix.item_part, rows.item_row)
    users, width = user_part.shape
    if 4 * (users + len(item_part)) * len(weight) > MOST_FIRST_LAYERS:
        return lambda chunk: torch.addmm(bias, rows.features(matrix, chunk), weight.T)
    user_weight, item_weight, row_weight = weight.split([width, item_part.shape[1], matrix.row_features], dim=1)
    halves = weight.new_empty(users + len(item_part), len(weight))
    torch.addmm(bias, user_part, user_weight.T, out=halves[:users])
    torch.mm(item_part, item_weight.T, out=halves[users:])

    def from_halves(chunk: slice) -> torch.Tensor:
        both = torch.stack((user_row[chunk] - first_user, item_row[chunk] + (users - first_item)), dim=1)
        # embedding_bag prefetches and adds while it reads: half the time of two gathers and a sum.
        made = functional.embedding_bag(both, halves, mode="sum")
        if matrix.row_features:
            columns = weight.new_empty(len(made), matrix.row_features)
            matrix.gather_row_features(rows.chosen(chunk), columns)
            made.addmm_(columns, row_weight.T)
        return made

    return from_halves


def _used(part: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Select the rows of a part that an index refers to.

    This is a range of rows, since test rows use one block of the user part. If the range is far longer than the index,
    it is the distinct rows.

    Args:
        part: (table rows, width).
        index: int32 or int64 (rows,).

    Returns:
        The selected rows, an index into them, and an offset to subtract from that index.
    """
    low, high = (int(index.min()), int(index.max())) if len(index) else (0, -1)
    if high - low < 2 * len(index):
        return part[low : high + 1], index, low
    rows, place = torch.unique(index, return_inverse=True)
    return part[rows], place, 0


def _one_core_each(work: Callable[[int], None], items: Iterable[int]) -> None:
    """Process items in threads that use one core each.

    torch would split every operation over the cores and wait for all of them, and numpy's tanh uses only one core.
    Threads that process whole chunks do not wait for each other.
    """
    with torch_threads(1) as cores, ThreadPoolExecutor(cores) as pool:  # threads started here inherit the setting
        list(pool.map(work, items))


def _unknown_row(rows: torch.Tensor, artifact: Artifact, part: str) -> torch.Tensor:
    """Return the features of an unknown user or item.

    Args:
        rows: float32 (n, width), the part of the known ones.
        artifact: The feature matrix.
        part: `user` or `item`.

    Returns:
        float32 (1, width): with features plus those of one without training rows, whose unscaled columns are 0; with
        the paper's features the mean of `rows`.
    """
    if split_variant(artifact.settings["variant"])[1] == "paper":
        return rows.mean(dim=0, keepdim=True)
    blank = -artifact.array(f"{part}_shift") / artifact.array(f"{part}_scale")
    return torch.from_numpy(blank.astype(np.float32)).unsqueeze(0)


@dataclass(frozen=True)
class Scorer:
    """A trained run of mlp.py that can score any pairs.

    Attributes:
        network: The network.
        matrix: The last block of the feature matrix, followed by one row for unknown users and one for unknown items.
        users: Ids of the users, as the raw files write them.
        items: Ids of the items, likewise, new items last.
        context: The lookups of the matrix, and the coding of context columns.
        usual_recency: float16 (r,), for rows whose recency is not known: the mean of the training rows.
    """

    network: Network
    matrix: FactorMatrix
    users: pa.Array
    items: pa.Array
    context: ContextLookups
    usual_recency: np.ndarray

    def score(
        self,
        user: np.ndarray,
        item: np.ndarray,
        context: Mapping[str, np.ndarray] = MappingProxyType({}),
        recency: np.ndarray | None = None,
    ) -> np.ndarray:
        """Predict the probabilities of pairs.

        Args:
            user: int64 (pairs,), positions.
            item: int64 (pairs,), positions.
            context: By category, int64 (pairs,) codes as `ContextLookups.read` returns them.
            recency: float16 (pairs, r), as the matrix has it; None if it is not known.

        Returns:
            float32 (pairs,).
        """
        # Sorted by user, so that the user's vectors, and the keys of the user's pairs, stay in the cache.
        order = np.argsort(user, kind="stable")
        user, item = user[order], item[order]
        found = self.context.codes(user, item, {name: codes[order] for name, codes in context.items()})
        given = None if recency is None else torch.from_numpy(recency[order])
        if given is None and self.matrix.recency:
            given = torch.from_numpy(self.usual_recency).expand(len(user), -1)
        codes = tuple(map(torch.from_numpy, found))
        unlabelled = torch.empty(len(user), dtype=torch.uint8)
        rows = RowGroup(order, torch.from_numpy(user), torch.from_numpy(item), unlabelled, codes, given)
        probability = np.empty(len(user), np.float32)
        probability[order] = torch.sigmoid(predict(self.network, self.matrix, rows)[0]).numpy()
        return probability


def positions(ids: pa.Array, known: pa.Array) -> np.ndarray:
    """Return the position of each id among the known ones, int64 (n,); `len(known)` for unknown ids."""
    found: np.ndarray = pc.fill_null(pc.index_in(ids, value_set=known), len(known)).to_numpy(zero_copy_only=False)
    return found.astype(np.int64)


def load_network(run: Artifact) -> Network:
    """Load the network of a run; raises `UserError` if its file is missing or damaged."""
    return Network(load_file(run.file("model.safetensors")))


def matrix_of_run(paths: Paths, run: Artifact) -> Artifact:
    """Open the feature matrix that a run was trained on; raises `UserError` if it was made anew since."""
    task, variant = run.settings["task"], run.settings["variant"]
    matrix = read_matrix(paths, task, variant)
    if run.manifest["inputs"]["matrix"] != matrix.fingerprint:
        raise UserError(
            f"--run {run.folder.name}: was not trained on the matrix that is now in "
            f"{paths.matrix / task / variant}; train again with mlp.py, or choose a newer run"
        )
    return matrix


def load_scorer(paths: Paths, run: Artifact) -> Scorer:
    """Load the network and the tables of a run of mlp.py; raises `UserError` if the matrix has changed since."""
    task, variant = run.settings["task"], run.settings["variant"]
    artifact = matrix_of_run(paths, run)
    matrix = load_matrix(paths, task, variant, torch.device("cpu"))
    inputs = load_step_inputs(paths, task)
    users, items = len(inputs.data.user_ids), len(inputs.data.item_ids)
    user_part, item_part = matrix.user_part[-users:], matrix.item_part[-items:]
    names, new_part = pa.array(inputs.data.item_names), item_part[:0]
    vectors_of_new: dict[str, np.ndarray] = {}
    if new := load_new_items(paths, inputs, artifact):
        names = pa.concat_arrays([pc.cast(names, pa.string()), pa.array(new.names, pa.string())])
        new_part, vectors_of_new = torch.from_numpy(new.item_part), new.vectors

    def extended(kind: str, one: Pairs) -> Pairs:
        """Append the vectors of new items, 0 if content does not determine them, and vectors of 0 for unknown ids."""
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
        torch.cat([user_part, _unknown_row(user_part, artifact, "user")]),
        torch.cat([item_part, new_part, _unknown_row(item_part, artifact, "item")]),
        matrix.train,
        matrix.valid,
        matrix.test,
        matrix.settings,
        matrix.fingerprint,
        tuple(map(extended, artifact.manifest.get("pairs", ()), matrix.pairs)),
        tuple(LookupTable(one.table[-one.size :], one.size) for one in matrix.lookups),
        matrix.recency,
    )
    context = context_lookups(artifact, inputs.data, matrix.train, new)
    users_known = pa.array(inputs.data.user_names)
    return Scorer(load_network(run), whole, users_known, names, context, _mean_recency(matrix))


def _mean_recency(matrix: FactorMatrix) -> np.ndarray:
    """float16 (r,): the mean of the training rows, evenly spaced ones if they are many."""
    rows = matrix.train.recency
    if rows is None or not len(rows):
        return np.zeros(matrix.recency, np.float16)
    return rows[:: max(1, len(rows) // ROWS_OF_A_MEAN)].double().mean(0).half().numpy()


def given_context(scorer: Scorer, table: Path) -> list[str]:
    """Names of the context columns that a TSV of pairs or users has."""
    there = read_header(table, (), delimiter="\t", quoted=False)
    return [name for name in scorer.context.columns if name in there]


def missing_context(scorer: Scorer, table: Path) -> list[str]:
    """Names of the context columns that a TSV of pairs or users lacks."""
    given = given_context(scorer, table)
    return [name for name in scorer.context.columns if name not in given]


def score_pairs(scorer: Scorer, pairs: Path, file: BinaryIO) -> tuple[int, int]:
    """Score the pairs of a TSV, chunk by chunk, into a TSV with the columns user, item and score.

    Args:
        scorer: The trained run.
        pairs: A TSV with the columns `user` and `item`, and context columns by name.
        file: Where to write, in the order of `pairs`.

    Returns:
        Number of pairs, and number of pairs with an unknown user or item.

    Raises:
        UserError: The TSV cannot be read.
    """
    context = given_context(scorer, pairs)

    def read(table: pa.Table) -> tuple[IdColumn, IdColumn, dict[str, np.ndarray]]:
        user, item = id_column(table["user"], scorer.users, "user"), id_column(table["item"], scorer.items, "item")
        return user, item, scorer.context.read(table)

    def scored() -> Iterator[tuple[pa.Table, int]]:
        for user, item, codes in read_tsv(pairs, ("user", "item", *context), read, description="scoring"):
            missing = int(((user.place == len(scorer.users)) | (item.place == len(scorer.items))).sum())
            yield score_table(user.text, item.text, scorer.score(user.place, item.place, codes)), missing

    count = unknown = 0
    with unchanged(lambda: [pairs]) as check:
        file.write(HEADER)
        # A chunk is formatted while the next one is scored.
        for (table, missing), text in in_order(lambda chunk: text_lines(chunk[0]), scored()):
            file.write(text.result())
            count += len(table)
            unknown += missing
        check()
    return count, unknown


@dataclass(frozen=True)
class IdColumn:
    """The ids in one column of a file.

    Attributes:
        text: (n,), as in the file, without quotes and surrounding blanks.
        place: int64 (n,), as `positions` returns it.
    """

    text: pa.Array
    place: np.ndarray


def id_column(column: pa.ChunkedArray, known: pa.Array, name: str) -> IdColumn:
    """Look up a column of ids. Ids are equal only if they are written the same way: `001` is not `1`.

    Args:
        column: strings (n,).
        known: The known ids, integers or strings.
        name: Name of the column, for messages.

    Returns:
        The ids.

    Raises:
        BadLine: A cell cannot be an id.
    """
    text = pc.utf8_trim_whitespace(column.combine_chunks())
    ids = ids_of(text, name)
    if not pa.types.is_integer(known.type):
        return IdColumn(text, positions(text, known))
    place = positions(pa.array(ids.values), known)
    place[ids.named] = len(known)
    return IdColumn(text, place)


def top_items(scorer: Scorer, users: Path, count: int, file: BinaryIO) -> tuple[int, int]:
    """Find the best items for each user of a TSV, best first, and write them as `score_pairs` does.

    Args:
        scorer: The trained run.
        users: A TSV with the column `user`, and context columns by name.
        count: Items per user.
        file: Where to write.

    Returns:
        Number of users, and number of unknown users.

    Raises:
        UserError: The TSV cannot be read.
    """

    def users_in(table: pa.Table) -> tuple[IdColumn, dict[str, np.ndarray]]:
        return id_column(table["user"], scorer.users, "user"), scorer.context.read(table)

    with unchanged(lambda: [users]) as check:
        blocks = list(read_tsv(users, ("user", *given_context(scorer, users)), users_in, description="users"))
        check()
    names = pa.chunked_array([column.text for column, _ in blocks], pa.string()).combine_chunks()
    place = np.concatenate([np.empty(0, np.int64), *(column.place for column, _ in blocks)])
    contexts = [context for _, context in blocks]
    context = {name: np.concatenate([one[name] for one in contexts]) for name in (contexts[0] if contexts else ())}
    items = len(scorer.items)
    count = min(count, items)
    at_a_time = max(1, PAIRS_AT_A_TIME // items)
    file.write(HEADER)
    with progress("scoring", len(place)) as advance:
        for chosen in slices(len(place), at_a_time):
            one = place[chosen]
            codes = {name: np.repeat(values[chosen], items) for name, values in context.items()}
            score = scorer.score(np.repeat(one, items), np.tile(np.arange(items), len(one)), codes).reshape(-1, items)
            best = np.argsort(-score, axis=1, kind="stable")[:, :count]
            item = scorer.items.take(pa.array(best.ravel()))
            user = names[chosen.start : chosen.stop].take(pa.array(np.repeat(np.arange(len(one)), count)))
            file.write(text_lines(score_table(user, item, np.take_along_axis(score, best, axis=1).ravel())))
            advance(len(one))
    return len(place), int((place == len(scorer.users)).sum())
