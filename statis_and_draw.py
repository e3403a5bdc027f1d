"""Step 7 of 8: statistics of the data, and the figures of the studies.

Reads    graph_path/<dataset>/, saved_path/results.jsonl, torch_model_path/<task>/<run id>/history.json
Writes   saved_path/tables/statistics.{md,csv}; saved_path/figures/ as PNG and SVG: negatives_per_positive, activity,
         popularity, study_<study>, loss

Figures of the studies show the mean test AUC over the seeds, and a band from the smallest to the largest. Titles name
the protocol.

    python statis_and_draw.py --task wechat_click tiktok_like
"""

from collections.abc import Sequence
from pathlib import Path

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

# The studies with a figure: axis label, and whether the axis is logarithmic.
FIGURES = {
    "epochs": ("epochs", False),
    "learning-rate": ("learning rate", True),
    "batch-size": ("batch size (rows)", True),
    "embedding-length": ("embedding length (numbers per modality)", False),
}


def doubling_buckets(counts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """How many of `counts` (int, at least 1) lie in 1, 2-3, 4-7, ...: labels and sizes, from the first filled on."""
    bucket = np.floor(np.log2(np.maximum(counts, 1))).astype(int)
    sizes = np.bincount(bucket)
    first = int(bucket.min())
    labels = [f"{2**k}" if k == 0 else f"{2**k}-{2 ** (k + 1) - 1}" for k in range(first, len(sizes))]
    return labels, sizes[first:]


def prepared_datasets(paths: Paths) -> list[str]:
    """The data sets that step 1 has prepared; raises `UserError` where there is none."""
    found = [name for name in known_datasets(paths) if (paths.graph / name / MANIFEST).is_file()]
    if not found:
        raise UserError(f"{paths.graph}: holds no data set yet; run preprocess_inter.py first")
    return found


def draw_ratios(paths: Paths, artifacts: dict[str, Artifact]) -> Path:
    """Bars of negatives per positive, one panel per data set."""
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
    """Buckets and a log-log curve of counts, two panels per data set: `counts` int (users or items,)."""
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


def draw_study(paths: Paths, study: Study, tables: dict[str, list[Cell]]) -> Path:
    """Mean test AUC with a band over the seeds, a panel per task."""
    label, logarithmic = FIGURES[study.name]
    with panels(len(tables), width=4.0, height=3.1) as (figure, axes):
        for axis, (task, table) in zip(axes, tables.items(), strict=True):
            if len(study.cases) == 1:
                lines = {"": [(float(cell.epochs), cell) for cell in table]}
            else:
                lines = {
                    f"{epochs} epochs": [(float(c.case.label), c) for c in table if c.epochs == epochs]
                    for epochs in study.epochs
                }
            for style, (name, points) in zip(line_styles(), lines.items(), strict=False):
                known = sorted(
                    (x, [run.auc for run in cell.runs if run.auc is not None]) for x, cell in points if cell.runs
                )
                known = [(x, values) for x, values in known if values]
                places = [x for x, _ in known]
                axis.plot(places, [np.mean(values) for _, values in known], label=name, **style)
                low, high = [min(values) for _, values in known], [max(values) for _, values in known]
                axis.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0)
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
    """The run of the default variant with the most epochs, the newest of equals, with its history."""
    found: tuple[Result, list[dict]] | None = None
    variant = prepared_inputs(paths, task).variant
    for result in results:
        if (result.task, result.model, result.variant) == (task, "MMa4CTR", variant) and not result.leaky:
            history = read_history(paths, result)
            if history and (found is None or len(history) >= len(found[1])):
                found = result, history
    return found


def draw_losses(paths: Paths, results: Sequence[Result], tasks: Sequence[str]) -> Path | None:
    """Training and validation loss by epoch, a panel per task."""
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


def main() -> None:
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
    print_table("Data as step 1 keeps them", layout.header, [[text for text, _ in row] for row in layout.rows])

    data = {name: load_interactions(paths, name) for name in names}
    written = [
        draw_ratios(paths, artifacts),
        draw_counts(
            paths, {n: np.bincount(d.user) for n, d in data.items()}, "activity", "users", "interactions per user"
        ),
        draw_counts(
            paths, {n: np.bincount(d.item) for n, d in data.items()}, "popularity", "items", "interactions per item"
        ),
    ]
    results = read_results(paths.results) if paths.results.exists() else []
    if not results:
        note(f"{paths.results}: no results yet, so no figure of them; mlp.py and adjust_hyperparameter.py make them")
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
