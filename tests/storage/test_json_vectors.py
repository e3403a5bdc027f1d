"""The compiled parser of vector lines equals Python's to the bit; the general parser gets the lines that it refuses."""

import json

import numpy as np
import pytest

from mma4ctr.storage.json_vectors import parse_lines

RNG = np.random.default_rng(0)
NUMBERS = {
    "rounded": [f"{x:.4f}" for x in RNG.standard_normal(2000)],
    "shortest": [repr(float(x)) for x in RNG.standard_normal(2000) * 10.0 ** RNG.integers(-9, 9, 2000)],
    "float32": [repr(float(np.float32(x))) for x in RNG.standard_normal(2000)],
    "exponent": [f"{x:.9e}" for x in RNG.standard_normal(2000) * 10.0 ** RNG.integers(-9, 9, 2000)],
    "whole": [str(x) for x in RNG.integers(-(2**62), 2**62, 2000) >> RNG.integers(0, 60, 2000)],
    "odd": ["0", "-0", "-0.0", "0.0e5", "1E+3", "1e-3", "0.1e0", "16777217", "1000000000000000.5e-10"],
}


def line(item, numbers, turned=False, space=" "):
    array = f"[{f',{space}'.join(numbers)}]"
    pairs = [f'"item_id":{space}{item}', f'"k":{space}{array}']
    return f"{{{f',{space}'.join(pairs[::-1] if turned else pairs)}}}\n".encode()


@pytest.mark.parametrize("kind", NUMBERS)
def test_lines_equal_json(kind):
    lines = []
    for start in range(0, len(NUMBERS[kind]), 7):
        lines.append(line(start - 3, NUMBERS[kind][start : start + 7], start % 2, " " * (start % 3)))
    lines += [line(5, []), line(-(2**62), ["1"])]
    found = parse_lines(b"".join(lines), "item_id", "k", 9)
    assert found is not None
    for text, item, values, length in zip(lines, *found, strict=True):
        expected = json.loads(text)
        assert (item, length) == (expected["item_id"], len(expected["k"]))
        assert values[:length].tobytes() == np.array(expected["k"], np.float64).astype(np.float32).tobytes()
        assert (values[length:] == 0).all()


def test_the_last_line_may_lack_its_end():
    assert parse_lines(line(1, ["0.5"])[:-1], "item_id", "k", 3)[1].tolist() == [[0.5, 0, 0]]


@pytest.mark.parametrize(
    "number",
    [
        *("01", "1.", ".5", "+1", "1e", "-", "1 2", "0x10", "1_0", "", "null", "true", "NaN", '"1"', "[1]"),
        *(
            "1e999",
            "1e-60",
            "1e39",
            "1e-40",
            "12345678901234567890",
            "1.000000059604644775",
        ),  # JSON, but not surely read
    ],
)
def test_what_it_is_not_sure_of_is_left_alone(number):
    assert parse_lines(line(1, ["1", number]), "item_id", "k", 3) is None


@pytest.mark.parametrize(
    "text",
    [
        b"\n",
        b'{"item_id": 1}\n',
        b'{"item_id": 1, "item_id": 1}\n',
        b'{"k": [1], "k": [1]}\n',
        b'{"item_id": 1, "k": [1], "x": 2}\n',
        b'{"item_id": 1.0, "k": [1]}\n',
        b'{"item_id": 9223372036854775808, "k": [1]}\n',
        b'{"item_id": 1, "k": [1,]}\n',
        b'{"item_id": 1, "k": [1, 2, 3, 4]}\n',
        b'{"item_id": 1, "k": [1]} {}\n',
        b'{"item_id": 1, "kk": [1]}\n',
        b'{"item_id": 1, "k": [1\n',
        b'{"item_id',
        b"",
    ],
)
def test_other_lines_are_left_alone(text):
    found = parse_lines(line(1, ["1"]) + text, "item_id", "k", 3)
    assert found is None if text else len(found[0]) == 1
