"""Simulated files of BARS's shapes: format, histories, truth, steps: `pytest tests/simulation/test_bars_shapes.py`."""

import csv
import hashlib
import shutil
from collections import defaultdict
from types import SimpleNamespace

import h5py
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import TEST, load_interactions
from mma4ctr.datasets import __main__ as datasets_main
from mma4ctr.evaluation import leaderboard
from mma4ctr.evaluation.ground_truth import oracle_auc, true_test_probabilities
from mma4ctr.evaluation.metrics import auc
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.simulation import __main__ as command
from mma4ctr.simulation.bars import FIRST_TIME, LONGEST_HISTORY, SHAPES, SPAN, BarsWorld
from mma4ctr.simulation.histories import HistoryLines
from mma4ctr.simulation.law import LATE
from mma4ctr.simulation.rows import CHUNK_ROWS
from mma4ctr.storage.paths import load_paths
from tests.conftest import call

NAMES = tuple(SHAPES)
KUAI, MICRO = NAMES
SIZES = ("--rows", 30_000, "--users", 40, "--items", 2500, "--seed", 3)
STEPS = (preprocess_inter, preprocess_multimodal, get_user_embedding, gen_matrix)
PUBLISHED_COLUMNS = {
    KUAI: "timestamp,user_id,item_id,is_click,is_like,is_follow,pos_items,neg_items",
    MICRO: "user_id,item_id,cate_id,is_click,timestamp,clicked_items,clicked_categories",
}


@pytest.fixture(scope="module", params=NAMES)
def made(request, tmp_path_factory):
    """The simulated files of one shape, and their rows as text."""
    folder = tmp_path_factory.mktemp("bars")
    assert call(command.main, folder, "--dataset", request.param, *SIZES) == 0
    files = folder / "dataset" / request.param
    return SimpleNamespace(name=request.param, folder=folder, files=files, rows=read_rows(files))


def read_rows(files):
    """Rows of the two files as dictionaries of text."""
    rows = {}
    for part in ("train", "test"):
        with (files / f"{part}.csv").open(newline="") as file:
            rows[part] = list(csv.DictReader(file))
    return rows


def column(rows, name):
    return np.array([int(row[name]) for row in rows])


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_files_columns_and_cells_are_as_published(made):
    rows = made.rows
    shape = SHAPES[made.name]
    assert {path.name for path in made.files.iterdir()} == {
        KUAI: {"train.csv", "test.csv", "item_visual_emb_dim64.h5", "user_visual_emb_dim64.h5", "truth"},
        MICRO: {"train.csv", "test.csv", "item_image_emb_dim64.h5", "truth"},
    }[made.name]
    assert len(rows["train"]) + len(rows["test"]) == 30_000
    assert len(rows["test"]) == round(30_000 * shape.test_rows / shape.rows)
    for part in rows:
        assert (made.files / f"{part}.csv").read_text().partition("\n")[0] == PUBLISHED_COLUMNS[made.name]
    every = rows["train"] + rows["test"]
    time = column(every, "timestamp")
    assert (np.diff(time) >= 0).all() and time[0] >= FIRST_TIME and time[-1] < FIRST_TIME + SPAN
    assert len({len(str(one)) for one in time}) == 1, "8 digits could be read as a date"
    user, item, click = (column(every, name) for name in ("user_id", "item_id", "is_click"))
    assert set(user) <= set(range(40)) and set(item) <= set(range(2500))
    assert click.mean() == pytest.approx({KUAI: 0.2, MICRO: 0.18}[made.name], abs=0.01)
    late = {one for one, when in zip(item, time, strict=True) if when >= FIRST_TIME + (1 - LATE) * SPAN}
    if made.name == MICRO:
        assert not {row["item_id"] for row in rows["train"]} & {row["item_id"] for row in rows["test"]}
        category = defaultdict(set)
        for row in every:
            category[row["item_id"]].add(row["cate_id"])
        assert max(map(len, category.values())) == 1
        assert 300 < len(set().union(*category.values())) <= 520
    else:
        like, follow = column(every, "is_like"), column(every, "is_follow")
        assert 0 < like.sum() < click.sum() and 0 < follow.sum() < like.sum()
        assert not (like > click).any() and not (follow > click).any()
        assert late - set(item[time < FIRST_TIME + (1 - LATE) * SPAN]), "some items are new in the test rows"


def test_vectors_are_of_all_ids_and_of_the_published_form(made):
    for name in made.files.glob("*.h5"):
        with h5py.File(name) as file:
            assert set(file) == {"key", "value"}
            key, value = file["key"][:], file["value"][:]
        assert key.dtype.kind == "i" and value.dtype == np.float32 and value.shape == (len(key), 64)
        assert key.tolist() == list(range(40 if name.name.startswith("user") else 2500)), "unique, and every id"
        assert np.isfinite(value).all() and len(np.unique(value, axis=0)) == len(value)


def explained(values, vectors):
    """Share of the variance of values (n, k) that a linear regression on vectors explains."""
    inputs = np.column_stack([vectors, np.ones(len(vectors))])
    left = values - inputs @ np.linalg.lstsq(inputs, values, rcond=None)[0]
    return 1 - left.var() / values.var()


@pytest.mark.parametrize("name", NAMES)
def test_vectors_show_the_content_of_their_items_and_the_clicks_of_their_users(tmp_path, name):
    world = BarsWorld(SHAPES[name], 20_000, users=300, items=1500, seed=5)
    world.write_rows(tmp_path)
    assert world.write_features(tmp_path) == 1500
    factors = np.empty((1500, 16))
    factors[world.item_ids] = world.law.world.item_factors  # by id
    with h5py.File(tmp_path / SHAPES[name].item_vectors) as file:
        value = file["value"][:]
    assert explained(factors, value) > 0.55 and explained(factors, value[::-1]) < 0.2
    if name == KUAI:
        clicked = defaultdict(list)
        for row in read_rows(tmp_path)["train"]:
            if row["is_click"] == "1":
                clicked[int(row["user_id"])].append(factors[int(row["item_id"])])
        mean = np.array([np.mean(clicked[user], axis=0) if user in clicked else np.zeros(16) for user in range(300)])
        with h5py.File(tmp_path / SHAPES[name].user_vectors) as file:
            value = file["value"][:]
        assert explained(mean, value) > 0.7 and explained(mean, value[::-1]) < 0.5


def slow_histories(rows, name):
    """The two history cells of every row, from the rows before it, row by row."""
    happened = defaultdict(lambda: {"1": [], "0": []})
    for part in ("train", "test"):
        for row in rows[part]:
            before = happened[row["user_id"]]
            if name == KUAI:
                cells = [[one["item_id"] for one in before[click][-LONGEST_HISTORY:]] for click in ("1", "0")]
            else:
                cells = [[one[key] for one in before["1"][-LONGEST_HISTORY:]] for key in ("item_id", "cate_id")]
            yield row, ["^".join(some) for some in cells]
            if name == KUAI or part == "train":
                before[row["is_click"]].append(row)


def test_histories_are_those_of_a_slow_twin(made):
    first, second = PUBLISHED_COLUMNS[made.name].split(",")[-2:]
    lengths = set()
    for row, expected in slow_histories(made.rows, made.name):
        assert [row[first], row[second]] == expected
        lengths.add(len(row[first].split("^")) if row[first] else 0)
    assert {0, 1, LONGEST_HISTORY} <= lengths <= set(range(LONGEST_HISTORY + 1))


@pytest.mark.parametrize("longest", [1, 2, 3, 7])
@pytest.mark.parametrize("largest", [1, 9, 10, 4321, 10**17])
def test_history_lines_equal_lists_whatever_the_size_of_entries_and_blocks(longest, largest):
    rng = np.random.default_rng([longest, largest % 1000])
    lines, lists = HistoryLines(3, longest, largest), defaultdict(list)
    for block in (1, 0, 5, 40, 200):
        user = rng.integers(3, size=block)
        cells = [rng.integers(0, 10**18, block), rng.integers(0, 2, block)]
        entries = [np.where(rng.random(block) < 0.5, rng.integers(0, largest + 1, block), -1) for _ in range(2)]
        text = bytes(lines.format(user, cells, entries)).decode()
        expected = ""
        for row, one in enumerate(user.tolist()):
            kept = ["^".join(map(str, lists[one, side][-longest:])) for side in (0, 1)]
            expected += ",".join([*(str(cell[row]) for cell in cells), *kept]) + "\n"
            for side in (0, 1):
                if entries[side][row] >= 0:
                    lists[one, side].append(entries[side][row])
        assert text == expected


def test_a_seed_gives_the_same_bytes_and_another_seed_others(made, tmp_path):
    for name, seed in (("same", 3), ("other", 4)):
        assert call(command.main, tmp_path / name, "--dataset", made.name, *SIZES[:-1], seed) == 0
    assert contents(tmp_path / "same") == contents(made.folder)
    other = contents(tmp_path / "other")
    assert all(other[name] != value for name, value in contents(made.folder).items() if name != "path.json")


def test_rows_of_several_chunks_are_one_log(tmp_path):
    assert call(command.main, tmp_path, "--dataset", KUAI, "--rows", 2 * CHUNK_ROWS, "--no-features") == 0
    files = tmp_path / "dataset" / KUAI
    truth = pq.read_table(files / "truth/probabilities.parquet").to_pydict()
    assert len(truth["time"]) == 2 * CHUNK_ROWS and truth["time"] == sorted(truth["time"])
    counted = sum(path.read_bytes().count(b"\n") for path in files.glob("*.csv"))
    assert counted == 2 * CHUNK_ROWS + 2
    assert not list(files.glob("*.h5"))


def test_the_truth_belongs_to_the_rows(made):
    every = made.rows["train"] + made.rows["test"]
    truth = pq.read_table(made.files / "truth/probabilities.parquet").to_pydict()
    for key, name in (("user", "user_id"), ("item", "item_id"), ("time", "timestamp")):
        assert truth[key] == column(every, name).tolist()
    for target in SHAPES[made.name].negatives_per_positive:
        chance, label = np.array(truth[target]), column(every, f"is_{target}")
        spread = np.sqrt(np.sum(chance * (1 - chance)))
        assert abs(label.sum() - chance.sum()) < 5 * spread
        # Rows in ten groups of growing probability have as many positives as their probabilities say.
        for group in np.array_split(np.argsort(chance), 10):
            spread = np.sqrt(np.sum(chance[group] * (1 - chance[group])))
            assert abs(label[group].sum() - chance[group].sum()) < 5 * spread + 1, target


def test_default_sizes_have_the_published_rows_of_a_user_and_an_item():
    for shape in SHAPES.values():
        assert shape.sizes(shape.rows) == (shape.users, shape.items)
        users, items = shape.sizes(1_000_000)
        assert 1_000_000 / users == pytest.approx(shape.rows / shape.users, rel=0.01)
        assert 1_000_000 / items == pytest.approx(shape.rows / shape.items, rel=0.01)
        assert shape.sizes(1000) == (50, 500)


def run_steps(folder, *, plus=True):
    """Steps 1 to 4 with both feature sets; returns the paths."""
    for step in STEPS:
        assert call(step.main, "--paths", folder / "path.json") == 0
    if plus:
        assert call(gen_matrix.main, "--paths", folder / "path.json", "--features", "plus") == 0
    return load_paths(folder / "path.json")


def test_the_steps_run_at_once_and_know_the_oracle(made, tmp_path, capsys):
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    file, task = tmp_path / "path.json", f"{made.name}_click"
    assert call(datasets_main.main, "check", file) == 0
    paths = run_steps(tmp_path)
    assert call(mlp.main, "--paths", file, "--task", task, "--epochs", 1) == 0
    assert call(mlp.main, "--paths", file, "--task", task, "--features", "plus") == 0
    best, (paper, plus) = oracle_auc(paths, task), read_results(paths.results)
    assert 0.75 < best < 0.9 and 0.5 < paper.auc < plus.auc < best
    assert (plus.auc - 0.5) / (best - 0.5) > 0.7 and plus.gauc > 0.55
    data = load_interactions(paths, made.name)
    test = data.split == TEST
    assert best == auc(data.label("click")[test], true_test_probabilities(paths, task))
    assert (test.sum(), len(data)) == (len(made.rows["test"]), 30_000)
    capsys.readouterr()
    assert call(leaderboard.main, "--paths", file) == 0
    assert "the data of ours are simulated" in " ".join(capsys.readouterr().out.split())


def test_without_the_mark_of_the_simulation_a_folder_of_that_name_is_the_users_own(made, tmp_path):
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    mark = tmp_path / "dataset" / made.name / "truth/world.json"
    content = orjson.loads(mark.read_bytes())
    assert call(preprocess_inter.main, "--paths", tmp_path / "path.json") == 0
    paths = load_paths(tmp_path / "path.json")
    for changed in ({"dataset": "tiktok"}, {"ratios": {}}, None):
        mark.write_bytes(orjson.dumps(content | changed) if changed else b"notes of the user")
        assert true_test_probabilities.__wrapped__(paths, f"{made.name}_click") is None
    mark.write_bytes(orjson.dumps(content))
    assert true_test_probabilities.__wrapped__(paths, f"{made.name}_click") is not None


def flip_test_clicks(files):
    """Flip is_click in test.csv; the histories stay as they are."""
    header, *lines = (files / "test.csv").read_text().splitlines()
    place = header.split(",").index("is_click")
    changed = []
    for line in lines:
        cells = line.split(",")
        cells[place] = str(1 - int(cells[place]))
        changed.append(",".join(cells))
    (files / "test.csv").write_text("\n".join([header, *changed]) + "\n")


def test_test_labels_change_no_byte_before_step_5(made, tmp_path):
    both = [tmp_path / "one", tmp_path / "two"]
    for folder in both:
        shutil.copytree(made.folder, folder)
    flip_test_clicks(both[1] / "dataset" / made.name)
    one, two = (
        {
            name: value
            for name, value in contents(folder).items()
            if not name.startswith("dataset/") and not name.endswith((".json", ".inter"))
        }
        for folder in both
        if run_steps(folder)
    )
    assert {name for name in one if one[name] != two.get(name)} == {f"graph/{made.name}/label_click.npy"}
    assert one.keys() == two.keys() and any("plus" in name for name in one)


def test_path_json_keeps_what_it_has(tmp_path, capsys):
    file = tmp_path / "path.json"
    small = ("--rows", 1000, "--no-features")
    assert call(command.main, tmp_path, "--dataset", KUAI, *small) == 0
    first = orjson.loads(file.read_bytes())
    assert list(first["datasets"]) == [KUAI] and not {"wechat_dataset_path", "tiktok_dataset_path"} & first.keys()
    file.write_bytes(orjson.dumps(first | {"saved_path": "mine"}))
    assert call(command.main, tmp_path, "--dataset", MICRO, *small) == 0
    second = orjson.loads(file.read_bytes())
    assert set(second["datasets"]) == {KUAI, MICRO} and second["saved_path"] == "mine"
    unchanged = file.read_bytes()
    assert call(command.main, tmp_path, "--dataset", KUAI, MICRO, *small) == 0
    assert file.read_bytes() == unchanged
    assert call(command.main, tmp_path / "all", "--dataset", "tiktok", KUAI, *small) == 0
    assert orjson.loads((tmp_path / "all/path.json").read_bytes()).keys() == command.PATHS.keys() | {"datasets"}
    for content, expected in ((b"{", "not valid JSON"), (b"[]", "JSON object"), (b'{"datasets": 3}', "'datasets'")):
        file.write_bytes(content)
        capsys.readouterr()
        assert call(command.main, tmp_path, "--dataset", KUAI, *small) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert expected in line and file.read_bytes() == content


def test_the_content_law_is_refused(tmp_path, capsys):
    assert call(command.main, tmp_path, "--dataset", MICRO, "--law", "content") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert MICRO in line and "leave out --law" in line and not list(tmp_path.iterdir())
