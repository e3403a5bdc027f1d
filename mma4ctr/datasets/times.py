"""Times of interactions: whole numbers, numbers with decimals, or dates, in the same form in all files.

The form is inferred from the first rows of each file and must be the same in all of them. Otherwise, with seconds in
one file and milliseconds in another, the rows would silently be in a wrong order.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import (
    Column,
    column_reader,
    described_type,
    is_text,
    plain_array,
    scatter_rows,
    shown_value,
)
from mma4ctr.datasets.columns import numbers_of, whole_numbers
from mma4ctr.runtime.errors import BadLine, UserError, first_line

MICROSECONDS = 1_000_000
KINDS = {
    "whole": "whole numbers",
    "number": "numbers with decimals",
    "date": "dates without a time zone",
    "zoned": "dates with a time zone",
}
A_DATE = "a date such as 2024-05-31 18:00:00"
# A number is in a unit if it is between these years in it; the ranges of two units are a factor of 150 apart.
YEARS = (1990, 2100)
_EPOCH = [float(np.datetime64(f"{year}", "s").astype(np.int64)) for year in YEARS]
# Times are counters if more of them are no time in any unit.
COUNTERS_SHARE = 0.05
UNITS = ("", "seconds", "milliseconds", "microseconds", "nanoseconds", "YYYYMMDD", "YYYYMMDDhhmm", "YYYYMMDDhhmmss")


@dataclass(frozen=True)
class TimeForm:
    """How times are written.

    Attributes:
        kind: a key of KINDS.
        unit: one of UNITS, inferred from the size of the numbers; empty if unknown.
    """

    kind: str
    unit: str = ""

    def __str__(self) -> str:
        return KINDS[self.kind] + (f" ({self.unit})" if self.unit else "")

    @property
    def ticks_per_second(self) -> float | None:
        """Units of the integers that `time_of` gives in a second; None if the numbers do not show their unit."""
        if self.is_date or (self.kind == "number" and self.unit in ("", "seconds")):
            return MICROSECONDS
        scales = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
        scale = scales.get(self.unit)
        return scale if scale is None else scale * self.ticks

    @property
    def ticks(self) -> int:
        """What `time_of` multiplies numbers by: it keeps six decimals of seconds and milliseconds, none of others."""
        return MICROSECONDS if self.kind == "number" and self.unit in ("", "seconds", "milliseconds") else 1

    @property
    def is_date(self) -> bool:
        """Whether the times are dates."""
        return self.kind in ("date", "zoned")


def units_of(values: np.ndarray) -> np.ndarray:
    """Return uint8 (n,): the unit of each time as a position in UNITS; 0 if unknown."""
    found = np.zeros(len(values), np.uint8)
    size = np.asarray(values, np.float64)
    for number, scale in ((1, 1), (2, 10**3), (3, 10**6), (4, 10**9)):
        found[(size >= _EPOCH[0] * scale) & (size < _EPOCH[1] * scale)] = number
    for number, scale in ((5, 1), (6, 10**4), (7, 10**6)):
        rows = np.flatnonzero((size >= YEARS[0] * 10**4 * scale) & (size < (YEARS[1] + 1) * 10**4 * scale))
        days = (size[rows] // scale).astype(np.int64)
        month, day = days // 100 % 100, days % 100
        found[rows[(month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)]] = number
    return found


def form_of(column: Column, name: str) -> TimeForm:
    """Infer how most times of a column are written.

    Times in another form are reported with their lines when the rows are read.

    Raises:
        BadLine: The column has no time.
    """
    array = plain_array(column)
    try:
        kind, rows = _kind(array, name), None
    except BadLine:
        kinds = [_kind_or_mistake(array.slice(row, 1), name) for row in range(len(array))]
        count = Counter(kind for kind in kinds if isinstance(kind, str))
        if not count:
            raise next((kind for kind in kinds if isinstance(kind, BadLine)), BadLine("")) from None
        # One number with decimals makes the whole column decimal, as in a column without mistakes.
        number = "number" if count["number"] else "whole"
        count[number] = count["whole"] + count["number"] if number == "number" else count["whole"]
        kind = max(KINDS, key=lambda one: count[one])
        accepted = ("whole", "number") if kind == "number" else (kind,)
        rows = [row for row, one in enumerate(kinds) if isinstance(one, str) and one in accepted]
    if kind in ("date", "zoned") or not len(array):
        return TimeForm(kind)
    values = _numbers(array if rows is None else array.take(pa.array(rows, pa.int64())), name, kind)
    found = units_of(values)
    units = np.bincount(found, minlength=len(UNITS))
    most = int(units.argmax())
    # Anonymised times are counters: they run through the numbers that are no time in any unit, so none of them shows
    # a unit. A few of them are 0 where a time is missing.
    counters = np.count_nonzero((found == 0) & (values != 0)) > COUNTERS_SHARE * len(values)
    return TimeForm(kind, UNITS[most] if 2 * units[most] > len(values) and not counters else "")


def _kind_or_mistake(array: pa.Array, name: str) -> str | BadLine:
    try:
        return _kind(array, name)
    except BadLine as error:
        return error


def _kind(array: pa.Array, name: str) -> str:
    """Return the kind that all times have; raises `BadLine` if there is none."""
    if not array.null_count:
        if pa.types.is_integer(array.type):
            return "whole"
        if pa.types.is_floating(array.type):
            return "number"
        if pa.types.is_temporal(array.type):
            return "zoned" if getattr(array.type, "tz", None) else "date"
    mistake = BadLine("")
    for kind in KINDS:
        try:
            if kind == "number":
                _numbers(array, name, kind)  # the unit, which limits their range, is not known yet
            else:
                time_of(array, name, TimeForm(kind))
            return kind
        except BadLine as error:
            mistake = error
    empty = str(mistake).endswith("a time is empty")
    raise mistake if empty else BadLine(f"column {name}: {shown_value(array)} is neither a number nor {A_DATE}")


def common_form(forms: Sequence[tuple[Path, TimeForm]], name: str) -> TimeForm:
    """Return the form of the times in all files; raises `UserError` with the names of two files that differ."""
    _, common = forms[0]
    kinds = {form.kind for _, form in forms}
    with_unit = [one for one in forms if one[1].unit]
    for path, form in forms:
        other_kind = form.kind != common.kind and not {form.kind, common.kind} <= {"whole", "number"}
        first, other = with_unit[0] if form.unit and not other_kind else forms[0]
        if other_kind or (form.unit and form.unit != other.unit):
            raise UserError(f"{path}: column {name}: {form}, but {first} has {other}; use the same form in all files")
    # Numbers that show no unit in one file have none in the others either: anonymised times start at any number.
    return TimeForm("number" if "number" in kinds else common.kind, common.unit if len(with_unit) == len(forms) else "")


@column_reader("times", scatter_rows)
def time_of(array: Column, name: str, form: TimeForm) -> np.ndarray:
    """Convert a column of times.

    Args:
        array: the column.
        name: its name, for messages.
        form: how its times are written.

    Returns:
        int64 (n,): whole numbers unchanged, numbers with decimals times `form.ticks`, dates in microseconds.

    Raises:
        BadLine: A time has another form or unit.
    """
    if array.null_count:
        raise BadLine(f"column {name}: a time is empty")
    if is_text(array.type):
        array = pc.utf8_trim_whitespace(array)
        if pc.any(pc.equal(array, "")).as_py():
            raise BadLine(f"column {name}: a time is empty")
    if form.is_date:
        return _dates(array, name, form)
    values = _numbers(array, name, form.kind)
    if form.unit:
        units = units_of(values)
        other = np.flatnonzero((units != 0) & (units != UNITS.index(form.unit)))
        if len(other):
            value = f"{values[other[0]]:.15g}" if form.kind == "number" else values[other[0]]
            unit = UNITS[units[other[0]]]
            raise BadLine(f"column {name}: {value} is in {unit}, but the first times are in {form.unit}")
    if form.kind == "whole":
        return values
    # Compared before the product, which overflows for the largest numbers.
    if len(values) and np.abs(values).max() >= 2**63 / form.ticks:
        raise BadLine(f"column {name}: a time of over {2**63 / form.ticks:.0g} {form.unit or 'seconds'}")
    return np.round(values * form.ticks).astype(np.int64)


@column_reader("times", scatter_rows)
def _numbers(array: Column, name: str, kind: str) -> np.ndarray:
    """Convert numeric times to int64 (n,) for kind `whole`, else float64 (n,); raises `BadLine`."""
    if pa.types.is_boolean(array.type) or pa.types.is_temporal(array.type):
        raise BadLine(f"column {name}: {shown_value(array)} is not a number, but the first times are")
    if kind == "number":
        return numbers_of(array, name)
    try:
        if is_text(array.type):
            return whole_numbers(pc.utf8_trim_whitespace(array))
        found: np.ndarray = pc.cast(array, pa.int64()).to_numpy(zero_copy_only=False)
        return found
    except pa.ArrowInvalid as error:
        value = re.search("'(.*)'", first_line(error))
    raise BadLine(f"column {name}: {repr(value[1]) if value else shown_value(array)} is not a whole number")


def _dates(array: pa.Array, name: str, form: TimeForm) -> np.ndarray:
    """Convert text or Arrow dates to int64 (n,) microseconds; nanoseconds are truncated."""
    zoned = form.kind == "zoned"
    if is_text(array.type):
        try:
            return _microseconds(array, zoned)
        except pa.ArrowInvalid as error:
            value = re.search("'(.*)'", first_line(error))
        wrong = pa.array([value[1] if value else array[0].as_py()])
        try:
            _microseconds(wrong, not zoned)
        except pa.ArrowInvalid:
            raise BadLine(f"column {name}: {shown_value(wrong)} is not {A_DATE}") from None
        other, own = ("no time zone", "one") if zoned else ("a time zone", "none")
        raise BadLine(f"column {name}: {shown_value(wrong)} has {other}, but the first times have {own}")
    if not (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
        raise BadLine(f"column {name}: {shown_value(array)} ({described_type(array.type)}) is not {A_DATE}")
    if bool(getattr(array.type, "tz", None)) != zoned:
        raise BadLine(f"column {name}: {KINDS['date' if zoned else 'zoned']} where {form} are expected")
    return _microseconds(array, zoned)


def _microseconds(array: pa.Array, zoned: bool) -> np.ndarray:
    # Only nanoseconds may lose digits; seconds beyond the range of microseconds must be refused, not overflow.
    safe = getattr(array.type, "unit", "") != "ns"
    moments = pc.cast(array, pa.timestamp("us", tz="UTC" if zoned else None), safe=safe)
    found: np.ndarray = pc.cast(moments, pa.int64()).to_numpy(zero_copy_only=False)
    return found


def shown_time(moment: int, form: TimeForm) -> str:
    """Format a time from `time_of` for output; any year is possible, unlike with Python's dates."""
    if form.is_date:
        return str(np.datetime64(moment, "us")).replace("T", " ").removesuffix(".000000")
    return f"{moment / form.ticks:.15g}" if form.kind == "number" else str(moment)
