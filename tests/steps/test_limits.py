"""Conditions that end a step with one error line and exit code 2: inputs that change meanwhile, full disks, a missing
home folder, addresses without a cluster, numbers outside the limits of the libraries."""

import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import comp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import schedule
import torch
from pyarrow import csv
from safetensors.torch import load_file

import adjust_hyperparameter
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
import viewer
from mma4ctr.datasets import arrow
from mma4ctr.evaluation.metrics import auc
from mma4ctr.evaluation.run_figures import balanced_sample
from mma4ctr.evaluation.studies import STUDIES
from mma4ctr.features import item_features, new_items
from mma4ctr.features.feature_matrix import load_matrix
from mma4ctr.features.user_embedding import draw_folds
from mma4ctr.model import inference as scoring
from mma4ctr.model.mlp import save_weights
from mma4ctr.model.trainer import train
from mma4ctr.model.training_defaults import TrainSettings
from mma4ctr.runtime import environment
from mma4ctr.runtime import ray_cluster as cluster
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.system import cores
from mma4ctr.simulation import __main__ as world
from mma4ctr.steps import sweep, training_run
from mma4ctr.steps.sweep import train_group
from mma4ctr.storage import text_blocks as rawfiles
from mma4ctr.storage.unchanged import unchanged
from tests.conftest import ROOT, call

FILES = {
    "tiktok": "dataset/TikTok2019ICME/track1/final_track1_train.txt",
    "wechat": "dataset/wechat/user_action.csv",
    "own": "own/log.csv",
}
FEATURES = {
    "tiktok": "dataset/TikTok2019ICME/track1/track1_audio_features_part1.txt",
    "wechat": "dataset/wechat/feed_info.csv",
    "own": "own/items.csv",
}


def one_error(capsys, *parts):
    """Return the one line on standard error."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "error" in line]
    assert "Traceback" not in error and len(lines) == 1, error
    for part in parts:
        assert str(part) in lines[0], (part, error)
    return lines[0]


def state(folder):
    """Return the hash of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def grow(path):
    data = path.read_bytes()
    path.write_bytes(data + data[-len(data) // 3 :].partition(b"\n")[2])


def shrink(path):
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"\n", 0, len(data) // 2) + 1])


def rewrite(path):
    """Replace a file by another of the same size and modification time."""
    status = path.stat()
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


CHANGES = {change.__name__: change for change in (grow, shrink, rewrite)}


@pytest.fixture
def own_copy(raw_copy):
    """Raw files of both built-in data sets and of a described one."""
    folder = raw_copy / "own"
    folder.mkdir()
    rows = [f"u{n % 7},i{n % 31},{n},{int(n * n % 5 < 2)}" for n in range(900)]
    (folder / "log.csv").write_text("\n".join(["user,item,when,liked", *rows]) + "\n")
    features = [f"i{n},{n}.5,{n * n % 17}" for n in range(31)]
    (folder / "items.csv").write_text("\n".join(["item,a,b", *features]) + "\n")
    (folder / "own.toml").write_text(
        '[interactions]\nfiles = "log*.csv"\nuser = "user"\nitem = "item"\ntime = "when"\n'
        '[targets]\nlike = "liked"\n[modalities.content]\nfiles = "items.csv"\nitem = "item"\nvector = ["a", "b"]\n'
    )
    paths = json.loads((raw_copy / "path.json").read_text()) | {"datasets": {"own": "own/own.toml"}}
    (raw_copy / "path.json").write_text(json.dumps(paths))
    return raw_copy


def after_call(monkeypatch, where, name, change):
    """Wrap a function so that `change` runs after its first call."""
    original, done = getattr(where, name), []

    def changing(*arguments, **options):
        result = original(*arguments, **options)
        if not done:
            done.append(True)
            change()
        return result

    monkeypatch.setattr(where, name, changing)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dataset", FILES)
def test_interactions_that_change_while_they_are_read(own_copy, monkeypatch, capsys, dataset, change):
    options = ("--paths", own_copy / "path.json", "--dataset", dataset, "--min-interactions", 20)
    assert call(preprocess_inter.main, *options) == 0
    before = state(own_copy / "graph")
    file = own_copy / FILES[dataset]
    after_call(monkeypatch, preprocess_inter, "count_rows", lambda: CHANGES[change](file))
    assert call(preprocess_inter.main, *options) == 2
    one_error(capsys, file, "changed while it was read")
    assert state(own_copy / "graph") == before and not list((own_copy / "temp").glob("*"))


def test_a_file_that_comes_or_goes_while_others_are_read(own_copy, monkeypatch, capsys):
    options = ("--paths", own_copy / "path.json", "--dataset", "own", "--min-interactions", 20)
    log = own_copy / FILES["own"]
    with monkeypatch.context() as patch:
        after_call(patch, preprocess_inter, "count_rows", lambda: shutil.copy(log, log.with_name("log2.csv")))
        assert call(preprocess_inter.main, *options) == 2
    one_error(capsys, "log2.csv: was added while")
    with monkeypatch.context() as patch:
        after_call(patch, preprocess_inter, "count_rows", log.unlink)
        assert call(preprocess_inter.main, *options) == 2
    one_error(capsys, f"{log}: changed while it was read (it was deleted)")


@pytest.mark.parametrize("dataset", FEATURES)
def test_features_that_change_while_they_are_read(own_copy, monkeypatch, capsys, dataset):
    options = ("--paths", own_copy / "path.json", "--dataset", dataset)
    assert call(preprocess_inter.main, *options, "--min-interactions", 20) == 0
    file = own_copy / FEATURES[dataset]
    with monkeypatch.context() as patch:
        after_call(patch, item_features, "modality_features", lambda: grow(file))
        assert call(preprocess_multimodal.main, *options) == 2
    one_error(capsys, file, "changed while it was read")
    assert not (own_copy / "modal").exists() or not list((own_copy / "modal").glob("*"))
    assert call(preprocess_multimodal.main, *options) == 0
    asked = own_copy / "new.tsv"
    asked.write_text("item\n123456789\n")
    for changed in (file, asked):
        with monkeypatch.context() as patch:
            after_call(patch, new_items, "reduced_features", lambda changed=changed: rewrite(changed))
            assert call(preprocess_multimodal.main, *options, "--new-items", asked) == 2
        one_error(capsys, changed, "changed while it was read")


@pytest.mark.parametrize("more", [(), ("--top", 3)])
def test_pairs_that_change_while_they_are_scored(made, tmp_path, monkeypatch, capsys, more):
    pairs, output = tmp_path / "pairs.tsv", tmp_path / "out.tsv"
    pairs.write_text("user\titem\n1\t2\n3\t4\n")
    output.write_text("before")
    options = ("--paths", made.file, "--run", "last", "--predict", pairs, "--output", output, *more)
    after_call(monkeypatch, scoring, "read_tsv", lambda: grow(pairs))
    assert call(mlp.main, *options) == 2
    one_error(capsys, pairs, "changed while it was read")
    assert output.read_text() == "before"


def test_an_error_in_a_changed_file_names_the_change(tmp_path):
    file = tmp_path / "file"
    file.write_text("some")
    with pytest.raises(UserError, match="changed while"), unchanged(lambda: [file]):
        file.write_text("more of it")
        raise ValueError("the last line is cut")
    with pytest.raises(ValueError), unchanged(lambda: [file]):
        raise ValueError("its own")


@pytest.fixture
def swept_copy(made, tmp_path):
    """The output of the steps and of a sweep of two lengths: folder and options."""
    folder = tmp_path / "swept"
    shutil.copytree(made.file.parent, folder)
    study = replace(STUDIES["embedding-length"], epochs=(1,), cases=STUDIES["embedding-length"].cases[:1])
    options = ("--paths", folder / "path.json", "--task", "tiktok_like", "--seeds", 1, "--jobs", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adjust_hyperparameter, "STUDIES", {study.name: study})
        patch.setattr("mma4ctr.steps.sweep.sweep", train_here)
        assert call(adjust_hyperparameter.main, *options) == 0
        yield folder, options


def train_here(work, cost, jobs, device):
    """Replace `sweep` by a loop in this process."""
    for paths, group in work:
        train_group(paths, group, device, 1, lambda epoch: None)
    return 0


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()  # it may be a link to another artifact's file
    path.write_bytes(data)


DAMAGES = {
    "a byte": lambda folder: flip(
        folder / "item_part.npy" if (folder / "item_part.npy").exists() else folder / "block.npy"
    ),
    "a file gone": lambda folder: next(folder.glob("*.npy")).unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").write_text("{"),
    "another kind of manifest": lambda folder: (folder / "manifest.json").write_text('{"fingerprint": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_of_the_sweep_is_made_again(swept_copy, capsys, damage):
    folder, options = swept_copy
    (matrix,) = (folder / "matrix/sweep").glob("*/tiktok_like/*/")
    (embedding,) = (folder / "user_embedding/sweep").glob("*/tiktok_like/")
    before = state(matrix), state(embedding), (folder / "saved/results.jsonl").read_text()
    for place in (matrix, embedding):
        DAMAGES[damage](place)
    assert call(adjust_hyperparameter.main, *options, "--dry-run") == 0
    assert call(adjust_hyperparameter.main, *options) == 0
    assert "made again" in capsys.readouterr().out
    after = state(matrix), state(embedding), (folder / "saved/results.jsonl").read_text()
    assert {name for name in after[0] if after[0][name] != before[0].get(name)} <= {"manifest.json"}
    assert after[2] == before[2], "the runs are the same, so none is repeated"
    # The output of the user's own commands is not repaired.
    flip(folder / "matrix/tiktok_like/vat_concat/item_part.npy")
    assert call(mlp.main, *options[:4]) == 2
    one_error(capsys, "run cross_matrix.py again")


PLACES = {
    "saved is a file": lambda folder: (folder / "saved").write_text(""),
    "results.jsonl is a folder": lambda folder: (folder / "saved/results.jsonl").mkdir(parents=True),
    "a link to nowhere": lambda folder: (folder / "saved").symlink_to(folder / "gone/saved"),
    "models are a file": lambda folder: (folder / "torch_model").write_text(""),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("script", [mlp, adjust_hyperparameter, comp])
def test_results_that_cannot_be_written_are_refused_before_training(made, tmp_path, monkeypatch, capsys, place, script):
    content = json.loads(made.file.read_text()) | {"parent_folder": str(made.file.parent)}
    content |= {key: str(tmp_path / key.removesuffix("_path")) for key in ("saved_path", "torch_model_path")}
    (tmp_path / "path.json").write_text(json.dumps(content))
    PLACES[place](tmp_path)

    def trained(*arguments, **options):
        raise AssertionError("training has started")

    for where, name in (
        (training_run, "run_checkpoints"),
        (sweep, "sweep"),
        (schedule, "train_all"),
        (comp, "train_ours"),
    ):
        monkeypatch.setattr(where, name, trained)
    more = ("--models", "bias model") if script is comp else ()
    assert call(script.main, "--paths", tmp_path / "path.json", "--task", "tiktok_like", *more) == 2
    line = one_error(capsys)
    assert str(tmp_path / ("torch_model" if place.startswith("models") else "saved")) in line


def limited_run(script, size, *options):
    """Run a script that may not write files of more than `size` bytes."""
    return subprocess.run(
        [sys.executable, script, *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


def other_outputs(made, tmp_path, **more):
    """Write a path.json with the inputs of `made` and separate folders for the output of step 5."""
    content = json.loads(made.file.read_text()) | {"parent_folder": str(made.file.parent)} | more
    content |= {key: str(tmp_path / key) for key in ("saved_path", "torch_model_path")}
    (tmp_path / "path.json").write_text(json.dumps(content))
    return tmp_path / "path.json"


def test_a_disk_that_is_full_when_the_model_is_written(made, tmp_path):
    options = ("--paths", other_outputs(made, tmp_path), "--task", "tiktok_like", "--epochs", 1)
    done = limited_run("mlp.py", 20_000, *options)
    assert done.returncode == 2 and done.stderr.count("error:") == 1 and "Traceback" not in done.stderr, done.stderr
    assert "File too large" in done.stderr and not list(tmp_path.glob("torch_model_path/*/*"))


def test_weights_are_written_as_a_file_is(tmp_path):
    with pytest.raises(OSError):
        save_weights(tmp_path / "gone/model.safetensors", {"x": torch.zeros(3)})
    save_weights(tmp_path / "model.safetensors", {"x": torch.arange(3)})
    assert load_file(tmp_path / "model.safetensors")["x"].tolist() == [0, 1, 2]


OPTIONS = {
    mlp: (
        "--seed",
        "--epochs",
        "--batch-size",
        "--halve-every",
        "--patience",
        "--max-interrupts",
        "--networks",
        "--top",
    ),
    adjust_hyperparameter: ("--seeds", "--jobs"),
    comp: ("--seeds", "--jobs", "--epochs"),
    get_user_embedding: ("--length", "--folds", "--seed"),
    preprocess_inter: ("--min-interactions", "--seed", "--skip-bad-lines"),
    preprocess_multimodal: ("--skip-bad-lines", "--width visual=N"),
    viewer: ("--points", "--seed"),
    world: ("--rows", "--users", "--items", "--seed"),
}


@pytest.mark.parametrize(
    ("script", "option"), [(script, option) for script, all_ in OPTIONS.items() for option in all_]
)
def test_numbers_beyond_what_the_libraries_take(script, option, capsys):
    for number in (2**63, 10**30, -1, "9" * 5000):
        words = option.replace("=N", f"={number}").split() if "=" in option else [option, number]
        assert call(script.main, *words) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error and option.split()[0] in error and len(error) < 5000


@pytest.mark.parametrize("seed", [2**32 - 1, 2**31])
def test_the_largest_seed_is_taken_everywhere(seed, made, raw_copy):
    paths = raw_copy / "path.json"
    split = ("--split", "random", "--min-interactions", 20)
    assert call(preprocess_inter.main, "--paths", paths, "--dataset", "tiktok", *split, "--seed", seed) == 0
    training = TrainSettings(epochs=1, seed=seed)
    matrix = load_matrix(made, "tiktok_like", "vat_concat", torch.device("cpu"))
    assert train(matrix, training, auc)[0].weights
    draw_folds(np.zeros(100, np.uint8), 5, seed)
    balanced_sample(np.array([0, 1] * 20), 5, seed)
    np.random.RandomState(seed)


STRAY = {
    "alone": ({"WORLD_SIZE": "2"}, "start with torchrun"),
    "a word": ({"WORLD_SIZE": "two"}, "'two'"),
    "nothing": ({"WORLD_SIZE": ""}, "''"),
    "zero": ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
    "huge": ({"WORLD_SIZE": "9" * 40}, "WORLD_SIZE"),
    "a part": ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT not set"),
    "rank beyond": ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "RANK"),
    "rank no number": ({"WORLD_SIZE": "2", "RANK": "-", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "RANK"),
}


@pytest.mark.parametrize("case", STRAY)
def test_a_stray_variable_of_torchrun(made, monkeypatch, capsys, case):
    variables, part = STRAY[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert call(mlp.main, "--paths", made.file, "--task", "tiktok_like", "--epochs", 1) == 2
    one_error(capsys, part)


def listen(answer):
    """Open a port of this machine that answers with nothing, with some bytes, or with the end of the connection."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                if answer:
                    connection.sendall(answer)
                if answer is None:
                    connection.close()
                held.append(connection)

    held = []
    threading.Thread(target=serve, daemon=True).start()
    return server


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00", None]
)
def test_a_listener_that_is_not_ray(made, monkeypatch, capsys, answer):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "TIMEOUT_SECONDS", 1.0)
    with listen(answer) as server:
        started = time.monotonic()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert call(preprocess_inter.main, "--paths", made.file, "--ray", address) == 2
        assert time.monotonic() - started < 15
    one_error(capsys, "Ray cluster")


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "host.invalid:6379", "::1", "x:y:1", ":1"])
def test_an_address_that_is_none(made, capsys, address):
    pytest.importorskip("ray")
    assert call(preprocess_inter.main, "--paths", made.file, "--ray", address) == 2
    one_error(capsys, "--ray")


def test_a_local_ray_is_local_whatever_the_environment_says(monkeypatch):
    ray = pytest.importorskip("ray")
    asked = []
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options["address"]))
    cluster.connect("local", ROOT)
    assert asked == ["local"]


LONG = "x" * 300


def test_names_that_are_too_long(own_copy, capsys):
    paths = own_copy / "path.json"
    text = (own_copy / "own/own.toml").read_text()
    content = json.loads(paths.read_text())
    changes = {
        "data set": (content | {"datasets": {LONG: "own/own.toml"}}, text),
        "output": (content | {"graph_path": LONG}, text),
        "raw files": (content | {"tiktok_dataset_path": LONG}, text),
        "description": (content | {"datasets": {"own": f"{LONG}.toml"}}, text),
        "file": (content, text.replace("log*.csv", f"{LONG}.csv")),
        "modality": (content, text.replace("modalities.content", f"modalities.{LONG}")),
    }
    for name, (changed, description) in changes.items():
        paths.write_text(json.dumps(changed))
        (own_copy / "own/own.toml").write_text(description)
        dataset = {"data set": LONG, "raw files": "tiktok"}.get(name, "own")
        options = ("--paths", paths, "--dataset", dataset)
        codes = [call(preprocess_inter.main, *options, "--min-interactions", 20)]
        codes += [call(preprocess_multimodal.main, *options)] if codes == [0] else []
        assert codes[-1] == 2, name
        one_error(capsys)


def test_options_that_are_too_long(made, tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("user\titem\n1\t2\n")
    use = ("--paths", made.file, "--run", "last", "--predict", tmp_path / "pairs.tsv")
    for options in (
        (*use, "--output", tmp_path / LONG),
        (*use[:-1], tmp_path / LONG),
        (*use[:3], LONG, *use[4:]),
        ("--paths", tmp_path / LONG),
        ("--paths", made.file, "--task", f"tiktok_{LONG}"),
    ):
        assert call(mlp.main, *options) == 2
        one_error(capsys)


def test_an_array_of_ten_million_columns(own_copy, capsys):
    folder = own_copy / "own"
    np.lib.format.open_memmap(folder / "wide.npy", "w+", np.float32, (31, 10_000_000)).flush()  # a sparse file
    text = (folder / "own.toml").read_text().partition("[modalities")[0]
    (folder / "own.toml").write_text(text + '[modalities.wide]\nvectors = "wide.npy"\nids = 0\n')
    options = ("--paths", own_copy / "path.json", "--dataset", "own")
    assert call(preprocess_inter.main, *options, "--min-interactions", 20) == 0
    assert call(preprocess_multimodal.main, *options) == 2
    one_error(capsys, "10,000,000 numbers")


@pytest.mark.parametrize("column", ["user", "also", "content"])
def test_a_huge_cell(own_copy, monkeypatch, capsys, column):
    """With a smaller limit; a cell of a GB takes the same code, see the next test."""
    folder = own_copy / "own"
    for module in (arrow, rawfiles):
        monkeypatch.setattr(module, "LONGEST_LINE", 1 << 20)
    table = csv.read_csv(folder / "log.csv")
    cells = [[str(n)] * len(table) for n in range(2)]
    cells[column == "user"][500] = "1 " * (1 << 20)
    table = table.append_column("note", pa.array(cells[0])).append_column("other", pa.array(cells[1]))
    pq.write_table(table, folder / "log.parquet")
    text = (folder / "own.toml").read_text().replace("log*.csv", "log.parquet")
    if column == "user":
        text = text.replace('user = "user"', 'user = "other"')
    elif column == "also":
        text = text.replace('time = "when"', 'time = "when"\nalso = ["note"]')
    else:
        text = text.partition("[modalities")[0]
        text += '[modalities.content]\nfiles = "log.parquet"\nitem = "item"\nvector = "note"\n'
    (folder / "own.toml").write_text(text)
    options = ("--paths", own_copy / "path.json", "--dataset", "own")
    code = call(preprocess_inter.main, *options, "--min-interactions", 20)
    if column == "content":
        assert code == 0
        code = call(preprocess_multimodal.main, *options)
    assert code == 2
    one_error(capsys, "log.parquet", "a cell of over 1 MB")


@pytest.mark.long
def test_a_cell_of_a_gigabyte(own_copy, capsys):
    folder = own_copy / "own"
    table = csv.read_csv(folder / "log.csv").slice(0, 100)
    cells = ["1"] * 99 + ["1 " * (1 << 29)]
    pq.write_table(table.append_column("note", pa.array(cells, pa.large_string())), folder / "log.parquet")
    text = (folder / "own.toml").read_text().replace("log*.csv", "log.parquet")
    (folder / "own.toml").write_text(text.replace('time = "when"', 'time = "when"\nalso = ["note"]'))
    options = ("--paths", own_copy / "path.json", "--dataset", "own", "--min-interactions", 2)
    assert call(preprocess_inter.main, *options) == 2
    one_error(capsys, "log.parquet")


def test_no_home_for_caches(tmp_path, monkeypatch):
    nowhere, source = tmp_path / "file/home", tmp_path / "source"
    (tmp_path / "file").write_text("")
    source.mkdir()
    home = {"XDG_CACHE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    assert environment.fall_back_to_temporary_caches(home, [nowhere]) is None
    lost = {name: str(nowhere) for name in home}
    for sources, wanted in (([source], {"MPLCONFIGDIR"}), ([source, nowhere], {"MPLCONFIGDIR", "NUMBA_CACHE_DIR"})):
        variables = dict(lost)
        folder = environment.fall_back_to_temporary_caches(variables, sources)
        assert {name for name, value in variables.items() if value == str(folder)} == wanted
        folder.rmdir()
    own = lost | {"MPLCONFIGDIR": "a", "NUMBA_CACHE_DIR": "b"}
    assert environment.fall_back_to_temporary_caches(own, [nowhere]) is None
    # A folder that this user may not write, even if the test runs as root.
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not environment.writable(source)


# Compiled functions and a figure, as the steps have them, where neither home nor sources can be written.
HOMELESS = """
import os
os.access = lambda path, mode, **_: not str(path).startswith(("/no", os.environ["SOURCES"]))
import mma4ctr.runtime.environment
import numba.core.caching as caching
caching.InTreeCacheLocator.ensure_cache_path = lambda self: (_ for _ in ()).throw(PermissionError())
from mma4ctr.storage.integer_csv import parse_columns
from mma4ctr.evaluation.figures import panels
print(parse_columns(b"1,2\\n", [True, True], ",").tolist())
"""


def test_a_script_without_a_home(tmp_path):
    variables = {"HOME": "/dev/null", "SOURCES": str(ROOT), "TMPDIR": str(tmp_path)}
    removed = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS], cwd=ROOT, env=kept | variables, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "[[1], [2]]\n" and not done.stderr, done.stderr
    assert not list(tmp_path.iterdir()), "the caches go with the process"


# How libgomp, torch's OpenMP, understands the environment when it is loaded.
LOADED = "import sys; sys.path.insert(0, 'baseline'); import {module}; import torch; torch.zeros(3)"


OTHERS = [pytest.param(name, marks=pytest.mark.long) for name in ("adjust_hyperparameter", "viewer", "comp")]


@pytest.mark.parametrize("module", ["mlp", "mma4ctr.evaluation.run_records", *OTHERS])
def test_threads_wait_passively(module):
    def loaded(**more):
        unset = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        return subprocess.run(
            [sys.executable, "-c", LOADED.format(module=module)],
            cwd=ROOT,
            env=kept | {"OMP_DISPLAY_ENV": "TRUE"} | more,
            capture_output=True,
            text=True,
        ).stderr

    assert "OMP_WAIT_POLICY = 'PASSIVE'" in loaded()
    if module == "mlp":
        assert "OMP_WAIT_POLICY = 'ACTIVE'" in loaded(OMP_WAIT_POLICY="active")


TRAINING = """
import resource, sys
import mma4ctr.runtime.environment
import numpy as np, torch
from mma4ctr.features.feature_matrix import FactorMatrix, RowGroup
from mma4ctr.model.trainer import train
from mma4ctr.model.training_defaults import TrainSettings
rng = np.random.default_rng(0)

def group(rows):
    draw = lambda high: torch.from_numpy(rng.integers(0, high, rows))
    return RowGroup(np.arange(rows), draw(3000), draw(2000), draw(2).byte())

matrix = FactorMatrix(torch.randn(3000, 66), torch.randn(2000, 128), group(500_000), group(1000), group(1000), {}, "")
before = resource.getrusage(resource.RUSAGE_SELF)
train(matrix, TrainSettings(epochs=1, batch_size=2048, max_interrupts=0), lambda label, logits: 0.6)
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""


@pytest.mark.long
def test_an_epoch_beside_other_work():
    """Beside one busy process per core, an epoch takes at most three times the CPU seconds of an idle machine."""

    def seconds():
        done = subprocess.run([sys.executable, "-c", TRAINING], cwd=ROOT, capture_output=True, text=True, check=True)
        return float(done.stdout)

    idle = min(seconds() for _ in range(2))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
    try:
        beside = min(seconds() for _ in range(2))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert beside < 3 * idle, (idle, beside)
