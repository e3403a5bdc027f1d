"""What a step cannot work with is told in one line with exit code 2: inputs that change meanwhile, machines without
room or a home, clusters that are none, numbers beyond what the libraries take."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import comp
import pytest

import adjust_hyperparameter
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr import scoring
from mma4ctr.console import UserError
from mma4ctr.studies import STUDIES
from mma4ctr.unchanged import unchanged
from tests.conftest import call

ROOT = Path(__file__).parent.parent
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
    """The one line on standard error."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "error" in line]
    assert "Traceback" not in error and len(lines) == 1, error
    for part in parts:
        assert str(part) in lines[0], (part, error)
    return lines[0]


def state(folder):
    """Every file with its hash."""
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
    """Another file of the same size, with the time of the old one."""
    status = path.stat()
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


CHANGES = {change.__name__: change for change in (grow, shrink, rewrite)}


@pytest.fixture
def own_copy(raw_copy):
    """Raw files of both data sets, and of one that is described."""
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
    """Let a function do its work, and the first time afterwards `change` something."""
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
    one_error(capsys, "log2.csv: came while")
    with monkeypatch.context() as patch:
        after_call(patch, preprocess_inter, "count_rows", log.unlink)
        assert call(preprocess_inter.main, *options) == 2
    one_error(capsys, f"{log}: changed while it was read (it is gone)")


@pytest.mark.parametrize("dataset", FEATURES)
def test_features_that_change_while_they_are_read(own_copy, monkeypatch, capsys, dataset):
    options = ("--paths", own_copy / "path.json", "--dataset", dataset)
    assert call(preprocess_inter.main, *options, "--min-interactions", 20) == 0
    file = own_copy / FEATURES[dataset]
    with monkeypatch.context() as patch:
        after_call(patch, preprocess_multimodal, "modality_features", lambda: grow(file))
        assert call(preprocess_multimodal.main, *options) == 2
    one_error(capsys, file, "changed while it was read")
    assert not (own_copy / "modal").exists() or not list((own_copy / "modal").glob("*"))
    assert call(preprocess_multimodal.main, *options) == 0
    asked = own_copy / "new.tsv"
    asked.write_text("item\n123456789\n")
    for changed in (file, asked):
        with monkeypatch.context() as patch:
            after_call(patch, preprocess_multimodal, "reduced_features", lambda changed=changed: rewrite(changed))
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


def test_an_error_of_a_file_that_has_changed_is_told_by_its_cause(tmp_path):
    file = tmp_path / "file"
    file.write_text("some")
    with pytest.raises(UserError, match="changed while"), unchanged(lambda: [file]):
        file.write_text("more of it")
        raise ValueError("the last line is cut")
    with pytest.raises(ValueError), unchanged(lambda: [file]):
        raise ValueError("its own")


@pytest.fixture
def swept_copy(made, tmp_path):
    """The steps' output, with a sweep of two lengths in it: folder, options."""
    folder = tmp_path / "swept"
    shutil.copytree(made.file.parent, folder)
    study = replace(STUDIES["embedding-length"], epochs=(1,), cases=STUDIES["embedding-length"].cases[:1])
    options = ("--paths", folder / "path.json", "--task", "tiktok_like", "--seeds", 1, "--jobs", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adjust_hyperparameter, "STUDIES", {study.name: study})
        patch.setattr(adjust_hyperparameter, "sweep", train_here)
        assert call(adjust_hyperparameter.main, *options) == 0
        yield folder, options


def train_here(work, cost, jobs, device):
    """`sweep` without processes."""
    for paths, group in work:
        adjust_hyperparameter.train_group(paths, group, device, 1, lambda epoch: None)
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
    # What the user's own commands have made is left to the user.
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
def test_results_that_cannot_be_written_are_told_before_training(made, tmp_path, monkeypatch, capsys, place, script):
    content = json.loads(made.file.read_text()) | {"parent_folder": str(made.file.parent)}
    content |= {key: str(tmp_path / key.removesuffix("_path")) for key in ("saved_path", "torch_model_path")}
    (tmp_path / "path.json").write_text(json.dumps(content))
    PLACES[place](tmp_path)

    def trained(*arguments, **options):
        raise AssertionError("training has started")

    for where, name in (
        (mlp, "run_marks"),
        (adjust_hyperparameter, "sweep"),
        (comp, "train_all"),
        (comp, "train_ours"),
    ):
        monkeypatch.setattr(where, name, trained)
    more = ("--models", "rates") if script is comp else ()
    assert call(script.main, "--paths", tmp_path / "path.json", "--task", "tiktok_like", *more) == 2
    line = one_error(capsys)
    assert str(tmp_path / ("torch_model" if place.startswith("models") else "saved")) in line
