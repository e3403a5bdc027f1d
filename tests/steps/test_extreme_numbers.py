"""Numbers at the edges of their types, at each place where a log or a feature file has numbers.

Every step reads them without an arithmetic warning and ends with finite numbers, or refuses them with one line.
"""

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr.datasets.tiktok_features import parse_faces
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.paths import load_paths
from mma4ctr.storage.text_blocks import Block
from tests.conftest import call, write_described

USERS, ITEMS, ROWS = 12, 40, 600
EDGES = (5e-324, 1e-45, 1e-30, 1e19, 1e30, 3.4028234e38, 3.5e38, 1e300, 1.7976931348623157e308)
PLACES = {"log.csv": ("time", "position", "weight"), "items.csv": ("length", "vector"), "users.csv": ("age",)}
PLACES["asked.tsv"] = ("position",)
PLACED = [(file, column) for file, columns in PLACES.items() for column in columns]
DESCRIPTION = """
min_interactions = 1
[interactions]
files = "log.csv"
user = "user"
item = "item"
time = "time"
[targets]
like = "weight > 0.5"
[modalities.visual]
files = "items.csv"
item = "id"
vector = "vector"
[columns.item]
files = "items.csv"
item = "id"
numbers = ["length"]
[columns.user]
files = "users.csv"
user = "id"
numbers = ["age"]
[columns.context]
numbers = ["position"]
hour = true
"""


def tables(rng):
    """The three tables with usual numbers: columns of each file by name."""
    return {
        "log.csv": {
            "user": rng.integers(0, USERS, ROWS).tolist(),
            "item": rng.integers(0, ITEMS, ROWS).tolist(),
            "time": (1_600_000_000 + 60 * np.arange(ROWS) + 0.5).tolist(),
            "position": rng.random(ROWS).tolist(),
            "weight": rng.random(ROWS).tolist(),
        },
        "items.csv": {
            "id": list(range(ITEMS)),
            "length": rng.random(ITEMS).tolist(),
            "vector": [" ".join(f"{one:.4f}" for one in rng.normal(size=4)) for _ in range(ITEMS)],
        },
        "users.csv": {"id": list(range(USERS)), "age": (20 + rng.random(USERS)).tolist()},
        "asked.tsv": {"user": [1, 2, 3, 4], "item": [5, 6, 7, 8], "position": rng.random(4).tolist()},
    }


def write(folder, files):
    for name, columns in files.items():
        with (folder / name).open("w", newline="") as file:
            delimiter = "\t" if name.endswith("tsv") else ","
            csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(
                [columns, *zip(*columns.values(), strict=True)]
            )
    (folder / "own.toml").write_text(DESCRIPTION)
    return write_described(folder, {"own": "own.toml"})


def run_steps(paths, asked):
    """Run all steps with both feature sets, and predict the pairs; returns the first exit code that is not 0."""
    usual = ("--paths", paths)
    steps = [(preprocess_inter.main, *usual), (preprocess_multimodal.main, *usual), (get_user_embedding.main, *usual)]
    for features in ("paper", "plus"):
        steps.append((gen_matrix.main, *usual, "--features", features))
        steps.append((mlp.main, *usual, "--features", features, "--epochs", 1))
    steps.append((mlp.main, *usual, "--run", "last", "--predict", asked))
    for main, *options in steps:
        if code := call(main, *options):
            return code
    return 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("file", "column"), PLACED)
def test_extreme_numbers_give_finite_results_or_one_line(tmp_path, capsys, file, column, seed):
    rng = np.random.default_rng([seed, *column.encode()])
    files = tables(rng)
    cells = files[file][column]
    edges = [float(rng.choice(EDGES) * rng.choice([-1, 1])) for _ in range(rng.integers(1, 4))]
    for place, edge in zip(rng.choice(len(cells), len(edges), replace=False), edges, strict=True):
        cells[place] = f"1 {edge!r} 0.5 2" if column == "vector" else edge
    paths = write(tmp_path, files)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        code = run_steps(paths, tmp_path / "asked.tsv")
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    if code:
        assert code == 2 and len(errors) == 1 and f"{file}:" in errors[0] and column in errors[0], errors
    else:
        assert not errors
        results = read_results(load_paths(paths).results)
        assert len(results) == 2 and all(np.isfinite([one.auc, one.logloss]).all() for one in results)
        (scores,) = (load_paths(paths).saved / "predictions").glob("*-asked.tsv")
        assert np.isfinite(np.loadtxt(scores, skiprows=1)).all()
        for path in load_paths(paths).matrix.rglob("*.npy"):
            assert np.isfinite(np.load(path).astype(float)).all(), path


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("edge", EDGES)
def test_faces_with_extreme_numbers_are_finite_or_refused(place, edge):
    numbers = [0.5] * 6
    numbers[place] = -edge
    face = {"gender": numbers[0], "beauty": numbers[1], "relative_position": numbers[2:]}
    line = json.dumps({"item_id": 1, "face_attrs": [face, face]}).encode() + b"\n"
    if edge > float(np.finfo(np.float32).max):
        with pytest.raises(BadLine, match="beyond the range of float32"):
            parse_faces(line, Block(Path("faces.txt"), 0, len(line), len(line)))
    else:
        assert np.isfinite(parse_faces(line, Block(Path("faces.txt"), 0, len(line), len(line))).values).all()
