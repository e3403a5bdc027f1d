"""The report of a path.json: one page with every table and figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mma4ctr.data.interactions import interactions_artifact
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.figures import protocol_words
from mma4ctr.evaluation.layouts import Layout
from mma4ctr.evaluation.report import Section, heading, lines, page, paragraph, plot_html, points_in_space, table_html
from mma4ctr.evaluation.run_figures import Predicted, reliability_curve, roc_points
from mma4ctr.evaluation.run_records import (
    Result,
    keeps_predictions,
    newest_of_each,
    read_history,
    results_rows,
)
from mma4ctr.evaluation.studies import STUDIES
from mma4ctr.evaluation.tables import layouts, leakage_in_words, protocol_line, statistics_layout, study_tables
from mma4ctr.storage.files import write_own_file
from mma4ctr.storage.paths import Paths


def training_section(paths: Paths, runs: dict[str, Predicted]) -> Section:
    """Loss and validation AUC by epoch."""
    body = []
    for task, one in runs.items():
        history = read_history(paths, one.result)
        epochs, words = [entry["epoch"] for entry in history], protocol_words([one.result])
        losses = {
            f"{part} loss": (epochs, [entry[key] for entry in history])
            for part, key in (("training", "train_loss"), ("validation", "valid_loss"))
        }
        aucs = {"validation AUC": (epochs, [entry["valid_auc"] for entry in history])}
        loss, valid = lines(losses, x="epoch", y="mean loss (nats)"), lines(aucs, x="epoch", y="AUC")
        body.append(plot_html(loss, f"{task}: loss ({words})", f"loss_{task}"))
        body.append(plot_html(valid, f"{task}: validation AUC ({words})", f"valid_{task}"))
    return Section("Training", "".join(body))


def studies_section(paths: Paths, results: Sequence[Result], tasks: Sequence[str]) -> Section:
    """Every table of the studies that has runs."""
    body = []
    for study in STUDIES.values():
        for task, table in study_tables(paths, results, study, tasks).items():
            body += [heading(f"{study.name}, {task}"), *map(table_html, layouts(paths, study, table))]
            if study.name == "protocol":
                body.append(paragraph(leakage_in_words(table, task)))
    return Section("Studies", "".join(body) or paragraph("No runs yet; adjust_hyperparameter.py makes them."))


def write_report(
    paths: Paths,
    results: Sequence[Result],
    predicted: dict[str, list[Predicted]],
    clouds: dict[str, dict[str, tuple[np.ndarray, list[str], list[str]]]],
) -> Path:
    """Put the page together.

    Args:
        predicted: runs with predictions, by task, the default variant's first.
        clouds: by task and kind, points (n, 3), the group and the hover text of each.
    """
    tasks = list(predicted)
    main_runs = {task: runs[0] for task, runs in predicted.items()}
    datasets = {split_task(task)[0]: None for task in tasks}
    kept = keeps_predictions(paths)
    header, rows = results_rows(paths, newest_of_each(results, lambda one: one.task in tasks and kept(one)))
    shown = Layout(
        "The newest run of each task, model, variant and protocol.", header, [[(c, False) for c in r] for r in rows]
    )
    graphs = {name: interactions_artifact(paths, name) for name in datasets}
    sections = [
        Section(
            "Protocol",
            "".join(paragraph(f"{task}: {protocol_line([one.result])}.") for task, one in main_runs.items()),
        ),
        Section("Results", table_html(shown)),
        Section("Data", table_html(statistics_layout(graphs))),
        Section("ROC", "".join(_roc_plot(task, runs) for task, runs in predicted.items())),
        Section("Calibration", "".join(_reliability_plot(task, runs) for task, runs in predicted.items())),
        training_section(paths, main_runs),
        Section(
            "UMAP",
            "".join(
                plot_html(
                    points_in_space(points.tolist(), group, hover),
                    f"{task}: {kind} ({protocol_words([main_runs[task].result])})",
                    f"umap_{task}_{kind}",
                )
                for task, kinds in clouds.items()
                for kind, (points, group, hover) in kinds.items()
            ),
        ),
        studies_section(paths, results, tasks),
    ]
    path = paths.saved / "report.html"
    about = "Made from results.jsonl and the artifacts of the steps. A result without its protocol is not a result."
    write_own_file(path, page("MMa4CTR report", about, sections).encode())
    return path


def _lists(points: tuple[np.ndarray, np.ndarray]) -> tuple[list[float], list[float]]:
    return np.round(points[0], 5).tolist(), np.round(points[1], 5).tolist()


def _roc_plot(task: str, runs: list[Predicted]) -> str:
    curves = {one.name: _lists(roc_points(one.label, one.predictions)) for one in runs}
    figure = lines(curves, x="false positive rate", y="true positive rate", diagonal=True)
    words = protocol_words([one.result for one in runs])
    return plot_html(figure, f"{task}: ROC on test rows ({words})", f"roc_{task}")


def _reliability_plot(task: str, runs: list[Predicted]) -> str:
    curves = {name: _lists((said, seen)) for name, said, seen in map(reliability_curve, runs)}
    figure = lines(curves, x="mean prediction", y="share of positives", diagonal=True, markers=True)
    told = ", in brackets that on true probabilities" if runs[0].truth is not None else ""
    title = f"{task}: calibration, with the expected error{told} ({protocol_words([one.result for one in runs])})"
    return plot_html(figure, title, f"reliability_{task}")
