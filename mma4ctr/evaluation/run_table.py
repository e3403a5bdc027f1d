"""The table of test results: one per task and protocol, so that each fits a terminal of 80 columns."""

from collections.abc import Sequence

from mma4ctr.data.interactions import interactions_artifact
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.ground_truth import oracle_auc
from mma4ctr.evaluation.layouts import Layout
from mma4ctr.evaluation.run_records import Result, drawn_negatives
from mma4ctr.storage.paths import Paths

HEADER = ["model", "inputs", "parameters", "AUC", "GAUC", "LogLoss", "seconds"]
SHARE = "share"


def result_tables(paths: Paths, results: Sequence[Result]) -> list[Layout]:
    """One table per task and protocol, with a row per run.

    What all rows share is in the caption: task, protocol and, for simulated data, the oracle AUC.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, protocol_of(result)), []).append(result)
    return [_table(paths, task, protocol, runs) for (task, protocol), runs in groups.items()]


def _table(paths: Paths, task: str, protocol: str, runs: Sequence[Result]) -> Layout:
    # The true probabilities are those of the test rows of the split that step 1 has prepared.
    prepared = interactions_artifact(paths, split_task(task)[0]).settings["split"]
    oracle = oracle_auc(paths, task) if runs[0].protocol["split"] == prepared else None
    caption = f"{task}: {protocol}"
    header = list(HEADER)
    if oracle is not None:
        caption += f"; oracle AUC {oracle:.4f}, share = (AUC - 0.5) / (oracle AUC - 0.5)"
        header.insert(header.index("GAUC"), SHARE)
    return Layout(caption, header, [[(text, False) for text in _row(run, oracle)] for run in runs])


def _row(run: Result, oracle: float | None) -> list[str]:
    scores = [score_text(run.auc), score_text(run.gauc), score_text(run.logloss)]
    if oracle is not None:
        share = "-" if run.auc is None or oracle <= 0.5 else f"{(run.auc - 0.5) / (oracle - 0.5):.1%}"
        scores.insert(1, share)
    name = run.variant if run.model == "MMa4CTR" else run.model
    seconds = f"{run.train_seconds + run.test_seconds:.1f}"
    return [name, str(run.in_features), f"{run.parameters:,}", *scores, seconds]


def score_text(value: float | None) -> str:
    """Four decimals, or a dash for an undefined score."""
    return "-" if value is None else f"{value:.4f}"


def protocol_of(result: Result) -> str:
    """`chronological split, evidence train, scaling zscore, loss bce`, then drawn negatives and marks such as LEAKY."""
    protocol = result.protocol
    text = f"{protocol['split']} split, evidence {protocol['evidence']}, scaling {protocol['scaling']}"
    text += f", loss {protocol['loss']}{drawn_negatives(result)}"
    return ", ".join([text, *result.marks])
