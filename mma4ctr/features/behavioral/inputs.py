"""What features plus take from the columns beside content: categories, bins of numbers, the hour and recency.

Numbers enter twice: as quantile bins of two widths, whose effects sum to a smooth curve, and as normal scores for the
network. Recency describes the user's earlier rows by their times alone, so it contains no label. Rows of equal time
have the same recency: their order may depend on the labels, as with sampled negatives, which follow their positive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mma4ctr.data.interactions import Interactions, LogRows
from mma4ctr.data.log_columns import StoredColumn, stored_columns
from mma4ctr.data.row_order import groups_of
from mma4ctr.features.behavioral.histories import History
from mma4ctr.features.behavioral.row_passes import rows_within
from mma4ctr.features.behavioral.signals import parts_of_users, starts_of
from mma4ctr.storage.row_arrays import IN_MEMORY, RowArrays

# Quantile bins of a number: coarse ones for few rows, fine ones for many.
BINS = (8, 32)
QUANTILES = 1000
# Quantiles are taken from at least so many values, evenly spaced, if there are more.
VALUES_OF_QUANTILES = 1 << 22
HOUR, DAY = 3600.0, 86_400.0
RECENCY = ("recency:gap", "recency:last-hour", "recency:last-day")
# Where a log has days in place of times, a row comes one such part of a day after the user's row before it.
PARTS_OF_A_DAY = 1 << 20
# Weekdays are used if the log spans at least so many days.
WEEKDAYS_FROM_DAYS = 21


@dataclass(frozen=True)
class SideInputs:
    """The columns of the users or the items.

    Attributes:
        categories: By name, int64 (size,) codes of categories and of bins, 0 if missing.
        numbers: float32 (size, k), normal scores; 0 if missing.
        number_names: Of the k columns.
        rated: Names of the categories that are no bins.
        paired: Names of the categories whose pairs with users may get rates: those and the coarse bins.
    """

    categories: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    number_names: tuple[str, ...] = ()
    rated: tuple[str, ...] = ()
    paired: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogInputs:
    """The inputs of all kept rows.

    Attributes:
        rows: The rows.
        user: Of the users.
        item: Of the items.
        context: By name, unsigned codes (rows,) of the rows' own categories.
        recency: float32 (rows, k), see `recency_of`; k is 0 if all times are equal.
        paired: Names of the context categories whose pairs with users and items get rates.
        history: What users did before their first rows; None if the log does not say.
    """

    rows: LogRows
    user: SideInputs
    item: SideInputs
    context: dict[str, np.ndarray]
    recency: np.ndarray
    paired: tuple[str, ...]
    history: History | None = None


def quantile_edges(values: np.ndarray) -> np.ndarray:
    """float64 (at most 1,000,), quantiles of the values (n,) that are not missing."""
    values = values[:: max(1, len(values) // VALUES_OF_QUANTILES)]
    known = values[np.isfinite(values)].astype(np.float64)
    return np.quantile(known, np.linspace(0, 1, min(QUANTILES, max(len(known), 2)))) if len(known) else np.zeros(2)


def bins_of(values: np.ndarray, edges: np.ndarray, count: int) -> np.ndarray:
    """int64 (n,): 0 for a missing value, else 1 + its quantile bin of at most `count`."""
    inner = np.unique(np.quantile(edges, np.arange(1, count) / count))
    codes = np.searchsorted(inner, values, side="right") + 1
    return np.where(np.isfinite(values), codes, 0)


def binned(name: str, values: np.ndarray, edges: np.ndarray) -> dict[str, np.ndarray]:
    """The codes of numbers (n,) in bins of each width, int64 (n,) by `<name>/<bins>`."""
    return {f"{name}/{count}": bins_of(values, edges, count) for count in BINS}


def normal_scores(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """float32 (n,): the normal quantile of each value's rank among the edges; 0 for a missing value.

    The scores lie between -3, that of the lowest edge and of lower values, and 3, that of the highest.
    """
    lowest, width = edges[0], edges[-1] - edges[0]
    if not len(values) or not width:
        return np.zeros(len(values), np.float32)
    # Importing sklearn takes a second, which processes that only train save.
    from sklearn.preprocessing import QuantileTransformer

    transformer = QuantileTransformer(n_quantiles=len(edges), output_distribution="normal", subsample=None)
    # It takes values within 1e-7 of the lowest or highest edge for these, so the edges are scaled.
    transformer.fit((edges[:, None] - lowest) / width)
    scores = transformer.transform((np.asarray(values, np.float64)[:, None] - lowest) / width)[:, 0]
    # A share of 0 or 1 has an infinite score, which the transformer clips at 5.2.
    return np.nan_to_num(np.clip(scores, -3, 3)).astype(np.float32)


def side_inputs(
    columns: Sequence[StoredColumn], size: int, name: str, others: Sequence[np.ndarray] | None = None
) -> SideInputs:
    """The inputs of the users or the items.

    Args:
        columns: Step 1's columns.
        size: Number of users or items.
        name: `user` or `item`.
        others: (size,) values of each column for users or items that step 1 has no row of; None for step 1's own.
    """
    categories: dict[str, np.ndarray] = {}
    scores, names, paired = [], [], []
    for column, values in zip(columns, others or [column.values for column in columns], strict=True):
        if column.is_category:
            categories[column.name] = values.astype(np.int64)
            paired.append(column.name)
            continue
        edges = quantile_edges(column.values)
        categories |= binned(column.name, values, edges)
        paired.append(f"{column.name}/{BINS[0]}")
        scores.append(normal_scores(values, edges))
        names.append(f"{name}-numbers:{column.name}")
    numbers = np.stack(scores, axis=1) if scores else np.zeros((size, 0), np.float32)
    rated = tuple(column.name for column in columns if column.is_category)
    return SideInputs(categories, numbers, tuple(names), rated, tuple(paired))


def recency_of(
    user: np.ndarray, time: np.ndarray, ticks_per_second: float | None, arrays: RowArrays = IN_MEMORY
) -> np.ndarray:
    """Each row's user's rows of earlier times: time since the last one, and their number in the last hour and day.

    Args:
        user: int (rows,), sorted.
        time: int64 (rows,), sorted within each user.
        ticks_per_second: Units of `time` in a second; None if unknown, then only the first column is made.
        arrays: Makes arrays of rows.

    Returns:
        float32 (rows, 3) or (rows, 1): normal scores of the gap (that of the longest for a user's first row), and
        log(1 + rows).
    """
    scales = [] if ticks_per_second is None else [HOUR * ticks_per_second, DAY * ticks_per_second]
    made = arrays.empty((len(user), 1 + len(scales)), np.float32)
    some = np.arange(0, len(user), max(1, len(user) // VALUES_OF_QUANTILES))
    edges = quantile_edges(_gaps(user, time, some))
    starts = starts_of(user, int(user[-1]) + 1 if len(user) else 0, arrays)
    for part in arrays.parts([rows for _, rows, _ in parts_of_users(starts)]):
        of_user, of_row = user[part], time[part]
        first, group = groups_of(of_user, of_row)
        gap = _gaps(of_user, of_row, first)
        gap[np.isnan(gap)] = edges[-1]
        made[part, 0] = normal_scores(gap, edges)[group]
        for place, window in enumerate(scales, 1):
            made[part, place] = np.log1p(rows_within(of_user, of_row, window)[first])[group]
    return made


def _gaps(user: np.ndarray, time: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float64: the time since the row before, of some rows, int (n,); NaN for a user's first row."""
    before = np.maximum(rows - 1, 0)
    gap = time[rows].astype(np.float64) - time[before].astype(np.float64)
    gap[(user[rows] != user[before]) | (rows == 0)] = np.nan
    return gap


def times_of_days(user: np.ndarray, day: np.ndarray, arrays: RowArrays = IN_MEMORY) -> np.ndarray:
    """Times of rows that have a day and an order within it: each row follows the one before by a part of the day.

    The fraction of the day that step 1 wrote (`day_and_position`) would tell how many rows of the user follow that day.

    Args:
        user: int (rows,), sorted.
        day: float64 (rows,), days with any fraction, sorted within each user.
        arrays: Makes arrays of rows.

    Returns:
        int64 (rows,), in units of 1 / `PARTS_OF_A_DAY` of a day.
    """
    made = arrays.empty((len(user),), np.int64)
    starts = starts_of(user, int(user[-1]) + 1 if len(user) else 0, arrays)
    for part in arrays.parts([rows for _, rows, _ in parts_of_users(starts)]):
        whole = np.floor(day[part]).astype(np.int64)
        first, group = groups_of(user[part], whole)
        position = np.arange(len(whole)) - first[group]
        made[part] = whole * PARTS_OF_A_DAY + np.minimum(position, PARTS_OF_A_DAY - 1)
    return made


def times_between(data: Interactions) -> tuple[float, float]:
    """The first and the last time; 0 and 0 without rows."""
    if not len(data):
        return 0.0, 0.0
    extremes = [(data.time[part].min(), data.time[part].max()) for part in data.parts()]
    return float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))


def clock_codes(data: Interactions) -> dict[str, np.ndarray]:
    """Codes of the hour and the weekday in UTC; the weekday only in a log of at least `WEEKDAYS_FROM_DAYS` days.

    Args:
        data: Step 1's arrays.

    Returns:
        uint8 (rows,) by name; empty if the data have no times of day, or no hour is wanted.
    """
    manifest = data.artifact.manifest
    ticks = manifest.get("ticks_per_second")
    if not (manifest.get("hour") and ticks):
        return {}
    first, last = times_between(data)
    names = ["hour", "weekday"] if (last / ticks - first / ticks) / DAY >= WEEKDAYS_FROM_DAYS else ["hour"]
    found = {name: data.arrays.empty((len(data),), np.uint8) for name in names}
    for part in data.parts():
        seconds = data.time[part] / ticks
        for name, codes in found.items():
            codes[part] = clock_code(name, seconds)
    return found


def clock_code(name: str, seconds: np.ndarray) -> np.ndarray:
    """uint8 (n,): the `hour` or `weekday` of times in seconds since 1970, float64 (n,); weekday 0 is Monday."""
    code = seconds // HOUR % 24 if name == "hour" else (seconds // DAY + 3) % 7  # 1970-01-01 was a Thursday
    return code.astype(np.uint8)


def log_inputs(data: Interactions, without: str = "") -> LogInputs:
    """The inputs of step 1's rows.

    Args:
        data: Step 1's arrays.
        without: A group of columns that is left out: `user-columns`, `item-columns`, `context` or `recency`.
    """
    sides: Mapping[str, list[StoredColumn]] = {side: stored_columns(data.artifact, side) for side in ("user", "item")}
    user, item = (
        side_inputs([] if without == f"{side}-columns" else sides[side], size, side)
        for side, size in (("user", len(data.user_ids)), ("item", len(data.item_ids)))
    )
    context: dict[str, np.ndarray] = {}
    paired = []
    ticks = data.artifact.manifest.get("ticks_per_second")
    if without != "context":
        for column in stored_columns(data.artifact, "context", data.arrays):
            if column.is_category:
                context[column.name] = column.values
                if column.categories > 1:
                    paired.append(column.name)
                continue
            edges = quantile_edges(column.values)
            bins = {f"{column.name}/{count}": data.arrays.empty((len(data),), np.uint8) for count in BINS}
            for part in data.parts():
                for name, codes in binned(column.name, column.values[part], edges).items():
                    bins[name][part] = codes
            context |= bins
        context |= clock_codes(data)
    recency = np.zeros((len(data), 0), np.float32)
    first, last = times_between(data)
    # Without a column of times a time is a place in the file, and files may put a user's rows in an order that tells
    # the labels: each positive, then its negatives.
    if without != "recency" and first < last and data.artifact.manifest.get("timed", True):
        time = data.time
        if time.dtype.kind == "f":
            time, ticks = times_of_days(data.user, time, data.arrays), PARTS_OF_A_DAY / DAY
        recency = recency_of(data.user, time, ticks, data.arrays)
    history = None
    if "history_user" in data.artifact.array_names:
        history = History(data.artifact.array("history_user"), data.artifact.array("history_item"))
    return LogInputs(data, user, item, context, recency, tuple(paired), history)
