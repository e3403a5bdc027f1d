"""Writes the tables of the comparison into README.md and docs/, from results.jsonl.

Reads    saved_path/results.jsonl of each path.json, the test scores of its runs and the artifacts they were made from
Writes   between marks such as `<!-- summary -->` and `<!-- /summary -->`:
         README.md                      `summary`: test AUC of five models
         docs/comparison.md             `overview`: AUC and GAUC of every model; `comparison`: all tables of every task;
                                        `ablation`, if the study `plus` has been run
         docs/comparison-by-epoch.md    `by-epoch`: AUC by the number of epochs

Each argument gives a set of runs its name in the tables. A model has the numbers that have been measured and dashes for
the rest. No table has more than 9 columns. `--newest` adds a column to `summary` for a data set outside the comparison:
the newest run of each model.

    python baseline/readme.py "demo world=demo/path.json" "tiktok-real=configs/tiktok-real.json"
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mma4ctr.datasets import known_datasets, tasks_of
from mma4ctr.evaluation.comparison_tables import comparison_layout, computation_layout, interval_layout
from mma4ctr.evaluation.ground_truth import oracle_auc
from mma4ctr.evaluation.layouts import Layout, markdown_table
from mma4ctr.evaluation.run_records import Result, read_results
from mma4ctr.evaluation.studies import COMPARISON, COMPARISON_BY_EPOCH, MODEL, STUDIES
from mma4ctr.evaluation.study_cells import Cell
from mma4ctr.evaluation.study_layouts import layout, protocol_line
from mma4ctr.evaluation.tables import study_tables
from mma4ctr.features.variants import variants_for, with_features
from mma4ctr.runtime.console import note, parser, run
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.files import write_file
from mma4ctr.storage.paths import Paths, load_paths

ROOT = Path(__file__).parent.parent
SUMMARY_MODELS = (f"{MODEL} plus", "LightGBM plus", "CatBoost plus", "LightGBM", "DIN")
OVERVIEW_METRICS = ("AUC", "GAUC")
MAX_COLUMNS = 9

# A table's cell: its text, and whether it is the best of its column.
TableCell = tuple[str, bool]


@dataclass(frozen=True)
class TaskTables:
    """The cells of one task.

    Attributes:
        name: The set of runs, as the command line names it.
        paths: Where its artifacts lie.
        task: For example `tiktok_like`.
        cells: Every case of one study.
    """

    name: str
    paths: Paths
    task: str
    cells: list[Cell]

    @property
    def title(self) -> str:
        """The head of its column: `wechat_click (simulated)`, or `tiktok_like (tiktok-real)` for real data."""
        return f"{self.task} ({'simulated' if oracle_auc(self.paths, self.task) else self.name})"


def columns_of(table: Layout, names: Sequence[str]) -> dict[str, list[TableCell]]:
    """The cells of the named columns, by the label of their row."""
    positions = [table.header.index(name) for name in names]
    return {row[0][0]: [row[position] for position in positions] for row in table.rows}


def join_columns(header: list[str], labels: Sequence[str], parts: Sequence[Mapping[str, list[TableCell]]]) -> Layout:
    """One row a label, with the cells of every part that has it, else dashes; numbers without their deviation."""
    rows: list[list[TableCell]] = []
    for label in labels:
        row: list[TableCell] = [(label, False)]
        for part in parts:
            width = len(next(iter(part.values()), [("-", False)]))
            row += [(re.sub(" ± .*", "", text), best) for text, best in part.get(label, [("-", False)] * width)]
        rows.append(row)
    return Layout("", header, rows)


def select_columns(table: Layout, positions: Sequence[int]) -> Layout:
    """The table with its first column and those at `positions`."""
    chosen = [0, *positions]
    rows = [[row[position] for position in chosen] for row in table.rows]
    return Layout(table.caption, [table.header[position] for position in chosen], rows)


def is_published(name: str) -> bool:
    """Whether a column holds the published figures for the column to its left."""
    return name.startswith("published at")


def split_columns(table: Layout) -> list[Layout]:
    """Tables of at most `MAX_COLUMNS` columns; published figures stay beside the column that they belong to."""
    groups: list[list[int]] = []
    for position, name in enumerate(table.header[1:], start=1):
        if is_published(name):
            groups[-1].append(position)
        else:
            groups.append([position])
    parts: list[list[int]] = [[]]
    for group in groups:
        if 1 + len(parts[-1]) + len(group) > MAX_COLUMNS:
            parts.append([])
        parts[-1] += group
    return [select_columns(table, part) for part in parts]


def split_by_metric(table: Layout) -> dict[str, Layout]:
    """The comparison's score table as three: the chosen epoch's `scores`, `AUC` and `LogLoss` by epoch."""
    positions: dict[str, list[int]] = {"scores": [], "AUC": [], "LogLoss": []}
    part = "scores"
    for position, name in enumerate(table.header[1:], start=1):
        if " at " in name and not is_published(name):
            part = name.partition(" ")[0]
        positions[part].append(position)
    return {name: select_columns(table, chosen) for name, chosen in positions.items()}


def task_section(title: str, protocol: str, scores: Layout, intervals: Layout, cost: Layout) -> str:
    """All tables of one task as Markdown."""
    by_metric = split_by_metric(scores)
    parts = [
        ("Scores at the epoch with the best validation AUC", [by_metric["scores"]]),
        ("Confidence intervals and paired test", split_columns(intervals)),
        ("AUC by epoch", split_columns(by_metric["AUC"])),
        ("LogLoss by epoch", split_columns(by_metric["LogLoss"])),
        ("Cost", split_columns(cost)),
    ]
    text = [f"### {title}\n\nProtocol: {protocol}.\n"]
    for caption, tables in parts:
        text.append(f"**{caption}**\n\n" + "\n".join(map(markdown_table, tables)))
    return "\n".join(text)


def section_title(one: TaskTables) -> str:
    """`tiktok_like, demo world (oracle AUC 0.8732)`."""
    oracle = oracle_auc(one.paths, one.task)
    return f"{one.task}, {one.name}" + (f" (oracle AUC {oracle:.4f})" if oracle else "")


def protocol_of(one: TaskTables) -> str:
    """The protocol that the runs of a task share."""
    return protocol_line([run for cell in one.cells for run in cell.runs])


def comparison(compared: Sequence[TaskTables]) -> str:
    """Every table of every task."""
    study = STUDIES[COMPARISON]
    return "\n".join(
        task_section(
            section_title(one),
            protocol_of(one),
            comparison_layout(study, one.cells),
            interval_layout(one.paths, one.cells),
            computation_layout(one.cells),
        )
        for one in compared
    )


def overview(titles: Sequence[str], tables: Sequence[Layout]) -> str:
    """AUC and GAUC of every model on every task.

    Args:
        titles: One a task.
        tables: The score table of each task.
    """
    known = {row[0][0] for table in tables for row in table.rows}
    labels = [case.label for case in STUDIES[COMPARISON].cases if case.label in known]
    header = ["model"]
    for title in titles:
        header += [f"{title}: AUC", "GAUC"]
    parts = [columns_of(table, OVERVIEW_METRICS) for table in tables]
    return "\n".join(map(markdown_table, split_columns(join_columns(header, labels, parts))))


def summary(titles: Sequence[str], columns: Sequence[Mapping[str, list[TableCell]]]) -> str:
    """Test AUC of `SUMMARY_MODELS`.

    Args:
        titles: One a task.
        columns: For each task the AUC by model.
    """
    return markdown_table(join_columns(["test AUC", *titles], SUMMARY_MODELS, columns))


def ablation(compared: Sequence[TaskTables]) -> str:
    """AUC of the study `plus` on every task."""
    study = STUDIES["plus"]
    header = ["test AUC", *(one.title for one in compared)]
    column = f"AUC at {study.epochs[0]}"
    parts = [columns_of(layout(study, one.cells, ("auc",)), [column]) for one in compared]
    labels = [case.label for case in study.cases if any(case.label in part for part in parts)]
    return markdown_table(join_columns(header, labels, parts))


def by_epoch_section(title: str, protocol: str, table: Layout) -> str:
    """AUC by epoch of one task as Markdown."""
    return f"### {title}\n\nProtocol: {protocol}.\n\n" + "\n".join(map(markdown_table, split_columns(table)))


def newest_auc(paths: Paths, task: str, results: Sequence[Result]) -> dict[str, list[TableCell]]:
    """Test AUC of the newest run of each model, by label: MMa4CTR on the default variant, with and without plus.

    Runs that used the test rows do not count.
    """
    default = variants_for(paths, task).default
    labels = {(MODEL, default): MODEL, (MODEL, with_features(default, "plus")): f"{MODEL} plus"}
    newest: dict[str, Result] = {}
    for result in sorted(results, key=lambda result: result.started):
        key = (result.model, result.variant)
        if (
            result.task == task
            and result.auc is not None
            and not result.marks
            and (key in labels or result.model != MODEL)
        ):
            newest[labels.get(key, result.model)] = result
    best = max(newest.values(), key=lambda result: result.auc or 0, default=None)
    return {label: [(f"{result.auc:.4f}", result is best)] for label, result in newest.items()}


def between_marks(file: Path, mark: str, content: str) -> None:
    """Replace what a file has between `<!-- mark -->` and `<!-- /mark -->`.

    Args:
        file: The file.
        mark: Name of the marks.
        content: What stands between them from now on.

    Raises:
        UserError: If the file has no such marks.
    """
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.S)
    text = file.read_text()
    if not pattern.search(text):
        raise UserError(f"{file}: the marks <!-- {mark} --> and <!-- /{mark} --> are missing")
    write_file(file, pattern.sub(lambda found: f"{found[1]}{content}{found[2]}", text).encode())


def named_paths(text: str) -> tuple[str, Paths]:
    """The two parts of NAME=PATH.JSON.

    Args:
        text: An argument of the command line.

    Returns:
        The name, and the paths of the file.

    Raises:
        UserError: If there is no `=`, or the file cannot be read.
    """
    name, sign, file = text.partition("=")
    if not sign:
        raise UserError(f"{text}: expected NAME=PATH.JSON")
    return name, load_paths(Path(file))


def tasks_with_results(paths: Paths, results: Sequence[Result]) -> list[str]:
    """The tasks that have results, in the order of the data sets."""
    measured = {result.task for result in results}
    return [task for task in tasks_of(known_datasets(paths).values()) if task in measured]


def main() -> None:
    """Write the tables."""
    options = parser(__doc__, paths=False)
    options.add_argument("runs", nargs="+", metavar="NAME=PATH.JSON", help="a name for the tables, and its path.json")
    options.add_argument(
        "--newest", nargs="+", default=[], metavar="NAME=PATH.JSON", help="data sets outside the comparison"
    )
    arguments = options.parse_args()

    found: dict[str, list[TaskTables]] = {COMPARISON: [], COMPARISON_BY_EPOCH: [], "plus": []}
    for name, paths in map(named_paths, arguments.runs):
        results = read_results(paths.results)
        rivals = [result for result in results if result.model != MODEL]
        tasks = tasks_with_results(paths, rivals)
        for study, tables in found.items():
            of_study = study_tables(paths, results, STUDIES[study], tasks)
            tables += [TaskTables(name, paths, task, cells) for task, cells in of_study.items()]
    compared = found[COMPARISON]
    titles = [one.title for one in compared]
    scores = [comparison_layout(STUDIES[COMPARISON], one.cells) for one in compared]
    aucs = [columns_of(table, ["AUC"]) for table in scores]
    for name, paths in map(named_paths, arguments.newest):
        results = read_results(paths.results)
        for task in tasks_with_results(paths, results):
            titles.append(name)
            aucs.append(newest_auc(paths, task, results))

    readme, page = ROOT / "README.md", ROOT / "docs/comparison.md"
    between_marks(readme, "summary", summary(titles, aucs))
    between_marks(page, "overview", overview(titles[: len(compared)], scores))
    between_marks(page, "comparison", comparison(compared))
    ablated = [one for one in found["plus"] if any(cell.case.features.startswith("plus-") for cell in one.cells)]
    if ablated:
        between_marks(page, "ablation", ablation(ablated))
    sections = [
        by_epoch_section(
            f"{one.task}, {one.name}", protocol_of(one), layout(STUDIES[COMPARISON_BY_EPOCH], one.cells, ("auc",))
        )
        for one in found[COMPARISON_BY_EPOCH]
    ]
    between_marks(ROOT / "docs/comparison-by-epoch.md", "by-epoch", "\n".join(sections))
    note(f"wrote the tables of {len(compared)} tasks to {readme} and {ROOT / 'docs'}")


if __name__ == "__main__":
    run(main)
