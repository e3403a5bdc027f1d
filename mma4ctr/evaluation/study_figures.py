"""The figures of the studies: test AUC by what a study varies, and the losses by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mma4ctr.evaluation.figures import line_styles, panels, save_figure, set_title
from mma4ctr.evaluation.run_records import Result, read_history
from mma4ctr.evaluation.studies import Study
from mma4ctr.evaluation.study_cells import Cell, prepared_inputs
from mma4ctr.storage.paths import Paths

# The label of the x axis of each study with a figure, and whether the axis is logarithmic.
FIGURES = {
    "epochs": ("epochs", False),
    "learning-rate": ("learning rate", True),
    "batch-size": ("batch size (rows)", True),
    "embedding-length": ("embedding length (numbers per modality)", False),
}


def _lines_of(study: Study, table: list[Cell]) -> dict[str, list[tuple[float, Cell]]]:
    """Return the points (x, cell) of each line of a study's figure: one line for each number of epochs."""
    if len(study.cases) == 1:
        return {"": [(float(cell.epochs), cell) for cell in table]}
    return {
        f"{epochs} epochs": [(float(cell.case.label), cell) for cell in table if cell.epochs == epochs]
        for epochs in study.epochs
    }


def _draw_line(axis: Axes, name: str, points: list[tuple[float, Cell]], style: dict[str, Any]) -> None:
    """Draw the mean AUC of each cell's runs, and a band from the smallest to the largest."""
    known = sorted((x, [run.auc for run in cell.runs if run.auc is not None]) for x, cell in points if cell.runs)
    known = [(x, values) for x, values in known if values]
    places = [x for x, _ in known]
    axis.plot(places, [np.mean(values) for _, values in known], label=name, **style)
    low, high = [min(values) for _, values in known], [max(values) for _, values in known]
    axis.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0)


def draw_study(paths: Paths, study: Study, tables: dict[str, list[Cell]]) -> Path:
    """Draw the mean test AUC with a band over the seeds.

    Args:
        paths: Where to write.
        study: The study.
        tables: Cells of its table by task; each task has a panel.

    Returns:
        The file.
    """
    label, logarithmic = FIGURES[study.name]
    with panels(len(tables), width=4.0, height=3.1) as (figure, axes):
        for axis, (task, table) in zip(axes, tables.items(), strict=True):
            lines = _lines_of(study, table)
            for style, (name, points) in zip(line_styles(), lines.items(), strict=False):
                _draw_line(axis, name, points, style)
            if logarithmic:
                axis.set_xscale("log", base=2 if study.name == "batch-size" else 10)
            seeds = max(len(cell.runs) for cell in table)
            axis.set(xlabel=label, ylabel="test AUC")
            runs = [run for cell in table for run in cell.runs]
            set_title(axis, f"{task}, {seeds} seed{'s' if seeds > 1 else ''}", runs)
            if len(lines) > 1:
                axis.legend()
        return save_figure(figure, paths, f"study_{study.name}")


def run_with_history(paths: Paths, results: Sequence[Result], task: str) -> tuple[Result, list[dict]] | None:
    """Find the run of the default variant with the most epochs, and of several the newest.

    Args:
        paths: The folders.
        results: The lines of results.jsonl.
        task: The task.

    Returns:
        The run and its history by epoch; None if no run has a history.
    """
    found: tuple[Result, list[dict]] | None = None
    variant = prepared_inputs(paths, task).variant
    for result in results:
        if (result.task, result.model, result.variant) == (task, "MMa4CTR", variant) and not result.leaky:
            history = read_history(paths, result)
            if history and (found is None or len(history) >= len(found[1])):
                found = result, history
    return found


def draw_losses(paths: Paths, results: Sequence[Result], tasks: Sequence[str]) -> Path | None:
    """Draw training and validation loss by epoch, one panel per task; returns None without a history."""
    histories = {task: found for task in tasks if (found := run_with_history(paths, results, task))}
    if not histories:
        return None
    with panels(len(histories), width=4.0, height=3.1) as (figure, axes):
        for axis, (task, (result, history)) in zip(axes, histories.items(), strict=True):
            _draw_history(axis, history)
            axis.set(xlabel="epoch", ylabel="mean loss (nats)")
            set_title(axis, f"{task}, {result.variant}, seed {result.seed}", [result])
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.legend()
        return save_figure(figure, paths, "loss")


def _draw_history(axis: Axes, history: list[dict]) -> None:
    epochs = [entry["epoch"] for entry in history]
    for style, (key, name) in zip(
        line_styles(), {"train_loss": "training", "valid_loss": "validation"}.items(), strict=False
    ):
        axis.plot(epochs, [entry[key] for entry in history], label=name, **style | {"markersize": 2.5})
