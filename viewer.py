"""Step 8 of 8: ROC curves, UMAP pictures, and the report, one self-contained page.

Reads    matrix_path/<task>/<variant>/, torch_model_path/<task>/<run id>/ of runs of mlp.py, saved_path/results.jsonl
Writes   saved_path/figures/: roc_<task>, reliability, umap_<task>_{features,hidden}_{2d,3d}, as PNG and SVG;
         saved_path/report.html

UMAP shows as many positive as negative test rows: their feature rows, and the four outputs of each network's
last hidden layer.

    python viewer.py --task wechat_click --points 5000
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mma4ctr.evaluation.run_records import Result, read_results
from mma4ctr.features.variants import variants_for
from mma4ctr.runtime.console import Stopwatch, closing_line, note, parser, progress, run, seed_number, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.storage.paths import Paths, load_paths

if TYPE_CHECKING:
    from mma4ctr.evaluation.run_figures import Predicted

# UMAP needs a few rows of each class.
FEWEST_POINTS = 6

# By kind of rows: points (rows, 3), the class of each, and its text.
Clouds = dict[str, tuple[np.ndarray, list[str], list[str]]]


def predicted_runs(paths: Paths, results: list[Result], tasks: list[str]) -> "dict[str, list[Predicted]]":
    """Load the predictions of each task, the default variant first.

    Args:
        paths: The folders.
        results: The lines of results.jsonl.
        tasks: The tasks.

    Returns:
        The runs by task; a task without predictions is left out with a note.

    Raises:
        UserError: No task has predictions.
    """
    from mma4ctr.evaluation.run_figures import load_predicted

    predicted: dict[str, list[Predicted]] = {}
    for task in tasks:
        if (paths.matrix / task).is_dir() and (runs := load_predicted(paths, results, task)):
            default = variants_for(paths, task).default
            predicted[task] = sorted(runs, key=lambda one: one.result.variant != default)
        else:
            note(f"{task}: no run with predictions; mlp.py --task {task} makes one")
    if not predicted:
        raise UserError(f"{paths.results}: no run with predictions of these tasks; run mlp.py first")
    return predicted


def draw_clouds(paths: Paths, run: "Predicted", chosen: np.ndarray, seed: int) -> tuple[list[Path], Clouds]:
    """Draw the UMAP pictures of a run.

    Args:
        paths: Where to read and write.
        run: The run.
        chosen: int (points,), the test rows to show.
        seed: Seed of UMAP.

    Returns:
        The files, and the points for the report.
    """
    from mma4ctr.evaluation.run_figures import LABELS, draw_umap, embed, feature_rows, hover_texts

    written: list[Path] = []
    clouds: Clouds = {}
    label, hover = run.label[chosen], hover_texts(run, chosen)
    for kind, values in (("features", feature_rows(paths, run, chosen)), ("hidden", run.hidden[chosen])):
        points = embed(values, seed)
        written += draw_umap(paths, run.result, kind, points, label)
        clouds[kind] = points[3], [LABELS[value] for value in label], hover
    return written, clouds


def main() -> None:
    """Run the command."""
    options = parser(__doc__)
    add_task_options(options)
    options.add_argument(
        "--points", type=whole_number(10), default=5000, metavar="N", help="UMAP shows N test rows of each class"
    )
    options.add_argument("--seed", type=seed_number, default=0, help="seed of the sample and of UMAP")
    arguments = options.parse_args()

    # They load torch, sklearn and matplotlib, which would keep `--help` waiting.
    from mma4ctr.evaluation.run_figures import balanced_sample, draw_reliability, draw_roc
    from mma4ctr.evaluation.run_report import write_report

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    results = read_results(paths.results)
    predicted = predicted_runs(paths, results, chosen_tasks(paths, arguments))
    written: list[Path] = []
    clouds: dict[str, Clouds] = {}
    with progress("drawing", 2 * len(predicted)) as advance:
        for task, runs in predicted.items():
            written.append(draw_roc(paths, task, runs))
            advance(1)
            chosen = balanced_sample(runs[0].label, arguments.points, arguments.seed)
            if len(chosen) < FEWEST_POINTS:
                note(f"{task}: too few test rows of a class for UMAP")
            else:
                files, clouds[task] = draw_clouds(paths, runs[0], chosen, arguments.seed)
                written += files
            advance(1)
    labelled = {task: runs for task, runs in predicted.items() if runs[0].result.test_labels}
    if labelled:
        written.append(draw_reliability(paths, labelled))
    report = write_report(paths, results, predicted, clouds)
    closing_line(8, f"{report} and {paths.saved / 'figures'}", len(written), watch, unit="figures")


if __name__ == "__main__":
    run(main)
