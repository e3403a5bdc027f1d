"""The table of one study for one task: mean scores over the seeds, beside published figures."""

from collections.abc import Sequence

from mma4ctr.evaluation.layouts import Layout
from mma4ctr.evaluation.run_records import Result, drawn_negatives
from mma4ctr.evaluation.studies import Study
from mma4ctr.evaluation.study_cells import Cell

METRICS = ("auc", "gauc", "logloss")
NAMES = {"auc": "AUC", "gauc": "GAUC", "logloss": "LogLoss"}


def protocol_line(runs: Sequence[Result]) -> str:
    """The protocol that the runs share, as text; what differs between them is omitted."""
    parts = []
    for key, text in (
        ("split", "{} split"),
        ("evidence", "evidence {}"),
        ("folds", "{} folds"),
        ("scaling", "scaling {}"),
        ("loss", "loss {}"),
    ):
        values = {run.protocol[key] for run in runs}
        if len(values) == 1:
            parts.append(text.format(values.pop()))
    drawn = {drawn_negatives(run).removeprefix(", ") for run in runs} - {""}
    parts += sorted(drawn)
    seeds, sizes = sorted({run.seed for run in runs}), sorted({run.batch_size for run in runs})
    if len(sizes) == 1:
        parts.append(f"batch size {sizes[0]}")
    parts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
    leaky = [run for run in runs if run.leaky]
    if leaky:
        parts.append(
            "LEAKY: features saw test labels" if len(leaky) == len(runs) else "rows with evidence all are LEAKY"
        )
    if any(run.selected_on_test for run in runs):
        parts.append("SELECTED ON TEST: the test rows chose the epoch")
    return ", ".join(parts)


def number(cell: Cell, metric: str) -> str:
    """`0.7213 ± 0.0004`, `0.7213` for one seed, `-` for an undefined metric."""
    found = cell.mean_and_deviation(metric)
    if found is None:
        return "-"
    return f"{found[0]:.4f}" + (f" ± {found[1]:.4f}" if len(cell.known(metric)) > 1 else "")


def best_of(column: Sequence[Cell], metric: str) -> Cell | None:
    """The cell with the best mean, or None with fewer than two candidates; leaky cells count only if all are leaky."""
    known = [cell for cell in column if cell.mean_and_deviation(metric)]
    known = [cell for cell in known if not cell.leaky] or known
    if len(known) < 2:
        return None
    sign = -1 if metric == "logloss" else 1
    return max(known, key=lambda cell: sign * (cell.mean_and_deviation(metric) or (0.0, 0.0))[0])


def layout(study: Study, table: list[Cell], metrics: Sequence[str] = METRICS) -> Layout:
    """The table of a study for one task: a row per case, or per number of epochs if there is one case.

    Args:
        study: The study.
        table: Its cells for the task.
        metrics: The metrics to show.
    """
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
    """Add a column per metric to the rows, and one for its published figures if there are any.

    Args:
        rows: The rows of the table, which are extended in place.
        column: The cell of each row.
        metrics: The metrics to show.
        at: Ending of the column names.

    Returns:
        The names of the new columns.
    """
    names = []
    for metric in metrics:
        best = best_of(column, metric)
        with_published = any(cell.published(metric) is not None for cell in column)
        names += [f"{NAMES[metric]}{at}", *([f"published{at}"] if with_published else [])]
        for row, cell in zip(rows, column, strict=True):
            row.append((number(cell, metric), best is cell))
            if with_published:
                row.append((plain(cell.published(metric)), False))
    return names


def caption(study: Study, table: list[Cell]) -> str:
    """The caption of a table: what it shows, under which protocol."""
    runs = [run for cell in table for run in cell.runs]
    text = f"{study.about[0].upper()}{study.about[1:]}. {protocol_line(runs)}."
    seeds = {len(cell.runs) for cell in table if cell.runs}
    if len(seeds) > 1:
        text += f" {min(seeds)} to {max(seeds)} runs per case; a score without a deviation is from one run."
    if any(cell.published("auc") is not None for cell in table):
        text += " Published figures are from one run each, on other rows, with features that saw the test labels."
    return text


def plain(value: float | None) -> str:
    """A number without a deviation, `-` for None."""
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.4f}"
