"""Every reader refuses a file that differs from its hash, even if size and date are unchanged."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import orjson
import pytest
from safetensors.torch import load_file

import cross_matrix
import get_user_embedding
import mlp
import statis_and_draw
import viewer
from mma4ctr.evaluation.run_records import newest_of_each, read_results
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.signals import Stopped
from mma4ctr.storage import artifacts
from mma4ctr.storage.artifacts import ArtifactWriter, fingerprint_of, read_artifact
from mma4ctr.storage.files import remove_stale_files
from mma4ctr.storage.folders import UNDER_CONSTRUCTION, start_building
from mma4ctr.storage.paths import load_paths
from tests.conftest import call

TASK = "tiktok_like"


def change_a_byte(path):
    """Change the last byte of a file; size and date stay the same."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    shutil.copy(path, path.with_suffix(".new"))  # in the place of a link, not through it
    path.with_suffix(".new").replace(path)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and path.stat().st_mtime_ns == status.st_mtime_ns


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the output of steps 1 to 5."""
    shutil.copytree(made.file.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("dataset"))
    return load_paths(tmp_path / "copy/path.json")


def folders_of(paths):
    """Return one artifact folder of each step; the last is a run with its model."""
    run = next(r for r in newest_of_each(read_results(paths.results)) if (r.task, r.variant) == (TASK, "vat_concat"))
    folders = [paths.graph / "tiktok", paths.modal / "tiktok", paths.user_embedding / TASK]
    return [*folders, paths.matrix / TASK / "vat_concat", paths.torch_model / TASK / run.run_id]


def test_every_file_of_every_artifact(copied):
    seen = set()
    for folder in folders_of(copied):
        artifact = read_artifact(folder, "the step")
        for name in artifact.manifest["files"]:
            assert artifact.file(name) == folder / name, "as it was written it is read"
            change_a_byte(folder / name)
            with pytest.raises(UserError, match=r"its hash differs; run \w+\.py again"):
                artifact.file(name)
            seen.add(name)
        assert {path.name for path in folder.iterdir()} == {*artifact.manifest["files"], "manifest.json"}
    assert {"user.npy", "visual.npy", "block.npy", "user_part.npy", "model.safetensors", "history.json"} <= seen


@pytest.mark.parametrize(
    ("place", "name", "main", "options"),
    [
        (0, "label_like.npy", get_user_embedding.main, ("--task", TASK)),
        (1, "textual.npy", cross_matrix.main, ("--task", TASK)),
        (2, "acoustic.npy", cross_matrix.main, ("--task", TASK)),
        (2, "block.npy", mlp.main, ("--task", TASK, "--epochs", 1)),
        (3, "item_part.npy", mlp.main, ("--task", TASK, "--epochs", 1)),
        (4, "predictions.npy", viewer.main, ("--task", TASK)),
        (4, "history.json", statis_and_draw.main, ("--task", TASK)),
    ],
)
def test_the_next_step_refuses_it(copied, capsys, place, name, main, options):
    path = folders_of(copied)[place] / name
    change_a_byte(path)
    assert call(main, "--paths", copied.file, *options) == 2
    error = capsys.readouterr().err
    assert f"error: {path}: was changed after it was written" in error and "Traceback" not in error


@pytest.mark.parametrize("key", ["settings", "files", "inputs", "step"])
def test_a_manifest_that_was_changed(copied, capsys, key):
    """For example to mark leaky features as honest."""
    path = folders_of(copied)[2] / "manifest.json"
    content = orjson.loads(path.read_bytes())
    content[key] = content[key] | {"evidence": "other"} if isinstance(content[key], dict) else 7
    path.write_bytes(orjson.dumps(content))
    assert call(mlp.main, "--paths", copied.file, "--task", TASK) == 2
    assert f"error: {path}: was changed after it was written" in capsys.readouterr().err
    del content[key]
    path.write_bytes(orjson.dumps(content))
    assert call(mlp.main, "--paths", copied.file, "--task", TASK) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_model_is_loaded_as_it_was_saved(copied):
    artifact = read_artifact(folders_of(copied)[4], "mlp.py")
    assert len(load_file(artifact.file("model.safetensors"))) == 8
    assert artifact.fingerprint == fingerprint_of(
        {k: artifact.manifest[k] for k in ("step", "settings", "inputs", "files")}
    )


def test_a_file_is_hashed_once(copied, monkeypatch):
    hashed = []
    original = artifacts._sha256
    monkeypatch.setattr(artifacts, "_sha256", lambda path: hashed.append(path.name) or original(path))
    artifact = read_artifact(folders_of(copied)[0], "")
    for _ in range(3):
        artifact.array("user")
    assert hashed == ["user.npy"]


def test_a_lock_is_gone_when_nobody_writes(tmp_path):
    for failing in (False, True):
        try:
            with ArtifactWriter(tmp_path / "made", step=1, made_by="x.py", settings={}, inputs={}) as writer:
                writer.json("one", [1])
                assert (tmp_path / ".made.lock").exists()
                if failing:
                    raise UserError("stop")
        except UserError:
            assert failing
        assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("first", [False, True])
def test_a_signal_while_a_finished_folder_is_synced_leaves_no_other_folder(tmp_path, monkeypatch, first):
    def write(number):
        with ArtifactWriter(tmp_path / "made", step=1, made_by="x.py", settings={}, inputs={}) as writer:
            writer.json("one", [number])

    def stopped(folder):
        raise Stopped(signal.SIGTERM)

    if not first:
        write(1)
    monkeypatch.setattr("mma4ctr.storage.folders.sync", stopped)
    with pytest.raises(Stopped):
        write(2)
    assert [path.name for path in tmp_path.iterdir()] == ([] if first else ["made"])
    assert first or read_artifact(tmp_path / "made", "").json("one") == [1]


def write_number(folder, value):
    with ArtifactWriter(folder, step=1, made_by="x.py", settings={}, inputs={}) as writer:
        for name in ("a", "b", "c"):
            writer.array(name, np.full(3, value))


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("moment", range(5))
def test_a_signal_while_the_old_output_is_removed(tmp_path, monkeypatch, moment, killed):
    """The new output stands; the old one is removed at once, or by the next run if the process was killed."""
    write_number(tmp_path / "made", 1)
    unlink, calls = Path.unlink, []

    def ended(path, **options):
        if path.name != UNDER_CONSTRUCTION and path.parent.name == ".made.partial":
            calls.append(path)
            if len(calls) == moment + 1 or (killed and len(calls) > moment):
                raise Stopped(signal.SIGTERM)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", ended)
    if moment < 4:
        with pytest.raises(Stopped):
            write_number(tmp_path / "made", 2)
    else:
        write_number(tmp_path / "made", 2)
    monkeypatch.setattr(Path, "unlink", unlink)
    assert read_artifact(tmp_path / "made", "x.py").array("a").tolist() == [2] * 3
    if killed:
        write_number(tmp_path / "made", 3)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["made"]


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_while_an_unfinished_folder_is_removed(tmp_path, monkeypatch, moment):
    """The marker goes last, so the next run recognizes what is left."""
    building = tmp_path / ".made.partial"
    (building / "folder").mkdir(parents=True)
    for name in (UNDER_CONSTRUCTION, "a", "b", "folder/c"):
        (building / name).touch()
    calls = []

    def ended(original):
        def work(path, **options):
            calls.append(path)
            if len(calls) > moment:
                raise Stopped(signal.SIGTERM)
            original(path, **options)

        return work

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", ended(Path.unlink))
        patch.setattr(Path, "rmdir", ended(Path.rmdir))
        patch.setattr(shutil, "rmtree", ended(shutil.rmtree))
        with pytest.raises(Stopped):
            start_building(tmp_path / "made", lambda folder: None)
    write_number(tmp_path / "made", 2)
    assert read_artifact(tmp_path / "made", "x.py").array("a").tolist() == [2] * 3
    assert not building.exists()


def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work(tmp_path, monkeypatch):
    write_number(tmp_path / "made", 1)
    for function, value, message in (("path.ismount", True, "is a mount point"), ("access", False, "no permission")):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{function}", lambda *_, value=value: value)
            with pytest.raises(UserError, match=message):
                write_number(tmp_path / "made", 2)
    assert read_artifact(tmp_path / "made", "x.py").array("a").tolist() == [1] * 3


def test_a_leftover_that_cannot_be_removed_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "mine").touch()
    monkeypatch.setattr("mma4ctr.storage.files.is_stale", lambda name: name == "mine")

    def refused(path, **_):
        raise PermissionError(path)

    monkeypatch.setattr(Path, "unlink", refused)
    remove_stale_files(tmp_path)
