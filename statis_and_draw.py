"""Step 7 of 8: statistics of the data and figures of the studies.

Reads    graph_path/<dataset>/, saved_path/results.jsonl, torch_model_path/<task>/<run id>/history.json
Writes   saved_path/tables/statistics.{md,csv}; saved_path/figures/ as PNG and SVG: negatives_per_positive, activity,
         popularity, study_<study>, loss

A figure of a study shows the mean test AUC over the seeds, and a band from the smallest to the largest. Its title names
the protocol.

    python statis_and_draw.py --task wechat_click tiktok_like
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mma4ctr.data.interactions import interactions_artifact, load_interactions
from mma4ctr.datasets import known_datasets
from mma4ctr.evaluation.data_statistics import negatives_per_positive, statistics_layout
from mma4ctr.evaluation.figures import COLORS, line_styles, panels, save_figure, set_title
from mma4ctr.evaluation.layouts import write_layout
from mma4ctr.evaluation.run_records import Result, read_history, read_results
from mma4ctr.evaluation.studies import STUDIES, Study
from mma4ctr.evaluation.study_cells import Cell, prepared_inputs
from mma4ctr.evaluation.tables import study_tables
from mma4ctr.runtime.console import Stopwatch, closing_line, note, parser, print_table, run
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.storage.artifacts import MANIFEST, Artifact
from mma4ctr.storage.paths import Paths, load_paths

# The label of the x axis of each study with a figure, and whether the axis is logarithmic.
FIGURES = {
    "epochs": ("epochs", False),
    "learning-rate": ("learning rate", True),
    "batch-size": ("batch size (rows)", True),
    "embedding-length": ("embedding length (numbers per modality)", False),
}


def doubling_buckets(counts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Count how many numbers lie in the buckets 1, 2-3, 4-7, ...

    Args:
        counts: int (n,), at least 1.

    Returns:
        Labels and sizes of the buckets, from the first bucket with a number in it.
    """
    bucket = np.floor(np.log2(np.maximum(counts, 1))).astype(int)
    sizes = np.bincount(bucket)
    first = int(bucket.min())
    labels = [f"{2**k}" if k == 0 else f"{2**k}-{2 ** (k + 1) - 1}" for k in range(first, len(sizes))]
    return labels, sizes[first:]


def prepared_datasets(paths: Paths) -> list[str]:
    """Return the names of the data sets that step 1 has prepared; raises `UserError` if there is none."""
    found = [name for name in known_datasets(paths) if (paths.graph / name / MANIFEST).is_file()]
    if not found:
        raise UserError(f"{paths.graph}: contains no prepared data set; run preprocess_inter.py first")
    return found


def draw_ratios(paths: Paths, artifacts: dict[str, Artifact]) -> Path:
    """Draw the negatives per positive of each task as bars, one panel per data set."""
    with panels(len(artifacts), width=4.2) as (figure, axes):
        for axis, (name, artifact) in zip(axes, artifacts.items(), strict=True):
            ratios = dict(sorted(negatives_per_positive(artifact).items(), key=lambda item: item[1]))
            bars = axis.barh(list(ratios), list(ratios.values()), color=COLORS[0], height=0.7)
            axis.bar_label(bars, fmt="{:,.1f}", padding=3, fontsize=8)
            axis.set_xscale("log")
            axis.set_xlim(right=max(ratios.values()) * 4)
            axis.set(xlabel="negatives per positive", title=name)
            axis.grid(axis="y", visible=False)
        return save_figure(figure, paths, "negatives_per_positive")


def draw_counts(paths: Paths, counts: dict[str, np.ndarray], name: str, unit: str, of: str) -> Path:
    """Draw buckets and a log-log curve of counts, two panels per data set.

    Args:
        paths: Where to write.
        counts: int (users or items,) by data set.
        name: Name of the figure.
        unit: `users` or `items`.
        of: What is counted, for the axes.

    Returns:
        The file.
    """
    with panels(2 * len(counts), width=3.4, height=3.0) as (figure, axes):
        for position, (dataset, values) in enumerate(counts.items()):
            labels, sizes = doubling_buckets(values)
            axis, curve = axes[2 * position], axes[2 * position + 1]
            axis.barh(labels, sizes, color=COLORS[position])
            axis.set(xlabel=f"number of {unit}", ylabel=of, title=f"{dataset}: {unit} by {of}")
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", labelsize=7)
            ordered = np.sort(values)[::-1]
            curve.loglog(np.arange(1, len(ordered) + 1), ordered, color=COLORS[position])
            curve.set(xlabel=f"rank among {unit}", ylabel=of, title=f"{dataset}: rank and {of}")
        return save_figure(figure, paths, name)


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


def draw_data(paths: Paths, artifacts: dict[str, Artifact]) -> list[Path]:
    """Draw the figures of the data sets: negatives per positive, activity of users, popularity of items."""
    data = {name: load_interactions(paths, name) for name in artifacts}
    by_user = {name: np.bincount(one.user) for name, one in data.items()}
    by_item = {name: np.bincount(one.item) for name, one in data.items()}
    return [
        draw_ratios(paths, artifacts),
        draw_counts(paths, by_user, "activity", "users", "interactions per user"),
        draw_counts(paths, by_item, "popularity", "items", "interactions per item"),
    ]


def main() -> None:
    """Run the command."""
    options = parser(__doc__)
    add_task_options(options)
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    names = [name for name in prepared_datasets(paths) if not arguments.dataset or name in arguments.dataset]
    tasks = chosen_tasks(paths, arguments)
    artifacts = {name: interactions_artifact(paths, name) for name in names}
    layout = statistics_layout(artifacts)
    write_layout(paths.saved / "tables" / "statistics", "statistics", layout)
    print_table("Data after step 1", layout.header, [[text for text, _ in row] for row in layout.rows])

    written = draw_data(paths, artifacts)
    results = read_results(paths.results) if paths.results.exists() else []
    if not results:
        note(f"{paths.results}: no results yet, so no figures of studies; run mlp.py or adjust_hyperparameter.py")
    for name in FIGURES:
        tables = study_tables(paths, results, STUDIES[name], tasks)
        if tables:
            written.append(draw_study(paths, STUDIES[name], tables))
        elif results:
            note(f"study {name}: no runs yet; adjust_hyperparameter.py --study {name} makes them")
    losses = draw_losses(paths, results, tasks)
    written += [losses] if losses else []
    closing_line(7, str(paths.saved / "figures"), len(written), watch, unit="figures, each as PNG and SVG")


if __name__ == "__main__":
    run(main)
