"""The tables of the comparison for one task: scores, confidence intervals with a paired test, and costs.

Intervals and calibration errors use the kept scores of the test rows and, for simulated data, the true probabilities.
"""

import math
from collections.abc import Sequence

import numpy as np

from mma4ctr.data.interactions import TEST, load_interactions
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.baselines import BASELINES
from mma4ctr.evaluation.ground_truth import true_test_probabilities
from mma4ctr.evaluation.layouts import Layout
from mma4ctr.evaluation.metrics import auc, auc_difference, reliability
from mma4ctr.evaluation.run_records import Result, test_scores
from mma4ctr.evaluation.studies import COMPUTATION, EARLY, MODEL, Study
from mma4ctr.evaluation.study_cells import Cell
from mma4ctr.evaluation.study_layouts import METRICS, NAMES, add_columns, best_of, caption, number
from mma4ctr.storage.paths import Paths

# Scores whose AUC differs by more from that of their run are of other rows.
SAME_AUC = 1e-9

CALIBRATION = "calibration error"


def chosen_cell(cells_of_row: Sequence[Cell]) -> Cell:
    """The cell with the best validation AUC; the first one if none has runs."""
    known = [cell for cell in cells_of_row if cell.mean_and_deviation("valid_auc")]
    return max(known or cells_of_row[:1], key=lambda cell: (cell.mean_and_deviation("valid_auc") or (0.0, 0.0))[0])


def comparison_layout(study: Study, table: list[Cell]) -> Layout:
    """Scores of every model at the epoch with the best validation AUC, then AUC and LogLoss by number of epochs."""
    labels = list(dict.fromkeys(cell.case.label for cell in table))
    of_label = {label: [cell for cell in table if cell.case.label == label] for label in labels}
    chosen = [chosen_cell(of_label[label]) for label in labels]
    rows: list[list[tuple[str, bool]]] = [[(label, False)] for label in labels]
    header = [study.column]
    for metric in METRICS:
        best = best_of(chosen, metric)
        header.append(NAMES[metric])
        for row, cell in zip(rows, chosen, strict=True):
            row.append((number(cell, metric), best is cell))
    header.append("epochs")
    for row, cell in zip(rows, chosen, strict=True):
        once = cell.case.model in BASELINES and not BASELINES[cell.case.model].by_epoch
        row.append(("-" if once else str(cell.case.own_epochs or cell.epochs), False))
    for position, epochs in enumerate(study.epochs):
        if epochs not in EARLY:
            column = [cells_of_row[position] for cells_of_row in of_label.values()]
            header += add_columns(rows, column, ("auc", "logloss"), f" at {epochs}")
    scaled = [label for label in labels if label in BASELINES and BASELINES[label].ranking]
    text = caption(study, table)
    text += " The first scores are those after the number of epochs with the best validation AUC, out of "
    text += f"{', '.join(map(str, study.epochs))}."
    if used := sorted({cell.epochs for cell in chosen if cell.epochs in study.more_epochs}):
        text += f" Of the compared models also out of {', '.join(map(str, used))}."
    fixed = {f"{cell.case.label} trains for {cell.case.own_epochs}" for cell in table if cell.case.own_epochs}
    text += "".join(f" {line}." for line in sorted(fixed))
    if scaled:
        text += f" Scores of {', '.join(scaled)} are Platt-scaled on the validation rows before LogLoss."
    return Layout(text, header, rows)


def seconds_of_a_pass(run: Result) -> float:
    """Mean seconds of one pass over the training rows.

    MMa4CTR may stop early and repeats rejected epochs, and FuxiCTR's models stop early, so their passes are counted by
    rows, not by epochs.
    """
    early = run.model in BASELINES and BASELINES[run.model].stops_early
    by_rows = (run.model == MODEL or early) and run.rows_per_second
    return run.rows["train"] / run.rows_per_second if by_rows else run.train_seconds / run.epochs


def computation_layout(table: list[Cell]) -> Layout:
    """Trainable parameters, and seconds of an epoch, of training and of scoring the test rows in the fastest run."""
    by_label: dict[str, list[Cell]] = {}
    for cell in table:
        if cell.runs:
            by_label.setdefault(cell.case.label, []).append(cell)
    header = ["model", "parameters", "published", "seconds an epoch", "seconds to train", "seconds to test"]
    header += ["published train", "test"]
    rows = []
    for label, of_label in by_label.items():
        runs = [run for cell in of_label for run in cell.runs]
        published = {name: of_label[0].published(name) for name in COMPUTATION}
        shown = [f"{runs[-1].parameters:,}"]
        shown.append("-" if published["parameters"] is None else f"{published['parameters']:,.0f}")
        shown.append(f"{min(map(seconds_of_a_pass, runs)):.2f}")
        shown.append(f"{min(run.train_seconds for run in chosen_cell(of_label).runs):.1f}")
        shown.append(f"{min(run.test_seconds for run in runs):.2f}")
        shown += ["-" if published[n] is None else f"{published[n]:,.0f} s" for n in ("train_seconds", "test_seconds")]
        rows.append([(text, False) for text in (label, *shown)])
    devices = sorted({run.device for cell in table for run in cell.runs})
    text = (
        "Seconds of one pass over the training rows, of training up to the number of epochs with the best validation "
        f"AUC, and of scoring the test rows, each in the fastest run, on {', '.join(devices)}. Two trainings side by "
        "side on two cores use one core each. An epoch of LightGBM is ten trees; its parameters are leaf values and "
        "thresholds. Published times are those of the study's machine and rows."
    )
    return Layout(text, header, rows)


def interval_layout(paths: Paths, table: list[Cell]) -> Layout:
    """AUC of every model with its confidence interval, and a paired test of the best MMa4CTR against each other model.

    Every model is taken at the epoch with the best validation AUC. The test uses the runs whose scores were kept.

    Args:
        paths: Of the path.json in use.
        table: All cells of the comparison for one task.
    """
    task = table[0].task
    of_label: dict[str, list[Cell]] = {}
    for cell in table:
        of_label.setdefault(cell.case.label, []).append(cell)
    chosen = {label: chosen_cell(found) for label, found in of_label.items()}
    ours = chosen_cell([cell for cell in chosen.values() if cell.case.model == MODEL] or [*chosen.values()])
    data = load_interactions(paths, split_task(task)[0])
    label = data.label(split_task(task)[1])[data.split == TEST]
    scores = {name: [kept_scores(paths, run, label) for run in cell.runs] for name, cell in chosen.items()}
    kept = {name: [score for score in found if score is not None] for name, found in scores.items()}
    truth = true_test_probabilities(paths, task)
    rows = []
    for name, cell in chosen.items():
        interval = auc_interval(cell)
        shown = [name, number(cell, "auc"), "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"]
        found = auc_difference(label, kept[ours.case.label], kept[name]) if cell is not ours else None
        if found is None:
            shown += ["-", "-", "-"]
        else:
            low, high = found.interval
            shown += [f"{found.auc:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{found.p_value:.2g}"]
        ranking = cell.case.model in BASELINES and BASELINES[cell.case.model].ranking
        shown.append("-" if ranking else calibration_error(label, truth, kept[name]))
        rows.append([(text, False) for text in shown])
    text = (
        "95 % confidence intervals over test rows and, where there are several, over seeds. Paired test of DeLong, "
        f"DeLong and Clarke-Pearson on the same rows: AUC of {ours.case.label} minus AUC of each model. A dash: the "
        "scores of a run were not kept, or are of other rows than the present ones. The expected calibration error is "
        "given for models whose scores are probabilities, as the mean of the runs; for simulated data the error on the "
        "true probabilities is in brackets."
    )
    header = ["model", "AUC", "95 % interval", f"{ours.case.label} is ahead by", "95 % interval of it", "p"]
    header.append(CALIBRATION)
    return Layout(text, header, rows)


def kept_scores(paths: Paths, run: Result, label: np.ndarray) -> np.ndarray | None:
    """The scores by which a run ranks the test rows.

    Args:
        paths: Of the path.json in use.
        run: The run.
        label: 0/1 (test rows,), the present labels.

    Returns:
        (test rows,); None if the scores were not kept, or are of other rows: their AUC is then not that of the run.
    """
    scores = test_scores(paths, run)
    if scores is None or len(scores) != len(label) or run.auc is None:
        return None
    found = auc(label, scores)
    return scores if found is not None and abs(found - run.auc) < SAME_AUC else None


def calibration_error(label: np.ndarray, truth: np.ndarray | None, scores: Sequence[np.ndarray]) -> str:
    """The expected calibration error, as the mean of several runs.

    Labels are random draws, so on them even the true probabilities have an error above 0.

    Args:
        label: 0/1 (test rows,).
        truth: float64 (test rows,) true probabilities, or None if the data are not simulated.
        scores: The predicted probabilities (test rows,) of each run.

    Returns:
        `0.0076 (0.0038)`, with the error on the true probabilities in brackets; `-` without runs.
    """
    if not scores:
        return "-"
    errors = [
        np.mean([reliability(known, score)[2] for score in scores]) for known in (label, truth) if known is not None
    ]
    return f"{errors[0]:.4f}" + (f" ({errors[1]:.4f})" if truth is not None else "")


def auc_interval(cell: Cell) -> tuple[float, float] | None:
    """95 % confidence interval of the mean AUC over test rows and seeds; None where a standard error is unknown."""
    found, errors = cell.mean_and_deviation("auc"), cell.mean_and_deviation("auc_error")
    if found is None or errors is None:
        return None
    error = 1.96 * math.hypot(errors[0], found[1] / math.sqrt(len(cell.known("auc"))))
    return max(0.0, found[0] - error), min(1.0, found[0] + error)
