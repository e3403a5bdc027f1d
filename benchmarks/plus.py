"""Measure steps 4 and 5 of features plus: on the simulated data of bench.py, and on the sample of KuaiRand."""

from pathlib import Path

import orjson

from benchmarks.measuring import ROOT, Measure, command
from mma4ctr.data.interactions import TRAIN, load_interactions
from mma4ctr.datasets import split_task
from mma4ctr.storage.paths import Paths, load_paths

KUAIRAND = ROOT.parent / "shared/data/kuairand-real"
KUAIRAND_TASK = "kuairand_click"
PLUS = ("--features", "plus")


def bench_steps(paths: Paths, task: str) -> list[Measure]:
    """Measure step 4, and an epoch of step 5, on prepared data.

    Args:
        paths: With the output of steps 1 to 3.
        task: The task.

    Returns:
        The measures; the run that they train is the last one in results.jsonl.
    """
    made = command("cross_matrix.py", "--paths", paths.file, "--task", task, *PLUS)
    trained = command("mlp.py", "--paths", paths.file, "--task", task, *PLUS, "--epochs", 1)
    data = load_interactions(paths, split_task(task)[0])
    kept, trained_on = len(data) / 1e6, int((data.split == TRAIN).sum()) / 1e6
    return [
        Measure("4, plus", "seconds a million kept rows", made.seconds / kept, 21, at_most=True),
        Measure("4, plus", "MB of memory", made.memory, 6000, at_most=True),
        Measure("5, plus", "seconds of 1 epoch a million training rows", trained.seconds / trained_on, 5, at_most=True),
        Measure("5, plus", "MB of memory", trained.memory, 6000, at_most=True),
    ]


def bench_kuairand(folder: Path) -> list[Measure]:
    """Measure steps 4 and 5 on the sample of KuaiRand with their defaults; nothing where the sample is not there.

    Args:
        folder: For the output.

    Returns:
        The measures.
    """
    if not KUAIRAND.is_dir():
        return []
    content = orjson.loads((ROOT / "configs/kuairand-real.json").read_bytes())
    content["parent_folder"] = str(folder / "kuairand")
    content["datasets"]["kuairand"]["folder"] = str(KUAIRAND)
    (folder / "kuairand").mkdir()
    file = folder / "kuairand/path.json"
    file.write_bytes(orjson.dumps(content))
    paths = load_paths(file)
    given = ("--paths", paths.file, "--task", KUAIRAND_TASK)
    command("preprocess_inter.py", "--paths", paths.file, "--min-interactions", 5)
    command("preprocess_multimodal.py", "--paths", paths.file)
    command("get_user_embedding.py", *given)
    made, trained = command("cross_matrix.py", *given, *PLUS), command("mlp.py", *given, *PLUS)
    return [
        Measure("4, plus", "seconds, kuairand-real", made.seconds, 15, at_most=True),
        Measure("5, plus", "seconds, kuairand-real", trained.seconds, 30, at_most=True),
    ]
