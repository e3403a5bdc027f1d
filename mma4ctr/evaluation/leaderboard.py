"""Print and write the published leaderboards of BARS with the runs of MMa4CTR among their rows.

The published figures are those of BARS (Zhu and others, BARS: Towards Open Benchmarking for Recommender Systems, SIGIR
2022). Its models were selected on the test rows. A run of MMa4CTR was so too if its row says SELECTED ON TEST.

    python -m mma4ctr.evaluation.leaderboard --paths path.json
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from mma4ctr.datasets.base import GIVEN_SPLITS
from mma4ctr.datasets.toml_spec import READY, read_descriptions
from mma4ctr.evaluation.ground_truth import truth_folder
from mma4ctr.evaluation.layouts import Layout, write_layout
from mma4ctr.evaluation.run_records import LEAKY, SELECTED_ON_TEST, Result, newest_of_each, read_results
from mma4ctr.evaluation.run_table import score_text
from mma4ctr.runtime.console import note, parser, print_table, run
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.writable import TABLES

HEADER = ["rank", "model", "year", "AUC", "gAUC", "LogLoss", "selected on"]


@cache
def published_boards() -> dict[str, Any]:
    """The published leaderboards, by name of the ready description of their data."""
    boards: dict[str, Any] = orjson.loads((Path(__file__).parent / "leaderboards.json").read_bytes())["boards"]
    return boards


def boards_of(paths: Paths) -> dict[str, str]:
    """The name of the leaderboard by task, for the data sets of a path.json that have one."""
    found = {}
    for name, description in read_descriptions(paths).items():
        ready = Path(description.where)
        if ready.parent == READY and ready.stem in published_boards():
            found[f"{name}_{published_boards()[ready.stem]['target']}"] = ready.stem
    return found


def leaderboard(name: str, task: str, results: Sequence[Result], *, simulated: bool) -> Layout:
    """A published leaderboard with our runs in it, by AUC.

    Args:
        name: Name of the leaderboard.
        task: The task of our runs.
        results: All finished runs.
        simulated: The data of our runs are simulated.

    Returns:
        The table; our rows are bold. The caption says if our rows are not the published ones.
    """
    board = published_boards()[name]
    rows: list[tuple[float, list[str], bool]] = []
    for model in board["models"]:
        scores = [score_text(model[metric]) for metric in ("auc", "gauc", "logloss")]
        rows.append((model["auc"], [model["model"], str(model["year"]), *scores, "test"], False))
    caption = (
        f"{task}: {board['name']} of BARS, with MMa4CTR (bold). The published models were selected on the test rows."
    )
    ours = newest_of_each(results, lambda result: result.task == task and result.auc is not None)
    for result in ours:
        scores = [score_text(value) for value in (result.auc, result.gauc, result.logloss)]
        selected = SELECTED_ON_TEST if result.selected_on_test else "validation rows"
        label = result.model if result.model != "MMa4CTR" else f"MMa4CTR {result.variant}"
        if result.leaky:
            label += f", {LEAKY}"
        rows.append((result.auc or 0.0, [label, "", *scores, selected], True))
    sizes = {(result.rows["test"], result.protocol["split"]) for result in ours}
    other = [size for size, split in sizes if size != board["test_rows"] or split not in GIVEN_SPLITS]
    if simulated:
        caption += " NOT COMPARABLE: the data of ours are simulated."
    elif other:
        caption += (
            f" NOT COMPARABLE: the published test rows are {board['test_rows']:,}, ours {other[0]:,}; the files or the "
            "split are others."
        )
    ordered = sorted(rows, key=lambda row: -row[0])
    cells = [[(text, own) for text in (str(rank), *row)] for rank, (_, row, own) in enumerate(ordered, 1)]
    return Layout(caption, list(HEADER), cells)


def leaderboards(paths: Paths, results: Sequence[Result]) -> dict[str, Layout]:
    """The leaderboards of the tasks that have runs, by task."""
    run_tasks = {result.task for result in results}
    return {
        task: leaderboard(name, task, results, simulated=truth_folder(paths, task) is not None)
        for task, name in boards_of(paths).items()
        if task in run_tasks
    }


def main() -> None:
    """Run the command."""
    arguments = parser(__doc__).parse_args()
    paths = load_paths(arguments.paths)
    if not boards_of(paths):
        raise UserError(f"{paths.file}: no data set of it has a leaderboard; those are {', '.join(published_boards())}")
    made = leaderboards(paths, read_results(paths.results))
    if not made:
        raise UserError(f"{paths.results}: no run of {', '.join(boards_of(paths))}; run mlp.py first")
    for task, table in made.items():
        print_table(table.caption, table.header, table.texts)
        path = paths.saved / TABLES / f"leaderboard_{task}"
        write_layout(path, f"Leaderboard of {task}", table)
        note(f"written to {path}.md and .csv")


if __name__ == "__main__":
    run(main)
