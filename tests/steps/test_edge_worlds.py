"""Small unusual but valid inputs: every step ends with finite numbers, or states what is missing."""

import json
import warnings

import numpy as np
import pytest

import cross_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
import statis_and_draw
import viewer
from mma4ctr.data.interactions import TEST, TRAIN, load_interactions
from mma4ctr.evaluation import __main__ as results
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.simulation.__main__ import PATHS
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call

TRACK = "TikTok2019ICME/track1"
KEYS = {"video": "video_feature_dim_128", "audio": "audio_feature_128_dim"}
ITEMS, ROWS = 40, 600
TASK = ("--task", "tiktok_like")


def usual_rows():
    """Return rows (user, item, like, time) in order of time."""
    rng = np.random.default_rng(0)
    return [[int(rng.integers(12)), int(rng.integers(ITEMS)), int(rng.random() < 0.3), 1000 + i] for i in range(ROWS)]


def usual_features():
    """Return lines (item, content) of each feature file."""
    rng = np.random.default_rng(1)
    lines = {kind: [(i, np.round(rng.normal(size=128), 3).tolist()) for i in range(ITEMS)] for kind in KEYS}
    lines["title"] = [(i, {str(token): 1 for token in rng.integers(1, 60, 8)}) for i in range(ITEMS)]
    return lines


def write(folder, rows, features, part=""):
    """Write the raw files and path.json."""
    track = folder / TRACK
    track.mkdir(parents=True, exist_ok=True)
    lines = (f"{user}\t1\t{item}\t2\t3\t0\t{like}\t{like}\t4\t{user}\t{time}\t9\n" for user, item, like, time in rows)
    (track / "final_track1_train.txt").write_text("".join(lines))
    for kind, content in features.items():
        name = f"track1_{kind}{'' if kind == 'title' else '_features'}{part}.txt"
        key = KEYS.get(kind, "title_features")
        (track / name).write_text("".join(json.dumps({"item_id": item, key: one}) + "\n" for item, one in content))
    (folder / "path.json").write_text(json.dumps(PATHS | {"dataset_path": "."}))
    return load_paths(folder / "path.json")


def run(paths, steps=5):
    """Run the first steps; returns the first exit code other than 0. No step may raise an arithmetic warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for main, *options in (
            (preprocess_inter.main, "--min-interactions", 1),
            (preprocess_multimodal.main,),
            (get_user_embedding.main, *TASK),
            (cross_matrix.main, *TASK, "--variant", "all"),
            (mlp.main, *TASK, "--variant", "vat_concat", "vat_cross", "--epochs", 2, "--max-interrupts", 0),
        )[:steps]:
            if code := call(main, "--paths", paths.file, *options):
                return code
    return 0


def check_finite(paths):
    """Check that every number of every array is finite."""
    for path in paths.file.parent.rglob("*.npy"):
        assert np.isfinite(np.load(path).astype(float)).all(), path
    for result in read_results(paths.results):
        assert result.logloss is not None and np.isfinite(result.logloss)


def test_a_user_with_no_training_row(tmp_path):
    """The embedding is the mean of the users with training rows."""
    rows = usual_rows() + [[99, i % ITEMS, i % 2, 5000 + i] for i in range(20)]
    paths = write(tmp_path, rows, usual_features())
    assert run(paths) == 0
    check_finite(paths)
    data = load_interactions(paths, "tiktok")
    place = int(np.searchsorted(data.user_ids, 99))
    assert not (data.split[data.user == place] == TRAIN).any()
    known = np.unique(data.user[data.split == TRAIN])
    table = read_artifact(paths.user_embedding / "tiktok_like", "").array("visual")
    assert table[-1, place] == pytest.approx(table[-1, known].mean(axis=0), rel=1e-5)


def test_an_item_with_no_features(tmp_path):
    """An item with an empty line or no line gets the mean of the others and is marked."""
    features = usual_features()
    for kind, empty in (("video", []), ("audio", []), ("title", {})):
        features[kind] = [(item, empty if item == 6 else one) for item, one in features[kind] if item != 5]
    paths = write(tmp_path, usual_rows(), features)
    assert run(paths) == 0
    check_finite(paths)
    modal = read_artifact(paths.modal / "tiktok", "")
    ids = load_interactions(paths, "tiktok").item_ids
    for name in ("visual", "acoustic", "textual"):
        present, values = modal.array(f"{name}_present"), modal.array(name)
        assert ids[~present].tolist() == [5, 6]
        assert np.abs(values[~present] - values[present].mean(axis=0, dtype=np.float64)).max() < 1e-5


@pytest.mark.parametrize("what", ["equal", "zero"])
def test_all_features_equal(tmp_path, what):
    """Constant features give finite results: no division by zero."""
    vector = [0.0 if what == "zero" else 0.5] * 128
    title = {str(token): 1 for token in range(30)}
    features = {kind: [(item, vector) for item in range(ITEMS)] for kind in KEYS}
    features["title"] = [(item, title) for item in range(ITEMS)]
    paths = write(tmp_path, usual_rows(), features)
    assert run(paths) == 0
    check_finite(paths)


@pytest.mark.parametrize("kind", ["video", "title"])
def test_two_parts_with_the_same_item(tmp_path, capsys, kind):
    features = usual_features()
    paths = write(tmp_path, usual_rows(), features, "_part1")
    track = tmp_path / TRACK
    assert run(paths, 2) == 0
    once = read_artifact(paths.modal / "tiktok", "").fingerprint
    first = next(track.glob(f"track1_{kind}*part1.txt"))
    second = first.with_name(first.name.replace("part1", "part2"))
    lines = first.read_text().splitlines(keepends=True)
    second.write_text(lines[7])
    assert run(paths, 2) == 0
    assert read_artifact(paths.modal / "tiktok", "").fingerprint == once, "the same content twice is harmless"
    content = json.loads(lines[7])
    values = content[KEYS.get(kind, "title_features")]
    values[0 if kind == "video" else "77"] = 3
    second.write_text(lines[8] + json.dumps(content) + "\n")
    capsys.readouterr()
    assert run(paths, 2) == 2
    error = capsys.readouterr().err
    assert f"error: {second}:2: item {content['item_id']} is repeated with other features" in error


def one_class(part):
    """Return the usual rows with like 0 in one part of the chronological 8 : 1 : 1 split."""
    rows = usual_rows()
    low, high = {"train": (0, 8), "valid": (8, 9), "test": (9, 10)}[part]
    for row in rows[low * ROWS // 10 : high * ROWS // 10]:
        row[2] = 0
    return rows


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("train", "every training row has label 0; there is nothing to learn"),
        ("valid", "every validation row has label 0; training needs both labels"),
    ],
)
def test_one_class_only_where_two_are_needed(tmp_path, capsys, part, message):
    assert run(write(tmp_path, one_class(part), usual_features())) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_auc_of_one_class_is_undefined_and_not_a_half(tmp_path, capsys):
    """Results, terminal, tables and report show no AUC."""
    paths = write(tmp_path, one_class("test"), usual_features())
    assert run(paths) == 1
    assert "no test AUC; the test rows have one class only" in capsys.readouterr().err
    data = load_interactions(paths, "tiktok")
    assert not data.label("like")[data.split == TEST].any()
    found = read_results(paths.results)
    assert len(found) == 2
    for result in found:
        assert (result.auc, result.gauc, result.auc_error, result.auc_interval) == (None, None, None, None)
    assert call(results.main, "--paths", paths.file) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "vat_concat" in line)
    assert row.count(" - ") >= 2 and "0.5000" not in row
    assert call(statis_and_draw.main, "--paths", paths.file, *TASK) == 0
    assert call(viewer.main, "--paths", paths.file, *TASK) == 0
    page = (paths.saved / "report.html").read_text()
    assert "vat_concat, AUC undefined" in page and "<td>0.5000</td>" not in page


def test_a_run_of_other_data_is_not_drawn(tmp_path, capsys):
    """The user embedding was made again; the matrix and the run were not."""
    paths = write(tmp_path, usual_rows(), usual_features())
    assert run(paths) == 0
    assert call(get_user_embedding.main, "--paths", paths.file, *TASK, "--length", 5) == 0
    capsys.readouterr()
    assert call(viewer.main, "--paths", paths.file, *TASK) == 2
    shown = capsys.readouterr()
    assert "was made from other data than the present, skipped" in shown.out and "run mlp.py first" in shown.err
