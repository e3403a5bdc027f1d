"""Step 7 of 8: statistics of the data and figures of the studies.

Reads    graph_path/<dataset>/, saved_path/results.jsonl, torch_model_path/<task>/<run id>/history.json
Writes   saved_path/tables/statistics.{md,csv}; saved_path/figures/ as PNG and SVG: negatives_per_positive, activity,
         popularity, study_<study>, loss

A figure of a study shows the mean test AUC over the seeds, and a band from the smallest to the largest. Its title names
the protocol.

    python statis_and_draw.py --task wechat_click tiktok_like
"""

from mma4ctr.data.interactions import interactions_artifact
from mma4ctr.datasets import known_datasets
from mma4ctr.evaluation.data_statistics import statistics_layout
from mma4ctr.evaluation.layouts import write_layout
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.evaluation.studies import STUDIES
from mma4ctr.runtime.console import Stopwatch, closing_line, note, parser, print_table, run
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.storage.artifacts import MANIFEST
from mma4ctr.storage.paths import Paths, load_paths


def prepared_datasets(paths: Paths) -> list[str]:
    """Return the names of the data sets that step 1 has prepared; raises `UserError` if there is none."""
    found = [name for name in known_datasets(paths) if (paths.graph / name / MANIFEST).is_file()]
    if not found:
        raise UserError(f"{paths.graph}: contains no prepared data set; run preprocess_inter.py first")
    return found


def main() -> None:
    """Run the command."""
    options = parser(__doc__)
    add_task_options(options)
    arguments = options.parse_args()

    # They load matplotlib, which would keep `--help` waiting.
    from mma4ctr.evaluation.data_figures import draw_data
    from mma4ctr.evaluation.study_figures import FIGURES, draw_losses, draw_study
    from mma4ctr.evaluation.tables import study_tables

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    tasks = chosen_tasks(paths, arguments)
    names = [name for name in prepared_datasets(paths) if not arguments.dataset or name in arguments.dataset]
    if not names:
        raise UserError(
            f"{paths.graph}: contains no prepared {' or '.join(arguments.dataset)}; run preprocess_inter.py first"
        )
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
