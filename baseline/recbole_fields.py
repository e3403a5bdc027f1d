"""What RecBole's models get besides step 1's `.inter` files: files of columns, moments, and feature matrices.

The columns of users and items become fields of RecBole's atomic files `<dataset>.user` and `<dataset>.item`:

- a category is a `token`: the code that step 1 gave it, empty if it is missing;
- a number is a `float_seq` of one number: its normal score, as features plus have it, 0 if it is missing. RecBole 1.2.1
  cannot embed two fields of type `float` in DIN and DIEN.

Categories and numbers of the row itself, with the hour and the weekday, are arrays in the same folder. Only models with
context fields (DCN-V2) read them. Fields are called by their place, because names of columns may hold any character.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from raw_columns import Column, raw_columns

from mma4ctr.data.interactions import Interactions
from mma4ctr.datasets.base import SPLIT_NAMES
from mma4ctr.features.behavioral.inputs import normal_scores, quantile_edges
from mma4ctr.features.feature_matrix import FactorMatrix


def fields_of(data: Interactions, side: str) -> dict[str, Column]:
    """The columns of one side that have a value, by the name of their field.

    Args:
        data: Output of step 1.
        side: `user`, `item` or `context`.

    Returns:
        Columns by name.
    """
    columns = [column for column in raw_columns(data) if column.side == side and not column.name.endswith(" id")]
    return {
        f"{side}_column_{place}": column
        for place, column in enumerate(columns)
        if (column.values.any() if column.is_category else np.isfinite(column.values).any())
    }


def cells_of(column: Column) -> Iterable[str]:
    """The values of a column as they are written: codes, empty if missing; or normal scores."""
    if column.is_category:
        return (str(code) if code else "" for code in column.values.tolist())
    scores = normal_scores(column.values, quantile_edges(column.values))
    return map(repr, scores.astype(np.float64).round(4).tolist())


def _lines(heads: list[str], columns: list[Iterable[str]]) -> Iterator[str]:
    yield "\t".join(heads) + "\n"
    for cells in zip(*columns, strict=True):
        yield "\t".join(cells) + "\n"


def write_atomic_files(data: Interactions, graph: Path, folder: Path) -> dict[str, Any]:
    """Write RecBole's files of one data set with the fields of users and items, and the context as arrays.

    Args:
        data: Output of step 1.
        graph: The folder of step 1, whose `.inter` files are linked.
        folder: Where to write; its name is the name of the data set.

    Returns:
        Names of fields: `user` and `item`, those of the atomic files; `numbers`, those of them that are numbers; and
        `context`, a list of names and numbers of codes, 0 for numbers. Empty where nothing is stored.
    """
    folder.mkdir()
    for part in SPLIT_NAMES:
        name = f"{folder.name}.{part}.inter"
        (folder / name).symlink_to((graph / name).resolve())
    found: dict[str, Any] = {"user": [], "item": [], "numbers": [], "context": []}
    for side, ids in (("user", data.user_names), ("item", data.item_names)):
        fields = fields_of(data, side)
        if not fields:
            continue
        found[side] = list(fields)
        found["numbers"] += [name for name, column in fields.items() if not column.is_category]
        heads = [f"{name}:{'token' if column.is_category else 'float_seq'}" for name, column in fields.items()]
        cells = [map(str, ids.tolist()), *map(cells_of, fields.values())]
        with (folder / f"{folder.name}.{side}").open("w", encoding="utf-8") as file:
            file.writelines(_lines([f"{side}_id:token", *heads], cells))
    order = _order_of_recbole(data)
    for name, column in fields_of(data, "context").items():
        values, size = column.values[order], 0
        if column.is_category:
            values, size = values.astype(np.int64), int(column.values.max()) + 1
        else:
            values = normal_scores(values, quantile_edges(column.values))
        np.save(folder / f"{name}.npy", values)
        found["context"].append([name, size])
    return found


def moments_of(data: Interactions) -> np.ndarray:
    """Where each row stands in time: int64 (rows,) ranks of the times, equal for equal times.

    RecBole keeps times as float32. Milliseconds since 1970 are then equal over two minutes, and a history of what came
    strictly before a row would lack the user's last actions.

    Args:
        data: Output of step 1.

    Returns:
        The ranks, in the order of RecBole's rows: train, valid, test.
    """
    moments = np.unique(data.time, return_inverse=True)[1]
    return moments[_order_of_recbole(data)].astype(np.int64)


def _order_of_recbole(data: Interactions) -> np.ndarray:
    """int64 (rows,): the positions of the training, then the validation, then the test rows."""
    return np.concatenate([np.flatnonzero(data.split == part) for part in range(len(SPLIT_NAMES))])


def write_features(matrix: FactorMatrix, folder: Path) -> None:
    """Write a feature matrix in factors for a process without this package.

    Args:
        matrix: The matrix.
        folder: Where to write; rows are in the order train, valid, test.
    """
    groups = (matrix.train, matrix.valid, matrix.test)
    np.save(folder / "user_part.npy", matrix.user_part.numpy())
    np.save(folder / "item_part.npy", matrix.item_part.numpy())
    np.save(folder / "user_row.npy", np.concatenate([group.user_row.numpy() for group in groups]))
    np.save(folder / "item_row.npy", np.concatenate([group.item_row.numpy() for group in groups]))
