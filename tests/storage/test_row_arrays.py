"""Arrays of rows: in memory if small, else in files mapped into memory."""

import copy
import errno
import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mma4ctr.storage import row_arrays
from mma4ctr.storage.row_arrays import IN_MEMORY, RowArrays


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """Every array is mapped, and a part has 700 rows."""
    monkeypatch.setattr(row_arrays, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr(row_arrays, "ROWS_AT_A_TIME", 700)
    monkeypatch.setattr(row_arrays, "MOST_RESIDENT", 0)
    return RowArrays(tmp_path / "temp")


def resident(address, size):
    """Bytes of a range of addresses that count as memory of this process (Linux)."""
    found, own = 0, False
    with Path("/proc/self/smaps").open() as file:
        for line in file:
            head = line.split()[0]
            if "-" in head and not head.endswith(":"):
                first, last = (int(part, 16) for part in head.split("-"))
                own = first < address + size and last > address
            elif own and head == "Rss:":
                found += int(line.split()[1]) * 1024
    return found


def test_a_small_array_is_in_memory_and_a_large_one_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(row_arrays, "LARGEST_IN_MEMORY", 4000)
    arrays = RowArrays(tmp_path)
    assert arrays.empty((1000,), np.float32).base is None
    large = arrays.empty((1001,), np.float32)
    assert large.base is not None and (large == 0).all() and not list(tmp_path.iterdir())
    assert IN_MEMORY.empty((1 << 24,), np.float32).base is None


def test_values_stay_when_their_pages_are_let_go_of(mapped):
    values = np.arange(5000, dtype=np.int64).reshape(2500, 2)
    one, other = mapped.empty(values.shape, values.dtype), mapped.empty((2500,), np.uint8)
    for part in mapped.parts(2500):
        one[part] = values[part]
        other[part] += 1
    mapped.release()
    assert mapped.largest(one[:, 1]) == 4999 and mapped.largest(one[:0, 0]) == 0
    assert (one == values).all() and (other == 1).all()
    address = one.__array_interface__["data"][0]
    assert resident(address, one.nbytes) >= one.nbytes
    mapped.release(slice(0, 2500))
    assert resident(address, one.nbytes) == 0


def test_pages_of_the_oldest_arrays_stay_as_far_as_they_fit(mapped, monkeypatch):
    sizes = [40_000, 90_000, 30_000, 20_000]
    arrays = [mapped.empty((size,), np.uint8) for size in sizes]
    monkeypatch.setattr(row_arrays, "MOST_RESIDENT", 80_000)
    for step in (lambda: mapped.release(), lambda: list(mapped.parts(sizes[1]))):
        for one in arrays:
            one[:] = 1
        step()
        stayed = [resident(one.__array_interface__["data"][0], one.nbytes) > 0 for one in arrays]
        assert stayed == [True, False, True, False]
    del arrays[0], one
    arrays[2][:] = 2
    mapped.release()
    assert resident(arrays[2].__array_interface__["data"][0], sizes[3]) > 0


def test_a_pass_over_parts_leaves_no_page_behind(mapped):
    large = mapped.empty((1 << 16, 4), np.float64)
    address = large.__array_interface__["data"][0]
    most = 0
    for part in mapped.parts(len(large)):
        large[part] = 1
        most = max(most, resident(address, large.nbytes))
    assert resident(address, large.nbytes) == 0
    assert most < large.nbytes / 20
    assert (large == 1).all()


@given(rows=st.integers(0, 3000), width=st.integers(0, 3), kind=st.sampled_from(["u1", "i4", "f8"]))
def test_an_opened_array_equals_the_file(tmp_path_factory, rows, width, kind):
    folder = tmp_path_factory.mktemp("npy")
    values = np.arange(rows * max(width, 1)).astype(kind).reshape((rows, width) if width else (rows,))
    np.save(folder / "a.npy", values)
    np.save(folder / "f.npy", np.asfortranarray(values))
    largest, row_arrays.LARGEST_IN_MEMORY = row_arrays.LARGEST_IN_MEMORY, 100
    try:
        for name in ("a.npy", "f.npy"):
            found = RowArrays(folder).open(folder / name)
            assert found.dtype == values.dtype and found.shape == values.shape and (found == values).all()
    finally:
        row_arrays.LARGEST_IN_MEMORY = largest


def test_the_file_of_an_opened_array_does_not_change(tmp_path, mapped):
    np.save(tmp_path / "a.npy", np.arange(4000))
    before = (tmp_path / "a.npy").read_bytes()
    found = mapped.open(tmp_path / "a.npy")
    found[5] = 77
    mapped.release()
    assert (tmp_path / "a.npy").read_bytes() == before


def test_arrays_that_are_no_longer_used_are_forgotten(mapped):
    kept = mapped.empty((9,), np.int32)
    gone = mapped.empty((9,), np.int32)
    assert len(mapped._mapped) == 2
    del gone
    gc.collect()
    assert len(mapped._mapped) == 1
    assert kept.sum() == 0


def test_a_sent_array_is_in_memory_on_the_other_side(mapped):
    """Copies are made as objects are sent to another process."""
    made = mapped.empty((3000,), np.float32)
    made[:] = np.arange(3000)
    arrays, values = copy.deepcopy((mapped, made))
    assert (values == made).all() and arrays is not mapped
    assert arrays.empty((3000,), np.float32).base is None


def test_a_full_disk_is_an_error_and_no_crash(mapped, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        mapped.empty((3000,), np.float32)
