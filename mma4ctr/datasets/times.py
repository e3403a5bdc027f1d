"""Times of any file: whole numbers, numbers with decimals, or dates; with one meaning in all files of a log.

How times are written is told from the first rows of every file and must be the same in all of them: seconds beside
milliseconds, or dates beside numbers, would put the rows in a wrong order and nobody would see it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import Column, column_reader, described_type, in_place, is_text, shown_value, whole
from mma4ctr.datasets.columns import numbers_of
from mma4ctr.runtime.errors import BadLine, UserError

MICROSECONDS = 1_000_000
KINDS = {
    "whole": "whole numbers",
    "number": "numbers with decimals",
    "date": "dates without a time zone",
    "zoned": "dates with a time zone",
}
A_DATE = "a date such as 2024-05-31 18:00:00"
# A number tells its unit where it lies between these years in one: the ranges of two units are a factor of 150 apart.
YEARS = (1990, 2100)
_EPOCH = [float(np.datetime64(f"{year}", "s").astype(np.int64)) for year in YEARS]
UNITS = ("", "seconds", "milliseconds", "microseconds", "nanoseconds", "YYYYMMDD", "YYYYMMDDhhmm", "YYYYMMDDhhmmss")


@dataclass(frozen=True)
class TimeForm:
    """How times are written.

    Attributes:
        kind: of KINDS. unit: of UNITS, what the size of the numbers tells; empty where it tells nothing.
    """

    kind: str
    unit: str = ""

    def __str__(self) -> str:
        return KINDS[self.kind] + (f" ({self.unit})" if self.unit else "")

    @property
    def ticks_per_second(self) -> float | None:
        """Units of the integers that `time_of` gives in a second; None if the numbers do not tell their unit."""
        if self.is_date or (self.kind == "number" and self.unit in ("", "seconds")):
            return MICROSECONDS
        scales = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
        scale = scales.get(self.unit)
        return scale if scale is None or self.kind == "whole" else scale * MICROSECONDS

    @property
    def is_date(self) -> bool:
        """Whether times are dates, not numbers."""
        return self.kind in ("date", "zoned")


def units_of(values: np.ndarray) -> np.ndarray:
    """uint8 (n,): the unit of each time, a position in UNITS; 0 where its size tells none."""
    found = np.zeros(len(values), np.uint8)
    size = np.asarray(values, np.float64)
    for number, scale in ((1, 1), (2, 10**3), (3, 10**6), (4, 10**9)):
        found[(size >= _EPOCH[0] * scale) & (size < _EPOCH[1] * scale)] = number
    for number, after in ((5, 1), (6, 10**4), (7, 10**6)):
        rows = np.flatnonzero((size >= YEARS[0] * 10**4 * after) & (size < (YEARS[1] + 1) * 10**4 * after))
        days = (size[rows] // after).astype(np.int64)
        month, day = days // 100 % 100, days % 100
        found[rows[(month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)]] = number
    return found


def form_of(column: Column, name: str) -> TimeForm:
    """How most of some times are written; raises `BadLine` where there is no time among them.

    The few that are written otherwise are told with their lines when the rows are read.
    """
    array = whole(column)
    try:
        kind, rows = _kind(array, name), None
    except BadLine:
        kinds = [_kind_or_mistake(array.slice(row, 1), name) for row in range(len(array))]
        count = Counter(kind for kind in kinds if isinstance(kind, str))
        if not count:
            raise next((kind for kind in kinds if isinstance(kind, BadLine)), BadLine("")) from None
        # One number with decimals makes all of them such numbers, as it does where no time is wrong.
        number = "number" if count["number"] else "whole"
        count[number] = count["whole"] + count["number"] if number == "number" else count["whole"]
        kind = max(KINDS, key=lambda one: count[one])
        like = ("whole", "number") if kind == "number" else (kind,)
        rows = [row for row, one in enumerate(kinds) if isinstance(one, str) and one in like]
    if kind in ("date", "zoned") or not len(array):
        return TimeForm(kind)
    values = _numbers(array if rows is None else array.take(pa.array(rows, pa.int64())), name, kind)
    units = np.bincount(units_of(values), minlength=len(UNITS))
    most = int(units.argmax())
    return TimeForm(kind, UNITS[most] if 2 * units[most] > len(values) else "")


def _kind_or_mistake(array: pa.Array, name: str) -> str | BadLine:
    try:
        return _kind(array, name)
    except BadLine as error:
        return error


def _kind(array: pa.Array, name: str) -> str:
    """The one kind that all of some times are of; raises `BadLine` where there is none."""
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
            time_of(array, name, TimeForm(kind))
            return kind
        except BadLine as error:
            mistake = error
    empty = str(mistake).endswith("a time is empty")
    raise mistake if empty else BadLine(f"column {name}: {shown_value(array)} is no number and not {A_DATE}")


def common_form(forms: Sequence[tuple[Path, TimeForm]], name: str) -> TimeForm:
    """The form of the times of all files; raises `UserError` that names two files whose times differ."""
    (first, common), *rest = forms
    for path, form in rest:
        numbers = {common.kind, form.kind} == {"whole", "number"}
        if (common.kind != form.kind and not numbers) or (common.unit and form.unit and common.unit != form.unit):
            raise UserError(
                f"{path}: column {name}: {form}, but {first} has {common}; write the times of all files in the same way"
            )
        if form.unit and not common.unit:
            first = path
        common = TimeForm("number" if numbers else common.kind, common.unit or form.unit)
    return common


@column_reader("times", in_place)
def time_of(array: Column, name: str, form: TimeForm) -> np.ndarray:
    """A column of times in one form.

    Returns: int64 (n,): whole numbers as they are, numbers with decimals and dates in microseconds.

    Raises:
        BadLine: for what is written in another way, also another unit.
    """
    if array.null_count or pa.types.is_null(array.type):
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
            shown = f"{values[other[0]]:.15g}" if form.kind == "number" else values[other[0]]
            raise BadLine(f"column {name}: {shown} is in {UNITS[units[other[0]]]}, and the first times in {form.unit}")
    if form.kind == "whole":
        return values
    moments = np.round(values * MICROSECONDS)
    if len(moments) and np.abs(moments).max() >= 2**63:
        raise BadLine(f"column {name}: a time of over 9e12 seconds")
    return moments.astype(np.int64)


@column_reader("times", in_place)
def _numbers(array: Column, name: str, kind: str) -> np.ndarray:
    """Times as they are written: int64 (n,) of `whole` numbers, float64 (n,) of others; raises `BadLine`."""
    if pa.types.is_boolean(array.type) or pa.types.is_temporal(array.type):
        raise BadLine(f"column {name}: {shown_value(array)} is not a number, as the first times are")
    if kind == "number":
        return numbers_of(array, name)
    if is_text(array.type):
        array = pc.utf8_trim_whitespace(array)
    try:
        found: np.ndarray = pc.cast(array, pa.int64()).to_numpy(zero_copy_only=False)
        return found
    except pa.ArrowInvalid as error:
        value = re.search("'(.*)'", str(error).splitlines()[0])
    raise BadLine(f"column {name}: {repr(value[1]) if value else shown_value(array)} is not a whole number")


def _dates(array: pa.Array, name: str, form: TimeForm) -> np.ndarray:
    """int64 (n,) microseconds of text or Arrow's dates; those of nanoseconds are cut."""
    zoned = form.kind == "zoned"
    if is_text(array.type):
        try:
            return _microseconds(array, zoned)
        except pa.ArrowInvalid as error:
            value = re.search("'(.*)'", str(error).splitlines()[0])
        wrong = pa.array([value[1] if value else array[0].as_py()])
        try:
            _microseconds(wrong, not zoned)
        except pa.ArrowInvalid:
            raise BadLine(f"column {name}: {shown_value(wrong)} is not {A_DATE}") from None
        other, own = ("no time zone", "one") if zoned else ("a time zone", "none")
        raise BadLine(f"column {name}: {shown_value(wrong)} has {other}, and the first times have {own}")
    if not (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
        raise BadLine(f"column {name}: {shown_value(array)} ({described_type(array.type)}) is not {A_DATE}")
    if bool(getattr(array.type, "tz", None)) != zoned:
        raise BadLine(f"column {name}: {KINDS['date' if zoned else 'zoned']} where {form} are expected")
    return _microseconds(array, zoned)


def _microseconds(array: pa.Array, zoned: bool) -> np.ndarray:
    # Only nanoseconds lose digits; seconds beyond the range of microseconds must be refused, not wrapped round.
    safe = getattr(array.type, "unit", "") != "ns"
    moments = pc.cast(array, pa.timestamp("us", tz="UTC" if zoned else None), safe=safe)
    found: np.ndarray = pc.cast(moments, pa.int64()).to_numpy(zero_copy_only=False)
    return found


def shown_time(moment: int, form: TimeForm) -> str:
    """A time as `time_of` gives it, in words; of any year, which Python's own dates are not."""
    if form.is_date:
        return str(np.datetime64(moment, "us")).replace("T", " ").removesuffix(".000000")
    return f"{moment / MICROSECONDS:.15g}" if form.kind == "number" else str(moment)
