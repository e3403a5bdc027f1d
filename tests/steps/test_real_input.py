"""The real TikTok input, if it is beside the repository (README, "Real input to try")."""

import json

import pytest

import mlp
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.storage.paths import load_paths
from tests.conftest import ROOT, call, prepare

REAL = ROOT.parent / "shared/data/tiktok-real"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real TikTok input is not beside this repository")
def test_va_concat_on_real_input(tmp_path):
    content = json.loads((ROOT / "path.json").read_text())
    content |= {"dataset_path": str(REAL.parent), "tiktok_dataset_path": REAL.name}
    (tmp_path / "path.json").write_text(json.dumps(content))
    prepare(tmp_path / "path.json", min_interactions=5)
    options = ("--task", "tiktok_like", "--epochs", 8)
    assert call(mlp.main, "--paths", tmp_path / "path.json", *options) == 0
    (result,) = read_results(load_paths(tmp_path / "path.json").results)
    assert result.variant == "va_concat" and result.in_features == 125
    assert result.auc is not None and result.auc >= 0.62
