"""Measure what a user waits for beside the steps: predictions from file to file, and the help of the scripts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks.measuring import ROOT, Measure, in_process, processor_seconds
from mma4ctr.datasets.spec_columns import OF_TIME
from mma4ctr.evaluation.run_records import find_run, read_run
from mma4ctr.model.inference import Scorer, load_scorer, score_pairs
from mma4ctr.runtime.console import Stopwatch
from mma4ctr.storage.paths import Paths

DRAWN_PAIRS = 4_000_000


def drawn_pairs(scorer: Scorer, rng: np.random.Generator) -> pa.Table:
    """Draw pairs of known users and items, with a known value of every context column of the run."""
    table = {
        name: known.take(pa.array(rng.integers(0, len(known), DRAWN_PAIRS)))
        for name, known in (("user", scorer.users), ("item", scorer.items))
    }
    for name, column in scorer.context.columns.items():
        values = np.arange(OF_TIME[name]) if column is None else column.raw if column.is_category else column.values
        table[name] = pa.array(values[rng.integers(0, len(values), DRAWN_PAIRS)])
    return pa.table(table)


def score_drawn(paths: Paths, pairs: Path, written: Path) -> float:
    """Score random pairs as `mlp.py --run last --predict` does; returns seconds, without startup."""
    scorer = load_scorer(paths, read_run(paths, find_run(paths, "last")))
    options = csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
    csv.write_csv(drawn_pairs(scorer, np.random.default_rng(0)), pairs, options)
    watch = Stopwatch()
    with written.open("wb") as file:
        score_pairs(scorer, pairs, file)
    return watch.seconds


def bench_predict(paths: Paths, temp: Path, what: str = "") -> list[Measure]:
    """Measure prediction with the newest run.

    Args:
        paths: Of the run.
        temp: For the files.
        what: Added to the name of the measure.

    Returns:
        The measure.
    """
    seconds = in_process(score_drawn, paths, temp / "pairs.tsv", temp / "scores.tsv")[0]
    return [Measure("--predict", f"million pairs/s{what}", DRAWN_PAIRS / seconds / 1e6, 1)]


def bench_start_up() -> list[Measure]:
    """Measure the processor time of `--help` of every script of a step."""
    slowest = max(processor_seconds(script.name, "--help") for script in sorted(ROOT.glob("*.py")))
    return [Measure("--help", "processor seconds, slowest script", slowest, 1, at_most=True)]
