"""Writes the comparison, as results.jsonl has it, into README.md and baseline/RESULTS.md.

Reads    saved_path/results.jsonl of each path.json, the scores of its runs, and what they were made from
Writes   README.md between its marks `summary` and `comparison`, and `ablation` where the study `plus` has been run;
         baseline/RESULTS.md

Each set of runs is named as the tables are to name it. A model stands there as far as it has been run.

    python baseline/readme.py "demo world=demo/path.json" "tiktok-real=demo/real/path.json"
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mma4ctr.artifacts import write_file
from mma4ctr.console import UserError, note, parser, run
from mma4ctr.datasets import known_datasets, tasks_of
from mma4ctr.oracle import oracle_auc
from mma4ctr.paths import Paths, load_paths
from mma4ctr.results import Result, read_results
from mma4ctr.studies import COMPARISON, COMPARISON_BY_EPOCH, STUDIES, Cell
from mma4ctr.tables import (
    Layout,
    comparison_layout,
    computation_layout,
    interval_layout,
    layout,
    study_markdown,
    study_tables,
)

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
# Columns of the summary, and those of the whole table that stand beside the scores.
SHOWN = ("AUC", "GAUC")
TIMES = ("parameters", "seconds an epoch", "seconds to train", "seconds to test")


@dataclass(frozen=True)
class Compared:
    """The cells of a task, and what its table is called."""

    name: str
    paths: Paths
    task: str
    cells: list[Cell]

    @property
    def title(self) -> str:
        """`wechat_click`, or `tiktok-real` where the name says it all."""
        return self.task if oracle_auc(self.paths, self.task) else self.name


def columns_of(layout: Layout, names: Sequence[str]) -> dict[str, list[str]]:
    """By model the named columns as Markdown has them."""
    places = [layout.header.index(name) for name in names]
    return {
        row[0][0]: [f"**{text}**" if best else text for text, best in (row[i] for i in places)] for row in layout.rows
    }


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is of names."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def without_deviation(cell: str) -> str:
    """`**0.8741 ± 0.0005**` -> `**0.8741**`."""
    return re.sub(r" ± [0-9.]+", "", cell)


def summary(compared: Sequence[Compared]) -> str:
    """Every model on every task: AUC and GAUC after the epochs that the validation rows chose."""
    found = [columns_of(comparison_layout(STUDIES[COMPARISON], one.cells), SHOWN) for one in compared]
    models = list(dict.fromkeys(cell.case.label for one in compared for cell in one.cells))
    order = [case.label for case in STUDIES[COMPARISON].cases]
    header = [f"test {', '.join(SHOWN)}"]
    for one in compared:
        header += [one.title, *SHOWN[1:]]
    rows = []
    for model in sorted(models, key=order.index):
        numbers = [cell for columns in found for cell in columns.get(model, ["-"] * len(SHOWN))]
        rows.append([model, *map(without_deviation, numbers)])
    return markdown(header, rows)


def ablation(compared: Sequence[Compared]) -> str:
    """AUC of the study `plus` on every task, after the first number of its epochs."""
    epochs = STUDIES["plus"].epochs[0]
    column = f"AUC at {epochs}"
    found = [columns_of(layout(STUDIES["plus"], one.cells, ("auc",)), [column]) for one in compared]
    header = [f"test AUC after {epochs} epochs", *(one.title for one in compared)]
    rows = []
    for case in STUDIES["plus"].cases:
        rows.append([case.label, *(without_deviation(columns.get(case.label, ["-"])[0]) for columns in found)])
    return markdown(header, rows)


def comparison(one: Compared) -> str:
    """The whole table of a task."""
    scores = comparison_layout(STUDIES[COMPARISON], one.cells)
    paired = interval_layout(one.paths, one.cells)
    ahead = paired.header[3]
    at_epochs = [name for name in scores.header if " at " in name and not name.startswith("published")]
    parts = [
        columns_of(scores, ("AUC", "GAUC", "LogLoss", "epochs")),
        columns_of(paired, ("95 % interval", ahead, "p")),
        columns_of(scores, at_epochs),
        columns_of(computation_layout(one.cells), TIMES),
    ]
    header = ["model", "AUC", "GAUC", "LogLoss", "epochs", "95 % interval of AUC", ahead.replace(" is ", " "), "p"]
    header += [*at_epochs, "parameters", "s an epoch", "s to train", "s to test"]
    rows = [[row[0][0], *(cell for part in parts for cell in part[row[0][0]])] for row in scores.rows]
    oracle = oracle_auc(one.paths, one.task)
    told = f"**{one.task}, {one.name}**" + (f" (oracle AUC {oracle:.4f})" if oracle else "")
    return f"{told}\n\n{markdown(header, rows)}"


def between_marks(text: str, mark: str, content: str) -> str:
    """`text` with what stands between `<!-- mark -->` and `<!-- /mark -->` replaced; raises `UserError`."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.S)
    if not pattern.search(text):
        raise UserError(f"{README}: has no marks <!-- {mark} --> and <!-- /{mark} -->")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def main() -> None:
    options = parser(__doc__, paths=False)
    options.add_argument("runs", nargs="+", metavar="NAME=PATH.JSON", help="what the tables call it, and where it is")
    compared: list[Compared] = []
    ablated: list[Compared] = []
    pages = ["# The comparison, with the published figures beside ours, as `baseline/comp.py` writes it\n"]
    for text in options.parse_args().runs:
        name, sign, file = text.partition("=")
        if not sign:
            raise UserError(f"{text}: take NAME=PATH.JSON")
        paths = load_paths(Path(file))
        results: list[Result] = read_results(paths.results)
        tasks = [
            task for task in tasks_of(known_datasets(paths).values()) if any(result.task == task for result in results)
        ]
        of_groups = study_tables(paths, results, STUDIES["plus"], tasks)
        for task, cells in of_groups.items():
            if any(cell.case.features.startswith("plus-") for cell in cells):
                ablated.append(Compared(name, paths, task, cells))
        for study in (COMPARISON, COMPARISON_BY_EPOCH):
            tables = study_tables(paths, results, STUDIES[study], tasks)
            if study == COMPARISON:
                compared += [Compared(name, paths, task, cells) for task, cells in tables.items()]
            page = study_markdown(paths, STUDIES[study], tables)
            pages.append(re.sub("^(#+) ", rf"#\1 {name}: ", page, flags=re.MULTILINE))
    text = between_marks(README.read_text(), "summary", summary(compared))
    text = between_marks(text, "comparison", "\n\n".join(map(comparison, compared)))
    if ablated:
        text = between_marks(text, "ablation", ablation(ablated))
    write_file(README, text.encode())
    write_file(HERE / "RESULTS.md", "\n".join(pages).encode())
    note(f"wrote {len(compared)} tables to {README} and {HERE / 'RESULTS.md'}")


if __name__ == "__main__":
    run(main)
