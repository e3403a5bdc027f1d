"""The studies' tables as Markdown and CSV under `saved_path/tables/`.

They are made from results.jsonl; intervals and calibration errors also from the scores that have been kept of test rows
and from the true probabilities where the data are simulated.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mma4ctr.data.interactions import TEST, load_interactions
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.baselines import BASELINES
from mma4ctr.evaluation.ground_truth import probabilities_of_test_rows
from mma4ctr.evaluation.layouts import Layout, to_csv, to_markdown
from mma4ctr.evaluation.metrics import auc_difference, reliability
from mma4ctr.evaluation.run_records import Result, drawn_negatives, test_scores
from mma4ctr.evaluation.studies import (
    COMPARISON,
    COMPARISON_BY_EPOCH,
    COMPUTATION,
    EARLY,
    MODEL,
    Cell,
    Study,
    cells,
    prepared_inputs,
)
from mma4ctr.features.variants import variants_for
from mma4ctr.storage.artifacts import Artifact
from mma4ctr.storage.files import write_own_file
from mma4ctr.storage.paths import Paths

METRICS = ("auc", "gauc", "logloss")
CALIBRATION = "calibration error"
UNKNOWN = "runs are missing, or their AUC is undefined"
NAMES = {"auc": "AUC", "gauc": "GAUC", "logloss": "LogLoss"}


def protocol_line(runs: Sequence[Result]) -> str:
    """The protocol that the runs share, in words; what differs between them is left out."""
    words = []
    for key, text in (
        ("split", "{} split"),
        ("evidence", "evidence {}"),
        ("folds", "{} folds"),
        ("scaling", "scaling {}"),
        ("loss", "loss {}"),
    ):
        values = {run.protocol[key] for run in runs}
        if len(values) == 1:
            words.append(text.format(values.pop()))
    drawn = {drawn_negatives(run).removeprefix(", ") for run in runs} - {""}
    words += sorted(drawn)
    seeds, sizes = sorted({run.seed for run in runs}), sorted({run.batch_size for run in runs})
    if len(sizes) == 1:
        words.append(f"batch size {sizes[0]}")
    words.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
    leaky = [run for run in runs if run.leaky]
    if leaky:
        words.append(
            "LEAKY: features saw test labels" if len(leaky) == len(runs) else "rows with evidence all are LEAKY"
        )
    return ", ".join(words)


def number(cell: Cell, metric: str) -> str:
    """`0.7213 ± 0.0004`, `0.7213` for one seed, `-` where it is not defined."""
    found = cell.mean_and_deviation(metric)
    if found is None:
        return "-"
    return f"{found[0]:.4f}" + (f" ± {found[1]:.4f}" if len(cell.runs) > 1 else "")


def best_of(column: Sequence[Cell], metric: str) -> Cell | None:
    """The cell with the best mean; among leaky and clean cells only the clean ones compete."""
    known = [cell for cell in column if cell.mean_and_deviation(metric)]
    known = [cell for cell in known if not cell.leaky] or known
    if len(known) < 2:
        return None
    sign = -1 if metric == "logloss" else 1
    return max(known, key=lambda cell: sign * (cell.mean_and_deviation(metric) or (0.0, 0.0))[0])


def layout(study: Study, table: list[Cell], metrics: Sequence[str] = METRICS) -> Layout:
    """One study of one task: a row per case, or per number of epochs where there is one case."""
    by_place = {(cell.case.label, cell.epochs): cell for cell in table}
    labels = list(dict.fromkeys(cell.case.label for cell in table))
    if len(study.cases) == len(labels) == 1:
        header = ["epochs"]
        grid = {str(epochs): [by_place[labels[0], epochs]] for epochs in study.epochs}
        columns = [""]
    else:
        header = [study.column]
        grid = {label: [by_place[label, epochs] for epochs in study.epochs] for label in labels}
        columns = [f" at {epochs}" for epochs in study.epochs]
    rows: list[list[tuple[str, bool]]] = [[(label, False)] for label in grid]
    for position, at in enumerate(columns):
        column = [cells_of_row[position] for cells_of_row in grid.values()]
        header += add_columns(rows, column, metrics, at)
    return Layout(caption(study, table), header, rows)


def add_columns(rows: list[list[tuple[str, bool]]], column: list[Cell], metrics: Sequence[str], at: str) -> list[str]:
    """Add a column for each metric to the rows, the best in bold, and one for its published figures where there are
    any; returns their heads, which end with `at`.
    """
    heads = []
    for metric in metrics:
        best = best_of(column, metric)
        with_published = any(cell.published(metric) is not None for cell in column)
        heads += [f"{NAMES[metric]}{at}", *([f"published{at}"] if with_published else [])]
        for row, cell in zip(rows, column, strict=True):
            row.append((number(cell, metric), best is cell))
            if with_published:
                row.append((plain(cell.published(metric)), False))
    return heads


def caption(study: Study, table: list[Cell]) -> str:
    """What a table shows, under which protocol."""
    runs = [run for cell in table for run in cell.runs]
    text = f"{study.about[0].upper()}{study.about[1:]}. {protocol_line(runs)}."
    seeds = {len(cell.runs) for cell in table if cell.runs}
    if len(seeds) > 1:
        text += f" Of each case {min(seeds)} to {max(seeds)} runs; where no deviation stands it is one."
    if any(cell.published("auc") is not None for cell in table):
        text += " Published figures are of one run each, on other rows, with features that saw the test labels."
    return text


def plain(value: float | None) -> str:
    """A number without a deviation, `-` where there is none."""
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.4f}"


def chosen_cell(cells_of_row: Sequence[Cell]) -> Cell:
    """The number of epochs after which the validation rows were ranked best; the first where none has runs."""
    known = [cell for cell in cells_of_row if cell.mean_and_deviation("valid_auc")]
    return max(known or cells_of_row[:1], key=lambda cell: (cell.mean_and_deviation("valid_auc") or (0.0, 0.0))[0])


def comparison_layout(study: Study, table: list[Cell]) -> Layout:
    """Every model: scores after the epochs that the validation rows chose, then AUC and LogLoss at each number of the
    published study.
    """
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
        row.append(("-" if once else str(cell.epochs), False))
    for position, epochs in enumerate(study.epochs):
        if epochs not in EARLY:
            column = [cells_of_row[position] for cells_of_row in of_label.values()]
            header += add_columns(rows, column, ("auc", "logloss"), f" at {epochs}")
    scaled = [label for label in labels if label in BASELINES and BASELINES[label].ranking]
    text = caption(study, table)
    text += f" The first scores are those after the epochs, of {', '.join(map(str, study.epochs))}, with the best "
    text += "validation AUC."
    if scaled:
        text += f" LogLoss of {', '.join(scaled)} is that of their scores Platt-scaled on the validation rows."
    return Layout(text, header, rows)


def seconds_of_a_pass(run: Result) -> float:
    """Of one pass over the rows that a run learns from. MMa4CTR may end before its epochs are over, and pass more than
    once for one that is thrown away.
    """
    early = run.model == MODEL and run.rows_per_second
    return run.rows["train"] / run.rows_per_second if early else run.train_seconds / run.epochs


def computation_layout(table: list[Cell]) -> Layout:
    """Trainable parameters, and seconds of an epoch, of the training, and of the test rows in the fastest run."""
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
        "A pass over the training rows, all passes up to the epochs that the validation rows chose, and the scoring of "
        f"the test rows, each in the fastest run, on {', '.join(devices)}; "
        "where two trainings go side by side on two cores, each has one. An epoch of LightGBM is ten trees; its "
        "parameters are leaf values and thresholds. Published times are the study's, of its machine and rows."
    )
    return Layout(text, header, rows)


def interval_layout(paths: Paths, table: list[Cell]) -> Layout:
    """Every model's AUC with its interval, and the paired test of the best of ours against each other model.

    The scores of a model's runs that have been kept count for the test, of the epochs that the validation rows chose.
    """
    task = table[0].task
    of_label: dict[str, list[Cell]] = {}
    for cell in table:
        of_label.setdefault(cell.case.label, []).append(cell)
    chosen = {label: chosen_cell(found) for label, found in of_label.items()}
    scores = {label: [kept_scores(paths, run) for run in cell.runs] for label, cell in chosen.items()}
    kept = {label: [score for score in found if score is not None] for label, found in scores.items()}
    ours = chosen_cell([cell for cell in chosen.values() if cell.case.model == MODEL] or [*chosen.values()])
    data = load_interactions(paths, split_task(task)[0])
    label = data.label(split_task(task)[1])[data.split == TEST]
    truth = probabilities_of_test_rows(paths, task)
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
        "Intervals hold 95 of 100 draws of test rows, and of seeds where there are several. The paired test of DeLong, "
        f"DeLong and Clarke-Pearson on the same rows: AUC of {ours.case.label} less that of each model; a dash stands "
        "where the scores of a run have not been kept. The expected calibration error is of scores that are "
        "probabilities, the mean of the runs; in brackets that on the true probabilities, which simulated data have."
    )
    header = ["model", "AUC", "95 % interval", f"{ours.case.label} is ahead by", "95 % interval of it", "p"]
    header.append(CALIBRATION)
    return Layout(text, header, rows)


def kept_scores(paths: Paths, run: Result) -> np.ndarray | None:
    """What a run ranks the test rows by, where it has been kept and there are as many as now."""
    scores = test_scores(paths, run)
    return scores if scores is not None and len(scores) == run.rows["test"] else None


def calibration_error(label: np.ndarray, truth: np.ndarray | None, scores: Sequence[np.ndarray]) -> str:
    """The expected calibration error of probabilities, the mean of several runs; in brackets that on true ones.

    Labels are drawn by chance, so on them not even the true probabilities have an error of 0.
    """
    if not scores:
        return "-"
    of = [np.mean([reliability(known, score)[2] for score in scores]) for known in (label, truth) if known is not None]
    return f"{of[0]:.4f}" + (f" ({of[1]:.4f})" if truth is not None else "")


def auc_interval(cell: Cell) -> tuple[float, float] | None:
    """Where the mean AUC of a cell's runs lies in 95 of 100 draws of test rows and seeds; None where not known."""
    found, errors = cell.mean_and_deviation("auc"), cell.mean_and_deviation("auc_error")
    if found is None or errors is None:
        return None
    error = 1.96 * math.hypot(errors[0], found[1] / math.sqrt(len(cell.runs)))
    return max(0.0, found[0] - error), min(1.0, found[0] + error)


def layouts(paths: Paths, study: Study, table: list[Cell]) -> list[Layout]:
    """The tables of a study for one task."""
    if study.name == COMPARISON:
        return [comparison_layout(study, table), interval_layout(paths, table), computation_layout(table)]
    return [layout(study, table, ("auc",) if study.name == COMPARISON_BY_EPOCH else METRICS)]


def statistics_layout(artifacts: dict[str, Artifact]) -> Layout:
    """The table of statistics: a column for each data set."""
    rows = []
    for key in ("raw", "kept", "duplicates", "users", "items", "train", "valid", "test"):
        rows.append([key, *(f"{artifact.manifest['rows'][key]:,}" for artifact in artifacts.values())])
    density = [
        artifact.manifest["rows"]["kept"] / (artifact.manifest["rows"]["users"] * artifact.manifest["rows"]["items"])
        for artifact in artifacts.values()
    ]
    rows.append(["kept rows per user and item", *(f"{value:.4%}" for value in density)])
    rows.append(["split", *(str(artifact.settings["split"]) for artifact in artifacts.values())])
    targets = {t: None for artifact in artifacts.values() for t in artifact.manifest["positives"]}
    for target in targets:
        ratios = [negatives_per_positive(artifact).get(target) for artifact in artifacts.values()]
        rows.append([f"negatives per positive: {target}", *("-" if r is None else f"{r:.2f}" for r in ratios)])
    return Layout("Data as step 1 keeps them.", ["", *artifacts], [[(cell, False) for cell in row] for row in rows])


def negatives_per_positive(artifact: Artifact) -> dict[str, float]:
    """By target, without those of one class."""
    kept = artifact.manifest["rows"]["kept"]
    positives: dict[str, int] = artifact.manifest["positives"]
    return {target: (kept - count) / count for target, count in positives.items() if 0 < count < kept}


def leakage_in_words(table: list[Cell], task: str) -> str:
    """How many AUC points the published way of evaluating owes to leakage, told from the protocol study."""

    def auc_of(split: str, evidence: str, loss: str) -> float | None:
        for cell in table:
            if cell.case.label == f"{split}, {evidence}, {loss}" and cell.epochs == max(c.epochs for c in table):
                found = cell.mean_and_deviation("auc")
                return found[0] if found else None
        return None

    honest = auc_of("chronological", "train", "bce")
    same_split = auc_of("chronological", "all", "bce")
    published = auc_of("user", "all", "listwise")
    clean = auc_of("user", "train", "listwise")
    sentences = []
    if honest is not None and same_split is not None:
        sentences.append(
            f"On {task}, letting the user embedding see every label moves test AUC from {honest:.4f} to "
            f"{same_split:.4f} on the same chronological rows: {100 * (same_split - honest):+.2f} AUC points of "
            "leakage."
        )
    else:
        sentences.append(f"On {task}, what leakage is worth on the chronological rows is not known: {UNKNOWN}.")
    if published is not None and clean is not None:
        sentences.append(
            f"Evaluated the published way (whole users, evidence all, listwise loss) it is {published:.4f}, of which "
            f"{100 * (published - clean):+.2f} points go when the same users' test labels are hidden ({clean:.4f})."
        )
    else:
        sentences.append(f"What it owes to leakage when evaluated the published way is not known: {UNKNOWN}.")
    return " ".join(sentences)


def tidy(study: Study, tables: dict[str, list[Cell]]) -> list[list[object]]:
    """A header and one row per task, case and number of epochs, with everything there is."""
    header = ["study", "task", study.column, "epochs", "seeds"]
    header += [f"{metric}_{kind}" for metric in METRICS for kind in ("mean", "sd")]
    header += ["published_auc", "train_seconds", "test_seconds", "parameters", "leaky", "protocol"]
    rows: list[list[object]] = [list(header)]
    for task, table in tables.items():
        for cell in table:
            numbers: list[object] = []
            for metric in METRICS:
                numbers += cell.mean_and_deviation(metric) or ("", "")
            seconds = [(cell.mean_and_deviation(name) or ("",))[0] for name in ("train_seconds", "test_seconds")]
            parameters = cell.runs[0].parameters if cell.runs else ""
            figure = cell.published("auc")
            published = "" if figure is None else figure
            line = [study.name, task, cell.case.label, cell.epochs, len(cell.runs), *numbers, published, *seconds]
            rows.append([*line, parameters, cell.leaky, protocol_line(cell.runs) if cell.runs else ""])
    return rows


def study_tables(paths: Paths, results: Sequence[Result], study: Study, tasks: Sequence[str]) -> dict[str, list[Cell]]:
    """The study's cells for each task that has runs of it."""
    made = {
        task: cells(results, study, task, prepared_inputs(paths, task), variants_for(paths, task)) for task in tasks
    }
    return {task: table for task, table in made.items() if table}


def study_markdown(paths: Paths, study: Study, tables: dict[str, list[Cell]]) -> str:
    """A study's whole page."""
    text = [f"# {study.name}\n"]
    for task, table in tables.items():
        shown = "\n".join(to_markdown(one) for one in layouts(paths, study, table))
        text.append(f"## {task}\n\n{shown}")
        if study.name == "protocol":
            text.append(leakage_in_words(table, task) + "\n")
    return "\n".join(text)


def write_tables(paths: Paths, results: Sequence[Result], studies: Sequence[Study], tasks: Sequence[str]) -> list[Path]:
    """Write `<study>.md` and `<study>.csv` of every study that has runs; returns the Markdown files."""
    written = []
    for study in studies:
        tables = study_tables(paths, results, study, tasks)
        if tables:
            path = paths.saved / "tables" / f"{study.name}.md"
            write_own_file(path, study_markdown(paths, study, tables).encode())
            write_own_file(path.with_suffix(".csv"), to_csv(tidy(study, tables)))
            written.append(path)
    return written
