"""Options that do not fit together, devices that are not there, and inputs that have changed since a run."""

import shutil
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch

import adjust_hyperparameter
import cross_matrix
import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
import statis_and_draw
from mma4ctr.evaluation.plans import Group
from mma4ctr.evaluation.run_records import find_run, read_results, run_folder
from mma4ctr.evaluation.studies import Inputs
from mma4ctr.features.feature_matrix import read_matrix
from mma4ctr.model.distributed import local_device
from mma4ctr.model.training_defaults import TrainSettings
from mma4ctr.runtime.console import RunsDisplay
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps import sweep, training_run
from mma4ctr.steps.schedule import Schedule
from mma4ctr.steps.sweep_plan import missing_checkpoints
from mma4ctr.storage.paths import load_paths
from tests.conftest import call
from tests.datasets.test_messages import error_of
from tests.steps.test_draws import steps_1_to_3, write_log

TASK = "tiktok_like"


@pytest.fixture
def copy(made, tmp_path):
    """The tiny world with steps 1 to 5, which the test may change."""
    shutil.copytree(made.file.parent, tmp_path, dirs_exist_ok=True)
    return load_paths(tmp_path / "path.json")


@pytest.mark.parametrize(
    ("main", "options", "message"),
    [
        (mlp.main, ("--top", 3), "--top needs --run"),
        (mlp.main, ("--output", "scores.tsv"), "--output needs --run"),
        (mlp.main, ("--predict", "pairs.tsv"), "--predict needs --run"),
        (mlp.main, ("--run", "last", "--onnx", "m.onnx", "--top", 3), "--top needs --predict"),
        (mlp.main, ("--run", "last", "--onnx", "m.onnx", "--output", "s.tsv"), "--output needs --predict"),
        (mlp.main, ("--run", "last", "--task", TASK, "--onnx", "m.onnx"), "--task: is for a training"),
        (mlp.main, ("--run", "last", "--features", "plus", "--onnx", "m.onnx"), "--features: is for a training"),
        (mlp.main, ("--run", "last", "--batch-size", 64, "--onnx", "m.onnx"), "--batch-size: is for a training"),
        (adjust_hyperparameter.main, ("--ray", "local", "--device", "cuda:1"), "with --ray one of"),
        (adjust_hyperparameter.main, ("--ray", "local", "--device", "gpu"), "with --ray one of"),
        (mlp.main, ("--features", "plus", "--halve-every", 3), "--halve-every"),
        (mlp.main, ("--schedule", "cosine", "--halve-every", 3), "--halve-every"),
        (mlp.main, ("--device", "meta"), "--device meta"),
        (preprocess_multimodal.main, ("--new-items", "new.tsv", "--width", "visual=5"), "--width"),
        (adjust_hyperparameter.main, ("--ray", "local", "--jobs", 2), "--jobs"),
        (adjust_hyperparameter.main, ("--ray", "node..cluster:6379"), "no Ray cluster answers"),
        (adjust_hyperparameter.main, ("--ray", "127.0.0.1:²"), "no Ray cluster answers"),
        (statis_and_draw.main, ("--dataset", "tiktokk"), "unknown data set"),
    ],
)
def test_options_without_effect_are_refused(made, capsys, main, options, message):
    if "no Ray" in message:
        pytest.importorskip("ray")
        options = (*options, "--study", "single-modal", "--task", TASK, "--seeds", 2)
    assert message in error_of(capsys, main, "--paths", made.file, *options)


@pytest.mark.parametrize("option", [("--onnx", "model.onnx"), ("--predict", "pairs.tsv")])
def test_a_run_of_an_earlier_matrix_is_refused(copy, tmp_path, capsys, option):
    (tmp_path / "pairs.tsv").write_text("user\titem\n1\t2\n")
    run = find_run(copy, "last")
    assert call(cross_matrix.main, "--paths", copy.file, "--task", run.task, "--scaling", "minmax") == 0
    use = ("--run", run.run_id, option[0], tmp_path / option[1])
    assert "was not trained on the matrix" in error_of(capsys, mlp.main, "--paths", copy.file, *use)
    assert not (tmp_path / "model.onnx").exists()


@pytest.fixture
def unlabelled(tmp_path):
    """A log that comes split, whose test rows have no labels."""
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(20)), int(rng.integers(80)), 1_600_000_000 + row, row % 2) for row in range(600)]
    write_log(tmp_path, rows)
    text = (tmp_path / "own.toml").read_text().replace('files = "log.csv"\n', "")
    (tmp_path / "own.toml").write_text(text + '[split]\ntrain = "log.csv"\ntest = "test.csv"\n')
    (tmp_path / "test.csv").write_text(
        "user,item,time\n" + "".join(f"{row % 20},{row},{2e9:.0f}\n" for row in range(60))
    )
    return load_paths(tmp_path / "path.json")


def test_all_evidence_needs_labels_of_the_test_rows(unlabelled, capsys):
    steps_1_to_3(unlabelled)
    options = ("--paths", unlabelled.file, "--evidence", "all")
    assert "needs labels of the test rows" in error_of(capsys, get_user_embedding.main, *options)


@pytest.mark.parametrize("interrupts", [0, 10])
def test_a_training_without_weights_is_a_failure(unlabelled, capsys, monkeypatch, interrupts):
    steps_1_to_3(unlabelled)
    assert call(gen_matrix.main, "--paths", unlabelled.file) == 0
    options = ("--paths", unlabelled.file, "--variant", "visual", "--epochs", 2, "--max-interrupts", interrupts)
    assert call(mlp.main, *options, "--learning-rate", 1e-3) == 0
    assert "for a submission" in "".join(capsys.readouterr())
    monkeypatch.setattr("mma4ctr.model.trainer.learning_rate_at", lambda *_: float("inf"))
    assert call(mlp.main, *options, "--learning-rate", 1e-2) == 1
    said = "".join(capsys.readouterr())
    assert "no weights" in said and "for a submission" not in said
    result = read_results(unlabelled.results)[-1]
    assert result.best_epoch == 0 and result.auc is None


@pytest.mark.parametrize("where", ["load_matrix", "train"])
def test_too_little_memory_of_a_device_names_the_way_out(made, capsys, monkeypatch, where):
    def exhausted(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(training_run, where, exhausted)
    error = error_of(capsys, mlp.main, "--paths", made.file, "--task", TASK)
    assert "--batch-size" in error and "2.00 GiB" in error


@pytest.mark.parametrize(
    ("environment", "device", "gpus", "expected"),
    [
        ({}, "cuda", 1, "cuda"),
        ({}, "cuda:1", 2, "cuda:1"),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "cpu", 0, "cpu"),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "cuda", 2, "cuda:1"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, "cuda:1", 2, "cuda:1"),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "cuda", 1, "--nproc-per-node 1"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "cuda:0", 2, "cannot share one GPU"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, "cuda:1", 2, "cuda:1"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, "cuda", 1, "cuda:0"),
    ],
)
def test_each_process_has_a_gpu_of_its_own(monkeypatch, environment, device, gpus, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for name in ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if expected.startswith("c") and " " not in expected:
        assert str(local_device(torch.device(device))) == expected
    else:
        with pytest.raises(UserError, match=expected):
            local_device(torch.device(device))


class FakeRay:
    """A cluster with some GPUs that runs no task."""

    def __init__(self, gpus):
        self.gpus, self.asked = gpus, {}

    def cluster_resources(self):
        return {"CPU": 4.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def remote(self, **asked):
        self.asked = asked
        return lambda function: function

    def shutdown(self):
        pass


@pytest.mark.parametrize(
    ("gpus", "device", "asked"), [(0, "auto", 0), (2, "auto", 1), (2, "cpu", 0), (2, "cuda", 1), (0, "cuda", None)]
)
def test_trainings_on_a_cluster_ask_for_its_gpus(monkeypatch, gpus, device, asked):
    ray = FakeRay(gpus)
    monkeypatch.setattr(sweep, "connect", lambda *_: ray)
    if asked is None:
        with pytest.raises(UserError, match="the Ray cluster has no GPU"):
            sweep.sweep_on_ray([], lambda _: 1.0, "host:1", device)
    else:
        assert sweep.sweep_on_ray([], lambda _: 1.0, "host:1", device) == 0
        assert ray.asked["num_gpus"] == asked


def test_an_error_of_a_ray_task_is_shown_without_its_traceback(capsys):
    class OfTask(UserError):
        """As Ray makes it: the task's error class, with the traceback as its text."""

        cause = UserError("the matrix is damaged")

    future: Future = Future()
    future.set_exception(OfTask("ray::_train_on_cluster() (pid=1)\n  File 'x.py', line 1"))
    (group,) = [Group(TASK, "visual", Inputs(), TrainSettings(), (1,))]
    with RunsDisplay(1.0) as display:
        assert Schedule(display, lambda _: 1.0, lambda _: future).run([group]) == 1
    said = "".join(capsys.readouterr())
    assert "the matrix is damaged" in said and "File" not in said


def test_a_run_without_scores_is_made_again_for_the_comparison(copy):
    """Another study made the run and kept nothing."""
    run = next(run for run in read_results(copy.results) if run.task == TASK and run.variant == "vat_concat")
    matrix = read_matrix(copy, TASK, run.variant)
    own = {name: getattr(run, name) for name in ("batch_size", "learning_rate", "halve_every", "patience", "seed")}
    settings = TrainSettings(epochs=run.epochs, max_interrupts=run.max_interrupts, **own)
    group = Group(TASK, run.variant, Inputs(), settings, (run.epochs,))
    wanted = replace(group, compared=True)
    done = {run.run_id}
    assert missing_checkpoints(wanted, matrix, set(), copy).checkpoint_epochs == (run.epochs,)
    assert missing_checkpoints(wanted, matrix, done, copy).checkpoint_epochs == ()
    folder = run_folder(copy, TASK, run.run_id)
    (folder / "predictions.npy").unlink()
    assert missing_checkpoints(wanted, matrix, done, copy).checkpoint_epochs == (run.epochs,)
    assert missing_checkpoints(group, matrix, done, copy).checkpoint_epochs == ()


def test_a_dry_run_counts_no_run_of_earlier_inputs(copy, capsys):
    options = ("--paths", copy.file, "--study", "single-modal", "--task", TASK, "--seeds", 1)

    def to_do():
        capsys.readouterr()
        assert call(adjust_hyperparameter.main, *options, "--dry-run") == 0
        return next(line for line in "".join(capsys.readouterr()).splitlines() if " done, " in line)

    assert call(adjust_hyperparameter.main, *options) == 0
    assert ", 0 to do" in to_do()
    base = ("--paths", copy.file, "--dataset", "tiktok")
    assert call(preprocess_inter.main, *base, "--min-interactions", 40) == 0
    assert call(preprocess_multimodal.main, *base) == 0
    assert ", 0 to do" not in to_do() and " 0 done" in to_do()
