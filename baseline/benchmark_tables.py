"""Writes the tables of `make compare-benchmarks` into docs/comparison.md, from results.jsonl.

Reads    saved_path/results.jsonl of each path.json, and the true probabilities of simulated files
Writes   docs/comparison.md, between `<!-- benchmarks -->` and `<!-- /benchmarks -->`: the newest run of each model

    python baseline/benchmark_tables.py demo/benchmarks/kuaivideo-x1/path.json
"""

from collections.abc import Sequence
from pathlib import Path

from readme import ROOT, between_marks, tasks_with_results

from mma4ctr.evaluation.ground_truth import oracle_auc
from mma4ctr.evaluation.layouts import Layout, markdown_table
from mma4ctr.evaluation.run_records import Result, newest_of_each, read_results
from mma4ctr.evaluation.run_table import score_text
from mma4ctr.evaluation.studies import MODEL
from mma4ctr.runtime.console import note, parser, run
from mma4ctr.storage.paths import load_paths

HEADER = ["model", "AUC", "GAUC", "LogLoss", "best epoch", "train s", "processor s", "parameters", "memory, MB"]


def label_of(result: Result) -> str:
    """The name of a run's model: with `plus` for MMa4CTR's features plus, and with marks if its scores are too good."""
    name = result.model
    if name == MODEL and ".plus" in result.variant:
        name = f"{MODEL} plus"
    return " ".join([name, *result.marks])


def number(value: float | None) -> str:
    """A number without decimals from 100 on, else with one; `-` if it is unknown."""
    return "-" if value is None else f"{value:,.{0 if value >= 100 else 1}f}"


def benchmark_layout(results: Sequence[Result]) -> Layout:
    """Scores and costs of runs on the same rows, by AUC.

    Args:
        results: One run of each model.

    Returns:
        The table; the best score of each column is bold.
    """
    runs = sorted(results, key=lambda result: -(result.auc or 0.0))
    best = {
        "auc": max((result.auc for result in runs if result.auc is not None), default=None),
        "gauc": max((result.gauc for result in runs if result.gauc is not None), default=None),
        "logloss": min((result.logloss for result in runs if result.logloss is not None), default=None),
    }
    rows = []
    for result in runs:
        row = [(label_of(result), False)]
        row += [(score_text(getattr(result, name)), getattr(result, name) == top) for name, top in best.items()]
        costs = [str(result.best_epoch), number(result.train_seconds), number(result.processor_seconds)]
        costs += [f"{result.parameters:,}", number(result.peak_memory_mb)]
        rows.append([*row, *((text, False) for text in costs)])
    return Layout("", list(HEADER), rows)


def section(task: str, results: Sequence[Result], oracle: float | None) -> str:
    """The title, the rows and the table of a task as Markdown."""
    rows = results[0].rows
    sizes = ", ".join(f"{rows[part]:,} {name}" for part, name in (("train", "training"), ("valid", "validation")))
    text = f"### {task}\n\n{sizes} and {rows['test']:,} test rows"
    text += f"; AUC of the true probabilities {oracle:.4f}" if oracle else ""
    return f"{text}. Seed {results[0].seed}.\n\n{markdown_table(benchmark_layout(results))}"


def newest_rows(results: Sequence[Result]) -> list[Result]:
    """The runs that are on the same rows as the newest; others are of an earlier step 1."""
    last = max(results, key=lambda result: result.started)
    return [result for result in results if result.rows == last.rows]


def main() -> None:
    """Write the tables."""
    options = parser(__doc__, paths=False)
    options.add_argument("paths", nargs="+", type=Path, metavar="PATH.JSON", help="the path.json of a data set of BARS")
    arguments = options.parse_args()
    sections = []
    for paths in map(load_paths, arguments.paths):
        results = read_results(paths.results)
        for task in tasks_with_results(paths, results):
            scored = [result for result in results if result.task == task and result.auc is not None]
            sections.append(section(task, newest_rows(newest_of_each(scored)), oracle_auc(paths, task)))
    page = ROOT / "docs/comparison.md"
    between_marks(page, "benchmarks", "\n".join(sections))
    note(f"wrote the tables of {len(sections)} tasks to {page}")


if __name__ == "__main__":
    run(main)
