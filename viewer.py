"""Step 8 of 8: ROC curves, UMAP pictures, and the report, one self-contained page.

Reads    matrix_path/<task>/<variant>/, torch_model_path/<task>/<run id>/ of runs of mlp.py, saved_path/results.jsonl
Writes   saved_path/figures/: roc_<task>, reliability, umap_<task>_{features,hidden}_{2d,3d}, as PNG and SVG;
         saved_path/report.html

UMAP shows test rows, equally many positives and negatives: the feature rows the model reads, and the four numbers of
its last hidden layer.

    python viewer.py --task wechat_click --points 5000
"""

import mma4ctr.runtime.environment

import numpy as np

from mma4ctr.evaluation.run_figures import (
    LABELS,
    Predicted,
    balanced_sample,
    draw_reliability,
    draw_roc,
    draw_umap,
    embed,
    feature_rows,
    hover_texts,
    load_predicted,
)
from mma4ctr.evaluation.run_records import (
    read_results,
)
from mma4ctr.evaluation.run_report import write_report
from mma4ctr.features.variants import variants_for
from mma4ctr.runtime.console import Stopwatch, closing_line, note, parser, progress, run, seed_number, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.storage.paths import load_paths


def main() -> None:
    options = parser(__doc__)
    add_task_options(options)
    options.add_argument("--points", type=whole_number(10), default=5000, help="of each class, in the UMAP pictures")
    options.add_argument("--seed", type=seed_number, default=0, help="of the sample and of UMAP")
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    results = read_results(paths.results)
    predicted: dict[str, list[Predicted]] = {}
    for task in chosen_tasks(paths, arguments):
        if (paths.matrix / task).is_dir() and (runs := load_predicted(paths, results, task)):
            default = variants_for(paths, task).default
            predicted[task] = sorted(runs, key=lambda one: one.result.variant != default)
        else:
            note(f"{task}: no run with predictions; mlp.py --task {task} makes one")
    if not predicted:
        raise UserError(f"{paths.results}: no run with predictions of these tasks; run mlp.py first")

    written = []
    clouds: dict[str, dict[str, tuple[np.ndarray, list[str], list[str]]]] = {}
    with progress("drawing", 3 * len(predicted)) as advance:
        for task, runs in predicted.items():
            written.append(draw_roc(paths, task, runs))
            advance(1)
            one = runs[0]
            chosen = balanced_sample(one.label, arguments.points, arguments.seed)
            if len(chosen) < 2 * 3:
                note(f"{task}: too few test rows of a class for UMAP")
                continue
            label, hover = one.label[chosen], hover_texts(one, chosen)
            for kind, values in (("features", feature_rows(paths, one, chosen)), ("hidden", one.hidden[chosen])):
                points = embed(values, arguments.seed)
                written += draw_umap(paths, one.result, kind, points, label)
                clouds.setdefault(task, {})[kind] = points[3], [LABELS[value] for value in label], hover
                advance(1)
    written.append(draw_reliability(paths, predicted))
    report = write_report(paths, results, predicted, clouds)
    closing_line(8, f"{report} and {paths.saved / 'figures'}", len(written), watch, unit="figures")


if __name__ == "__main__":
    run(main)
