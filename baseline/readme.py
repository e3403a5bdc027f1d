"""Writes the comparison, as results.jsonl has it, into README.md and baseline/RESULTS.md.

Reads    saved_path/results.jsonl of each path.json, the scores of its runs, and what they were made from
Writes   README.md between its marks `summary` and `comparison`, and `ablation` where the study `plus` has been run;
         baseline/RESULTS.md

Each set of runs is named as the tables are to name it. A model stands there as far as it has been run.

    python baseline/readme.py "demo world=demo/path.json" "tiktok-real=demo/real/path.json"
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mma4ctr.console import UserError, note, parser, run
from mma4ctr.datasets import known_datasets, tasks_of
from mma4ctr.files import write_file
from mma4ctr.oracle import oracle_auc
from mma4ctr.paths import Paths, load_paths
from mma4ctr.results import Result, read_results
from mma4ctr.studies import COMPARISON, COMPARISON_BY_EPOCH, STUDIES, Cell, Study
from mma4ctr.tables import (
    CALIBRATION,
    Layout,
    comparison_layout,
    computation_layout,
    interval_layout,
    layout,
    markdown_table,
    study_markdown,
    study_tables,
)

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
# Columns of the summary, and those of the whole table that stand beside the scores.
SHOWN = ("AUC", "GAUC")
TIMES = ("parameters", "seconds an epoch", "seconds to train", "seconds to test")

# A cell as a layout has it: its text, and whether it is the best of its column.
Shown = tuple[str, bool]


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


def columns_of(table: Layout, names: Sequence[str]) -> dict[str, list[Shown]]:
    """By model the cells of the named columns."""
    places = [table.header.index(name) for name in names]
    return {row[0][0]: [row[place] for place in places] for row in table.rows}


def side_by_side(study: Study, header: list[str], found: Sequence[Mapping[str, list[Shown]]]) -> str:
    """A row for each case of a study that any task has, a dash where one has not; numbers without their deviation."""
    labels = [case.label for case in study.cases if any(case.label in columns for columns in found)]
    rows = []
    for label in labels:
        cells = [columns.get(label, [("-", False)] * len(next(iter(columns.values())))) for columns in found]
        shown = [(re.sub(" ± .*", "", text), best) for of_task in cells for text, best in of_task]
        rows.append([(label, False), *shown])
    return markdown_table(Layout("", header, rows))


def summary(compared: Sequence[Compared]) -> str:
    """Every model on every task: AUC and GAUC after the epochs that the validation rows chose."""
    study = STUDIES[COMPARISON]
    header = [f"test {', '.join(SHOWN)}"]
    for one in compared:
        header += [one.title, *SHOWN[1:]]
    return side_by_side(study, header, [columns_of(comparison_layout(study, one.cells), SHOWN) for one in compared])


def ablation(compared: Sequence[Compared]) -> str:
    """AUC of the study `plus` on every task, after the first number of its epochs."""
    study = STUDIES["plus"]
    header = [f"test AUC after {study.epochs[0]} epochs", *(one.title for one in compared)]
    column = f"AUC at {study.epochs[0]}"
    return side_by_side(study, header, [columns_of(layout(study, one.cells, ("auc",)), [column]) for one in compared])


def comparison(one: Compared) -> str:
    """The whole table of a task."""
    scores = comparison_layout(STUDIES[COMPARISON], one.cells)
    paired = interval_layout(one.paths, one.cells)
    ahead = paired.header[3]
    at_epochs = [name for name in scores.header if " at " in name and not name.startswith("published")]
    parts = [
        columns_of(scores, ("AUC", "GAUC", "LogLoss", "epochs")),
        columns_of(paired, ("95 % interval", ahead, "p", CALIBRATION)),
        columns_of(scores, at_epochs),
        columns_of(computation_layout(one.cells), TIMES),
    ]
    header = [
        "model",
        "AUC",
        "GAUC",
        "LogLoss",
        "epochs",
        "95 % interval of AUC",
        ahead.replace(" is ", " "),
        "p",
        CALIBRATION,
    ]
    header += [*at_epochs, "parameters", "s an epoch", "s to train", "s to test"]
    rows = [[row[0], *(cell for part in parts for cell in part[row[0][0]])] for row in scores.rows]
    oracle = oracle_auc(one.paths, one.task)
    told = f"**{one.task}, {one.name}**" + (f" (oracle AUC {oracle:.4f})" if oracle else "")
    return f"{told}\n\n{markdown_table(Layout('', header, rows))}"


def between_marks(text: str, mark: str, content: str) -> str:
    """`text` with what stands between `<!-- mark -->` and `<!-- /mark -->` replaced; raises `UserError`."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.S)
    if not pattern.search(text):
        raise UserError(f"{README}: has no marks <!-- {mark} --> and <!-- /{mark} -->")
    return pattern.sub(lambda found: f"{found[1]}{content}{found[2]}", text)


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
    text = between_marks(text, "comparison", "\n".join(map(comparison, compared)))
    if ablated:
        text = between_marks(text, "ablation", ablation(ablated))
    write_file(README, text.encode())
    write_file(HERE / "RESULTS.md", "\n".join(pages).encode())
    note(f"wrote {len(compared)} tables to {README} and {HERE / 'RESULTS.md'}")


if __name__ == "__main__":
    run(main)
