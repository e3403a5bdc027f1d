"""No command replaces files that it did not write.

Random folders in path.json, output files of every kind, links, fuller runs and changed manifests.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cross_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
import statis_and_draw
from mma4ctr.evaluation.run_records import read_history, read_results, read_run
from mma4ctr.model.training_defaults import TRAINING, TrainSettings
from mma4ctr.runtime.errors import UserError
from mma4ctr.simulation import __main__ as world
from mma4ctr.steps.training_run import Training, run_checkpoints
from mma4ctr.storage import artifacts, folders
from mma4ctr.storage.artifacts import ArtifactWriter, read_artifact, seal
from mma4ctr.storage.files import own_files, temporary_name, write_own_file
from mma4ctr.storage.locks import lock_path
from mma4ctr.storage.paths import load_paths
from tests.conftest import ROOT, call

TASK = "tiktok_like"
KEYS = ("graph_path", "modal_path", "user_embedding_path", "matrix_path", "torch_model_path", "saved_path", "temp_path")
# Places that outputs may be given: apart, equal by another name, nested, the data themselves, links, foreign folders.
PLACES = ("a", "b", "c", "d", "e", "f", "g", "a/inner", "b/../a", "data", "data/mine", ".", "link", "foreign", "notes")
STEPS = (
    (1, preprocess_inter.main, ()),
    (2, preprocess_multimodal.main, ()),
    (3, get_user_embedding.main, ("--length", 3, "--folds", 2)),
    (4, cross_matrix.main, ()),
    (5, mlp.main, ("--epochs", 1, "--batch-size", 64)),
)


def write_data(root):
    """Write a log of 120 rows and vectors in root/data/mine, with a description and foreign files around."""
    folder = root / "data/mine"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    lines = ["user,item,like,time"]
    lines += [f"{row % 6},{draw.integers(20)},{draw.integers(2)},{row}" for row in range(120)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    np.save(folder / "vectors.npy", draw.normal(size=(20, 4)).astype(np.float32))
    two = {name: {"vectors": "vectors.npy", "ids": 0} for name in ("one", "two")}
    description = {"folder": "data/mine", "min_interactions": 2, "targets": {"like": "like"}, "modalities": two}
    description["interactions"] = {"files": "log.csv", "user": "user", "item": "item", "time": "time"}
    (root / "foreign/mine").mkdir(parents=True)
    (root / "foreign/mine/manifest.json").write_text('{"step": 1, "name": "of another program"}')
    (root / "foreign/mine_like").mkdir()
    (root / "foreign/mine_like/thesis.txt").write_text("years of work")
    (root / "foreign/results.txt").write_text("kept")
    (root / "elsewhere").mkdir()
    (root / "elsewhere/kept.txt").write_text("kept")
    (root / "link").symlink_to(root / "elsewhere")
    (root / "notes").write_text("a file")
    return description


def contents(root):
    """Return the content of every file and link below a folder, by path."""
    found = {}
    for path in sorted(root.rglob("*")):
        place = str(path.relative_to(root))
        if path.is_symlink():
            found[place] = f"link to {path.readlink()}"
        elif path.is_file():
            found[place] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def own_change(root, place, step):
    """Return whether a changed file belongs to the output of this step: its artifact, or results.jsonl."""
    path = root / place
    if path.name == "results.jsonl" and step == 5:
        return True
    manifest = path.parent / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_bytes()).get("step") == step


@st.composite
def two_layouts(draw):
    """Draw two settings of the output folders, before and after path.json is edited."""
    first = [draw(st.sampled_from(PLACES)) for _ in KEYS] if draw(st.booleans()) else list(PLACES[: len(KEYS)])
    for number in range(len(KEYS)):
        if draw(st.integers(0, 3)) == 0:
            first[number] = draw(st.sampled_from(PLACES))
    second = draw(st.permutations(first)) if draw(st.booleans()) else list(first)
    second[draw(st.integers(0, len(KEYS) - 1))] = draw(st.sampled_from(PLACES))
    return first, second


@settings(max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
@given(two_layouts(), st.sampled_from(["", "foreign file", "link"]), st.integers(0, 4))
def test_random_folders_in_path_json(layouts, disturbance, number):
    """With equal, nested, linked and foreign folders, a step changes only its own output."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        description = write_data(root)
        for turn, layout in enumerate(layouts):
            content = {"parent_folder": ".", "datasets": {"mine": description}, **dict(zip(KEYS, layout, strict=True))}
            (root / "path.json").write_text(json.dumps(content))
            for step, main, options in STEPS:
                key = KEYS[min(step - 1, 4)]
                place = root / content[key] / ("mine" if step < 3 else "mine_like")
                if turn and step - 1 == number and place.is_dir() and not place.is_symlink():
                    if disturbance == "foreign file":
                        (place / "my notes.txt").write_text("mine")
                    elif disturbance == "link":
                        place.rename(root / "moved")
                        place.symlink_to(root / "moved")
                before = contents(root)
                code = call(main, "--paths", root / "path.json", *options)
                after = contents(root)
                changed = {place for place in before if after.get(place) != before[place]}
                assert all(own_change(root, place, step) for place in changed), (step, layout, changed)
                assert not [place for place in after if place.endswith((".partial", ".retired", ".lock"))]
                if code:
                    assert code == 2 and not changed, (step, layout, changed)
                    break


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"graph_path": "dataset"}, ("'graph_path'", "_dataset_path'")),
        ({"graph_path": "dataset/tiktok"}, ("'graph_path'", "'tiktok_dataset_path'")),
        ({"saved_path": "dataset/tiktok/../tiktok"}, ("'saved_path'", "'tiktok_dataset_path'")),
        ({"user_embedding_path": "models", "torch_model_path": "models/"}, ("'user_embedding_path'", "'torch_model")),
        ({"matrix_path": "graph/matrix"}, ("'matrix_path'", "is inside", "'graph_path'")),
        ({"temp_path": "."}, ("is inside 'temp_path'",)),
        ({"modal_path": "linked"}, ("'modal_path'", "'graph_path'", "same folder")),
    ],
)
def test_path_json_is_refused_at_load(tmp_path, change, words):
    (tmp_path / "dataset/tiktok").mkdir(parents=True)
    (tmp_path / "graph").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "graph")
    keys = ("graph", "modal", "user_embedding", "matrix", "torch_model", "saved")
    content = {f"{key}_path": key for key in keys} | {"parent_folder": ".", "dataset_path": "dataset"}
    content |= {"wechat_dataset_path": "wechat", "tiktok_dataset_path": "tiktok"}
    (tmp_path / "path.json").write_text(json.dumps(content))
    load_paths(tmp_path / "path.json")
    (tmp_path / "path.json").write_text(json.dumps(content | change))
    with pytest.raises(UserError) as error:
        load_paths(tmp_path / "path.json")
    assert all(word in str(error.value) for word in words), error.value


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """A copy of the tiny world after its steps, shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("trained") / "copy"
    shutil.copytree(made.file.parent, folder)
    return load_paths(folder / "path.json")


def newest(paths, **wanted):
    return next(r for r in reversed(read_results(paths.results)) if all(getattr(r, k) == wanted[k] for k in wanted))


@pytest.mark.parametrize("option", ["--output", "--onnx"])
@pytest.mark.parametrize(
    "target",
    [
        "saved/results.jsonl",
        "link to results",
        "model.safetensors",
        "manifest.json",
        "new file beside a model",
        "graph/tiktok/user.npy",
        "matrix/new.tsv",
        "temp/new.tsv",
        "raw data",
        "path.json",
        "pairs.tsv",
        "a folder",
        "saved/tables/statistics.md",
        "artifact of another path.json",
    ],
)
def test_output_that_would_replace_something(trained, tmp_path, capsys, option, target):
    root = trained.file.parent
    result = newest(trained, task=TASK, variant="vat_concat")
    run = trained.torch_model / TASK / result.run_id
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("user\titem\n1\t1\n")
    (tmp_path / "link").symlink_to(trained.results)
    (tmp_path / "folder").mkdir()
    shutil.copytree(root / "graph/tiktok", tmp_path / "other")
    if not (trained.saved / "tables/statistics.md").exists():
        assert call(statis_and_draw.main, "--paths", trained.file) == 0
    place = {
        "link to results": tmp_path / "link",
        "model.safetensors": run / "model.safetensors",
        "manifest.json": run / "manifest.json",
        "new file beside a model": run / "new.tsv",
        "raw data": next((root / "dataset").rglob("*.txt")),
        "pairs.tsv": pairs,
        "a folder": tmp_path / "folder",
        "artifact of another path.json": tmp_path / "other/user.npy",
    }.get(target, root / target)
    if target == "pairs.tsv" and option == "--onnx":
        pytest.skip("--onnx alone reads no pairs")
    before = contents(root), contents(tmp_path)
    options = ("--paths", trained.file, "--run", result.run_id)
    options += ("--predict", pairs, "--output", place) if option == "--output" else ("--onnx", place)
    capsys.readouterr()
    assert call(mlp.main, *options) == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and "Traceback" not in error
    assert (contents(root), contents(tmp_path)) == before


def test_output_to_files_and_devices(trained, tmp_path):
    result = newest(trained, task=TASK, variant="vat_concat")
    user, item = (np.load(trained.graph / f"tiktok/{kind}_ids.npy")[0] for kind in ("user", "item"))
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(f"user\titem\n{user}\t{item}\n")
    options = ("--paths", trained.file, "--run", result.run_id, "--predict", pairs, "--output")
    written = tmp_path / "new/scores.tsv"
    assert call(mlp.main, *options, written) == 0
    text = written.read_text()
    assert text.startswith("user\titem\tscore\n") and text.count("\n") == 2
    written.write_text("a file of the user's, named for output")
    linked = tmp_path / "link.tsv"
    linked.symlink_to(written)
    assert call(mlp.main, *options, linked) == 0
    assert linked.is_symlink() and written.read_text() == text
    device = Path("/dev/null").stat()
    assert call(mlp.main, *options, "/dev/null") == 0
    assert os.path.samestat(Path("/dev/null").stat(), device) and stat.S_ISCHR(device.st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert call(mlp.main, *options, pipe) == 0
    reader.join()
    assert read == [text] and stat.S_ISFIFO(pipe.stat().st_mode)
    done = subprocess.run(
        [sys.executable, "mlp.py", *map(str, options), "/dev/stdout"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and text in done.stdout
    assert Path("/dev/stdout").is_symlink()


def test_a_foreign_file_with_the_name_of_a_figure_or_table(trained, capsys):
    path = trained.saved / "tables/statistics.md"
    if not path.exists():
        assert call(statis_and_draw.main, "--paths", trained.file) == 0
    names = own_files(path.parent)
    assert "statistics.md" in names
    (path.parent / ".mma4ctr.json").write_text(json.dumps(sorted(names - {"statistics.md"})))
    path.write_text("my own statistics")
    assert call(statis_and_draw.main, "--paths", trained.file) == 2
    assert "was not written by this project" in capsys.readouterr().err
    assert path.read_text() == "my own statistics"
    path.unlink()
    assert call(statis_and_draw.main, "--paths", trained.file) == 0, "its own files are replaced"
    assert names <= own_files(path.parent)


def test_own_files_survive_a_damaged_list(tmp_path):
    write_own_file(tmp_path / "table.md", b"one")
    (tmp_path / ".mma4ctr.json").write_text("{broken")
    with pytest.raises(UserError, match="not written by this project"):
        write_own_file(tmp_path / "table.md", b"two")
    assert (tmp_path / "table.md").read_bytes() == b"one"


@pytest.mark.parametrize("kept", ["all", "scores"])
def test_a_fuller_run_is_not_replaced_by_a_poorer_one(made, tmp_path, kept, monkeypatch):
    """A sweep keeps less of a run with the same settings than mlp.py, in any order."""
    shutil.copytree(made.file.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("dataset"))
    paths = load_paths(tmp_path / "copy/path.json")
    import torch

    cpu = torch.device("cpu")
    settings = TrainSettings(epochs=2, batch_size=256, seed=11, **TRAINING["paper"])
    training = Training(TASK, "vat_concat", settings, [2])
    ((first, _),) = run_checkpoints(paths, replace(training, keep=kept), cpu)
    folder = paths.torch_model / TASK / first.run_id
    before = contents(folder)
    for keep in ("nothing", "scores"):
        if keep == kept:
            continue
        ((again, _),) = run_checkpoints(paths, replace(training, keep=keep), cpu)
        assert contents(folder) == before
        assert (again.run_id, again.auc, again.logloss) == (first.run_id, first.auc, first.logloss)
    ((again, _),) = run_checkpoints(paths, replace(training, keep="all"), cpu)
    assert "predictions.npy" in contents(folder)
    (folder / "predictions.npy").write_bytes(b"damaged")
    run_checkpoints(paths, replace(training, keep="nothing"), cpu)
    assert "predictions.npy" not in contents(folder), "a damaged run is written anew"


def write_one(folder, value=1, step=1, **more):
    with ArtifactWriter(folder, step=step, made_by="x.py", settings=more, inputs={}) as writer:
        writer.json("one", [value])


@pytest.mark.parametrize("exchange", [True, False])
def test_a_lock_or_folder_that_is_a_link(tmp_path, exchange, monkeypatch):
    if not exchange:
        monkeypatch.setattr(folders, "exchange_folders", lambda one, other: False)
    precious = tmp_path / "precious"
    precious.write_text("kept")
    lock = lock_path(tmp_path / "made")
    lock.symlink_to(precious)
    with pytest.raises(OSError):
        write_one(tmp_path / "made")
    assert precious.read_text() == "kept" and lock.is_symlink()
    lock.unlink()
    lock.write_text("a file of the user's")
    write_one(tmp_path / "made")
    assert lock.read_text() == "a file of the user's"
    lock.unlink()
    (tmp_path / "other disk").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "other disk")
    for value in (1, 2, 3):
        write_one(tmp_path / "linked", value)
        assert (tmp_path / "linked").is_symlink() and read_artifact(tmp_path / "linked", "").json("one") == [value]
    assert {path.name for path in tmp_path.iterdir()} == {"precious", "made", "linked", "other disk"}
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a link to a folder that does not exist"):
        write_one(tmp_path / "dangling")


def test_a_folder_is_exchanged_in_one_step(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if folders.exchange_folders(tmp_path / "one", tmp_path / "other"):
        assert (tmp_path / "one/other").exists() and (tmp_path / "other/one").exists()
    else:
        assert sys.platform not in ("linux", "darwin")
    with pytest.raises(OSError):
        folders.exchange_folders(tmp_path / "one", tmp_path / "not there")


@pytest.mark.parametrize("then", ["read", "write"])
def test_killed_between_the_renames_of_a_replacement(tmp_path, monkeypatch, then):
    """If folders cannot be exchanged in one step, the old folder is found again."""
    write_one(tmp_path / "made", 1)
    monkeypatch.setattr(folders, "exchange_folders", lambda one, other: False)
    rename = Path.rename

    def killed_after_the_first(path, target):
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        write_one(tmp_path / "made", 2)
    monkeypatch.setattr(Path, "rename", rename)
    assert not (tmp_path / "made").exists()
    if then == "read":
        assert read_artifact(tmp_path / "made", "").json("one") == [1]
    write_one(tmp_path / "made", 3)
    assert read_artifact(tmp_path / "made", "").json("one") == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("name", [".made.partial", ".made.retired"])
@pytest.mark.parametrize("what", ["file", "link", "folder", "nested"])
def test_foreign_things_with_a_temporary_name(tmp_path, name, what):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/kept").write_text("kept")
    place = tmp_path / name
    if what == "file":
        place.write_text("kept")
    elif what == "link":
        place.symlink_to(tmp_path / "other")
    else:
        shutil.copytree(tmp_path / "other", place / "deep" if what == "nested" else place)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="was not written by this project"):
        write_one(tmp_path / "made")
    assert contents(tmp_path) == before


def test_what_killed_runs_have_left_is_cleared(tmp_path):
    write_one(tmp_path / "made")
    half = tmp_path / ".made.partial"
    half.mkdir()
    write_one(tmp_path / "made", 2)
    half.mkdir()
    (half / folders.UNDER_CONSTRUCTION).touch()
    (half / "half.npy").write_text("half")
    write_one(tmp_path / "made", 3)
    shutil.copytree(tmp_path / "made", half)  # killed right after the exchange
    write_one(tmp_path / "made", 4)
    ended = subprocess.run(
        [sys.executable, "-c", "from mma4ctr.storage.files import temporary_name; print(temporary_name())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (tmp_path / ended).write_text("half")
    (tmp_path / temporary_name()).write_text("of a process that runs")
    write_own_file(tmp_path / "table.md", b"one")
    left = {path.name for path in tmp_path.iterdir()} - {"made", "table.md", ".mma4ctr.json"}
    assert len(left) == 1 and ended not in left


def test_another_step_data_set_or_foreign_file_is_refused(tmp_path):
    write_one(tmp_path / "made", task="a")
    for more in ({"step": 2}, {"task": "b"}):
        with pytest.raises(UserError, match="contains the"):
            write_one(tmp_path / "made", **{"task": "a", **more})
    (tmp_path / "made/mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"contains 'mine.txt', which this project did not write"):
        write_one(tmp_path / "made", task="a")
    (tmp_path / "made/mine.txt").unlink()
    (tmp_path / "made/one.json").unlink()
    (tmp_path / "made/one.json").mkdir()
    with pytest.raises(UserError, match=r"one.json"):
        write_one(tmp_path / "made", task="a")


def test_a_foreign_file_that_comes_while_a_step_works(tmp_path):
    write_one(tmp_path / "made")
    with (
        pytest.raises(UserError, match=r"mine.txt"),
        ArtifactWriter(tmp_path / "made", step=1, made_by="x.py", settings={}, inputs={}) as writer,
    ):
        writer.json("one", [2])
        (tmp_path / "made/mine.txt").write_text("mine")
    assert (tmp_path / "made/mine.txt").read_text() == "mine" and not (tmp_path / ".made.partial").exists()


def manifests(paths):
    """A manifest of each step, by step."""
    run = newest(paths, task=TASK, variant="vat_concat").run_id
    places = {"graph": "tiktok", "modal": "tiktok", "user_embedding": TASK, "matrix": f"{TASK}/vat_concat"}
    return [getattr(paths, name) / place / "manifest.json" for name, place in places.items()] + [
        paths.torch_model / TASK / run / "manifest.json"
    ]


def test_every_key_of_a_manifest_is_sealed(trained):
    seen = set()
    for path in manifests(trained):
        content = path.read_bytes()
        manifest = orjson.loads(content)
        assert seal(manifest) == manifest
        for key in manifest:
            for changed in ({**manifest, key: "other"}, {k: v for k, v in manifest.items() if k != key}):
                path.write_bytes(orjson.dumps(changed))
                with pytest.raises(UserError, match=r"changed|earlier version|not a manifest"):
                    read_artifact(path.parent, "the step")
            seen.add(key)
        path.write_bytes(content)
        read_artifact(path.parent, "the step")
    assert {"columns", "rows", "positives", "modalities", "in_features", "made_by", "sources", "blocks"} <= seen


def test_an_artifact_in_the_place_of_another_is_refused(made, tmp_path, capsys):
    """The manifest of a run, matrix, embedding or features names its task and variant."""
    shutil.copytree(made.file.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("dataset"))
    paths = load_paths(tmp_path / "copy/path.json")
    one, other = newest(paths, task=TASK, variant="vat_concat"), newest(paths, task="tiktok_finish")
    folder = paths.torch_model / TASK / one.run_id
    kept = folder.rename(tmp_path / "kept")
    shutil.copytree(paths.torch_model / "tiktok_finish" / other.run_id, folder)
    for read in (read_run, read_history):
        with pytest.raises(UserError, match=f"contains the run {other.run_id}, not {one.run_id}"):
            read(paths, one)
    assert call(mlp.main, "--paths", paths.file, "--run", one.run_id, "--onnx", tmp_path / "m.onnx") == 2
    shutil.rmtree(folder)
    kept.rename(folder)
    for step, here, there in (
        ("matrix", f"{TASK}/va_concat", f"{TASK}/vt_concat"),
        ("user_embedding", TASK, "tiktok_finish"),
        ("modal", "tiktok", "wechat"),
        ("graph", "tiktok", "wechat"),
    ):
        root = getattr(paths, step)
        shutil.rmtree(root / here)
        shutil.copytree(root / there, root / here)
        capsys.readouterr()
        assert call(mlp.main, "--paths", paths.file, "--task", TASK, "--variant", "va_concat", "--epochs", 1) == 2
        error = capsys.readouterr().err
        assert f"{root / here}: contains the" in error and error.count("error:") == 1, error


@pytest.mark.parametrize("names", [("mine", "mine.new"), ("mine.new", "mine"), ("a", "new-items.x")])
def test_data_sets_whose_names_look_alike(tmp_path, names):
    description = write_data(tmp_path)
    content = {"parent_folder": ".", "datasets": {name: description for name in names}}
    (tmp_path / "path.json").write_text(json.dumps(content | dict(zip(KEYS, "abcdefg", strict=True))))
    for _, main, options in STEPS[:4]:
        assert call(main, "--paths", tmp_path / "path.json", *options) == 0
    (tmp_path / "new.tsv").write_text("item\n999\n")
    for name in names:
        options = ("--dataset", name, "--new-items", tmp_path / "new.tsv")
        assert call(preprocess_multimodal.main, "--paths", tmp_path / "path.json", *options) == 0
    for step, main, options in STEPS[2:]:
        assert call(main, "--paths", tmp_path / "path.json", *options) == 0, step


@pytest.mark.parametrize(
    ("datasets", "modality"),
    [
        (("sweep",), "one"),
        (("new-items",), "one"),
        (("Tiktok",), "one"),
        (("mine", "Mine"), "one"),
        (("mine",), "one.plus"),
        (("mine",), "Two"),
    ],
)
def test_names_that_collide_in_folders_are_refused(tmp_path, capsys, datasets, modality):
    description = write_data(tmp_path)
    description["modalities"][modality] = description["modalities"]["one"]
    content = {"parent_folder": ".", "datasets": {name: description for name in datasets}}
    (tmp_path / "path.json").write_text(json.dumps(content | dict(zip(KEYS, "abcdefg", strict=True))))
    good = (datasets, modality) == (("mine",), "one")
    assert call(preprocess_inter.main, "--paths", tmp_path / "path.json") == (0 if good else 2)
    assert capsys.readouterr().err.count("error:") == 1


def test_a_simulated_world_replaces_only_a_simulated_world(tmp_path, capsys):
    options = (tmp_path, "--dataset", "tiktok", "--rows", 2000, "--users", 20, "--items", 60)
    assert call(world.main, *options) == 0
    assert call(world.main, *options) == 0
    folder = next((tmp_path / "dataset").rglob("truth")).parent
    (folder / "my notes.txt").write_text("mine")
    before = contents(tmp_path)
    assert call(world.main, *options) == 2
    assert "my notes.txt" in capsys.readouterr().err and contents(tmp_path) == before


def test_a_file_hash_is_taken_before_its_use(tmp_path):
    write_one(tmp_path / "made")
    (tmp_path / "made/one.json").write_text("[2]")
    with pytest.raises(UserError, match=r"fingerprint differs|hash differs|damaged"):
        artifacts.read_artifact(tmp_path / "made", "x.py").json("one")
