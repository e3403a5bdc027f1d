"""Training on two processes gives the result of one process with the same batch size."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import mlp
from mma4ctr.evaluation.run_records import read_results, run_folder
from mma4ctr.model.distributed import ProcessGroup
from mma4ctr.storage.paths import load_paths
from tests.conftest import ROOT, call


def run_ranks(*arguments):
    """Run mlp.py on two processes of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "mlp.py"]
    return subprocess.run(list(map(str, [*command, *arguments])), cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_make_up_the_batch(count):
    for start, stop in ((0, 512), (512, 517), (5, 6)):
        shares = [ProcessGroup(rank, count).share(start, stop) for rank in range(count)]
        rows = [row for share in shares for row in range(start, stop)[share.start - start : share.stop - start]]
        assert rows == list(range(start, stop))


def test_two_ranks_end_where_one_process_ends(made, tmp_path):
    content = json.loads(made.file.read_text()) | {"parent_folder": str(made.file.parent)}
    found = []
    for name in ("one", "two"):
        outputs = {key: str(tmp_path / name / key) for key in ("torch_model_path", "saved_path")}
        (tmp_path / f"{name}.json").write_text(json.dumps(content | outputs))
        options = ("--paths", tmp_path / f"{name}.json", "--task", "wechat_click", "--epochs", 3, "--batch-size", 300)
        if name == "one":
            assert call(mlp.main, *options) == 0
        else:
            done = run_ranks(*options)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("Step 5 of 8") == 1, "one rank speaks"
        paths = load_paths(tmp_path / f"{name}.json")
        (result,) = read_results(paths.results)
        found.append((result, load_file(run_folder(paths, result.task, result.run_id) / "model.safetensors")))
    (one, weights), (two, others) = found
    assert one.run_id == two.run_id
    assert two.auc == pytest.approx(one.auc, abs=1e-4) and two.logloss == pytest.approx(one.logloss, abs=1e-5)
    for key, values in weights.items():
        assert torch.allclose(values, others[key], atol=2e-4), key


def test_what_cannot_be_split_is_refused(made):
    done = run_ranks("--paths", made.file, "--task", "wechat_click", "--loss", "listwise")
    assert done.returncode != 0 and "use --loss bce" in done.stderr
