"""The comparison of devices runs; without a GPU, with the CPU in its place."""

import pytest
import torch

from benchmarks import gpu
from tests.conftest import call


def test_both_tables_are_printed(capsys):
    assert call(gpu.main, "--device", "cpu", "--rows", 10_000) == 0
    shown = capsys.readouterr().out
    (agreement, speed) = shown.split("Speed of training")
    found = [line.split("│") for line in agreement.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in found] == ["paper", "plus"]
    assert all(0.7 < float(row[2]) < 1 and float(row[4]) == 0 for row in found), "the labels depend on the features"
    assert speed.count("cpu, steps") == 4 and "163.8 s" in speed


def test_a_matrix_on_another_device_is_the_same():
    matrix = gpu.matrix_with_signal("plus", 1000)
    moved = gpu.on_device(matrix, torch.device("cpu"))
    rows = torch.arange(500)
    assert torch.equal(matrix.train.features(matrix, rows), moved.train.features(moved, rows))
    assert torch.equal(matrix.test.label, moved.test.label) and len(matrix.test) == gpu.TEST_ROWS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys):
    assert call(gpu.main) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_captured_steps_learn_as_plain_steps_do():
    moved = gpu.on_device(gpu.matrix_with_signal("plus", 100_000), torch.device("cuda"))
    settings = gpu.TrainSettings(epochs=1, batch_size=512, **gpu.TRAINING["plus"])
    steps = gpu.CapturedSteps(moved, settings)
    steps.epoch()
    learner = gpu.first_learner(moved, settings.networks)
    gpu.train_epoch(learner, moved, settings, 0)
    logits, _ = gpu.predict(learner.network, moved, moved.test)
    plain = gpu.auc(moved.test.label.cpu().numpy(), logits.cpu().numpy())
    assert steps.auc() == pytest.approx(plain, abs=5e-3)
