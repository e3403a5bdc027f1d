"""Speed and memory by design: no matrix of all rows, and raw files are read only as often as necessary."""

import json
import subprocess
import sys
from collections import Counter

import pytest

import preprocess_inter
import preprocess_multimodal
from mma4ctr.storage import text_blocks as rawfiles
from tests.conftest import ROOT, call

# 500,000 training rows of 194 columns would be 388 MB.
TRAIN_MANY_ROWS = """
import json
import numpy as np
import torch
from mma4ctr.runtime.system import peak_memory_mb
from mma4ctr.features.feature_matrix import FactorMatrix, RowGroup
from mma4ctr.evaluation.metrics import auc
from mma4ctr.model.mlp import Network
from mma4ctr.model.inference import predict
from mma4ctr.model.trainer import train
from mma4ctr.model.training_defaults import TrainSettings
rng = np.random.default_rng(0)

def group(rows):
    draw = lambda high: torch.from_numpy(rng.integers(0, high, rows))
    return RowGroup(np.arange(rows), draw(3000), draw(2000), draw(2).byte())

parts = torch.randn(3000, 66), torch.randn(2000, 128)
matrix = FactorMatrix(*parts, group(500_000), group(20_000), group(20_000), {}, "")
before = peak_memory_mb()
(outcome,) = train(matrix, TrainSettings(epochs=1, batch_size=8192), auc)
predict(Network(outcome.weights), matrix, matrix.test)
print(json.dumps({"before": before, "after": peak_memory_mb()}))
"""


def test_training_holds_the_tables_and_a_batch():
    done = subprocess.run([sys.executable, "-c", TRAIN_MANY_ROWS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout)
    assert memory["after"] - memory["before"] < 150, memory


def test_the_matrix_on_disk_is_its_factors(made):
    for folder in (made.matrix / "tiktok_like" / "vat_concat", made.matrix / "wechat_click" / "vat_concat"):
        manifest = json.loads((folder / "manifest.json").read_text())
        rows, width = manifest["rows"]["rows"], manifest["in_features"]
        assert sum(file["bytes"] for file in manifest["files"].values()) < rows * width * 4 / 4


@pytest.mark.parametrize("dataset", ["wechat", "tiktok"])
def test_raw_files_are_read_once_or_as_often_as_needed(raw_copy, monkeypatch, dataset):
    """Interactions are read twice, to count and to keep; a feature file once for each modality in it.

    WeChat's feature file is read once more for its columns of items.
    """
    reads = Counter()
    original = rawfiles.read_blocks

    def counted(path, **options):
        reads[path.name] += 1
        return original(path, **options)

    monkeypatch.setattr(rawfiles, "read_blocks", counted)
    options = ("--paths", raw_copy / "path.json", "--dataset", dataset)
    assert call(preprocess_inter.main, *options, "--min-interactions", 20) == 0
    assert call(preprocess_multimodal.main, *options) == 0
    expected = {"user_action.csv": 2, "feed_info.csv": 4, "final_track1_train.txt": 2}
    assert reads
    for name, times in reads.items():
        assert times == expected.get(name, 1), name
