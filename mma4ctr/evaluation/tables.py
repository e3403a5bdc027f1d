"""The tables of the studies as Markdown and CSV under `saved_path/tables/`, made from results.jsonl."""

from collections.abc import Sequence
from pathlib import Path

from mma4ctr.evaluation.comparison_tables import comparison_layout, computation_layout, interval_layout
from mma4ctr.evaluation.layouts import Layout, to_csv, to_markdown
from mma4ctr.evaluation.run_records import Result
from mma4ctr.evaluation.studies import COMPARISON, COMPARISON_BY_EPOCH, Study
from mma4ctr.evaluation.study_cells import Cell, cells, prepared_inputs
from mma4ctr.evaluation.study_layouts import METRICS, layout, protocol_line
from mma4ctr.features.variants import variants_for
from mma4ctr.storage.files import write_own_file
from mma4ctr.storage.paths import Paths

UNKNOWN = "runs are missing, or their AUC is undefined"


def layouts(paths: Paths, study: Study, table: list[Cell]) -> list[Layout]:
    """The tables of a study for one task."""
    if study.name == COMPARISON:
        return [comparison_layout(study, table), interval_layout(paths, table), computation_layout(table)]
    return [layout(study, table, ("auc",) if study.name == COMPARISON_BY_EPOCH else METRICS)]


def leakage_summary(table: list[Cell], task: str) -> str:
    """How many AUC points the published protocol gains by leakage, as text.

    Args:
        table: The cells of the study `protocol` for the task.
        task: For example `tiktok_like`.
    """

    def auc_of(split: str, evidence: str, loss: str) -> float | None:
        for cell in table:
            if cell.case.label == f"{split}, {evidence}, {loss}" and cell.epochs == max(c.epochs for c in table):
                found = cell.mean_and_deviation("auc")
                return found[0] if found else None
        return None

    honest = auc_of("chronological", "train", "bce")
    same_split = auc_of("chronological", "all", "bce")
    published = auc_of("user", "all", "listwise")
    clean = auc_of("user", "train", "listwise")
    sentences = []
    if honest is not None and same_split is not None:
        sentences.append(
            f"On {task}, a user embedding made from all labels changes test AUC from {honest:.4f} to "
            f"{same_split:.4f} on the same chronological rows: {100 * (same_split - honest):+.2f} AUC points of "
            "leakage."
        )
    else:
        sentences.append(f"On {task}, the effect of leakage on the chronological split is not known: {UNKNOWN}.")
    if published is not None and clean is not None:
        sentences.append(
            f"Under the published protocol (split by user, evidence all, listwise loss) it is {published:.4f}; without "
            f"the test labels of the same users it is {clean:.4f}, a difference of {100 * (published - clean):+.2f} "
            "points."
        )
    else:
        sentences.append(f"The effect of leakage under the published protocol is not known: {UNKNOWN}.")
    return " ".join(sentences)


def tidy(study: Study, tables: dict[str, list[Cell]]) -> list[list[object]]:
    """The CSV table of a study: a header, and one row per task, case and number of epochs.

    Args:
        study: The study.
        tables: Its cells by task.
    """
    header = ["study", "task", study.column, "epochs", "seeds"]
    header += [f"{metric}_{kind}" for metric in METRICS for kind in ("mean", "sd")]
    header += ["published_auc", "train_seconds", "test_seconds", "parameters", "leaky", "protocol"]
    rows: list[list[object]] = [list(header)]
    for task, table in tables.items():
        for cell in table:
            numbers: list[object] = []
            for metric in METRICS:
                numbers += cell.mean_and_deviation(metric) or ("", "")
            seconds = [(cell.mean_and_deviation(name) or ("",))[0] for name in ("train_seconds", "test_seconds")]
            parameters = cell.runs[0].parameters if cell.runs else ""
            figure = cell.published("auc")
            published = "" if figure is None else figure
            line = [study.name, task, cell.case.label, cell.epochs, len(cell.runs), *numbers, published, *seconds]
            rows.append([*line, parameters, cell.leaky, protocol_line(cell.runs) if cell.runs else ""])
    return rows


def study_tables(paths: Paths, results: Sequence[Result], study: Study, tasks: Sequence[str]) -> dict[str, list[Cell]]:
    """The cells of a study for each task that has runs of it."""
    made = {
        task: cells(results, study, task, prepared_inputs(paths, task), variants_for(paths, task)) for task in tasks
    }
    return {task: table for task, table in made.items() if table}


def study_markdown(paths: Paths, study: Study, tables: dict[str, list[Cell]]) -> str:
    """The Markdown page of a study.

    Args:
        paths: Of the path.json in use.
        study: The study.
        tables: Its cells by task.
    """
    text = [f"# {study.name}\n"]
    for task, table in tables.items():
        shown = "\n".join(to_markdown(one) for one in layouts(paths, study, table))
        text.append(f"## {task}\n\n{shown}")
        if study.name == "protocol":
            text.append(leakage_summary(table, task) + "\n")
    return "\n".join(text)


def write_tables(paths: Paths, results: Sequence[Result], studies: Sequence[Study], tasks: Sequence[str]) -> list[Path]:
    """Write `<study>.md` and `<study>.csv` of every study that has runs; return the paths of the Markdown files."""
    written = []
    for study in studies:
        tables = study_tables(paths, results, study, tasks)
        if tables:
            path = paths.saved / "tables" / f"{study.name}.md"
            write_own_file(path, study_markdown(paths, study, tables).encode())
            write_own_file(path.with_suffix(".csv"), to_csv(tidy(study, tables)))
            written.append(path)
    return written
