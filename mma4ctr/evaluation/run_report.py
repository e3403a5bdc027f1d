"""The report of all results of a path.json: one page with every table and figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mma4ctr.data.interactions import interactions_artifact
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.data_statistics import statistics_layout
from mma4ctr.evaluation.figures import describe_protocol
from mma4ctr.evaluation.leaderboard import leaderboards
from mma4ctr.evaluation.report import Section, heading, lines, page, paragraph, plot_html, points_in_space, table_html
from mma4ctr.evaluation.run_figures import Predicted, reliability_curve, roc_points
from mma4ctr.evaluation.run_records import (
    Result,
    has_predictions,
    newest_of_each,
    read_history,
)
from mma4ctr.evaluation.run_table import result_tables
from mma4ctr.evaluation.studies import STUDIES
from mma4ctr.evaluation.study_layouts import protocol_line
from mma4ctr.evaluation.tables import layouts, leakage_summary, study_tables
from mma4ctr.storage.files import write_own_file
from mma4ctr.storage.paths import Paths


def training_section(paths: Paths, runs: dict[str, Predicted]) -> Section:
    """Loss and validation AUC by epoch, for one run per task."""
    body = []
    for task, one in runs.items():
        history = read_history(paths, one.result)
        epochs, protocol = [entry["epoch"] for entry in history], describe_protocol([one.result])
        losses = {
            f"{part} loss": (epochs, [entry[key] for entry in history])
            for part, key in (("training", "train_loss"), ("validation", "valid_loss"))
        }
        aucs = {"validation AUC": (epochs, [entry["valid_auc"] for entry in history])}
        loss, valid = lines(losses, x="epoch", y="mean loss (nats)"), lines(aucs, x="epoch", y="AUC")
        body.append(plot_html(loss, f"{task}: loss ({protocol})", f"loss_{task}"))
        body.append(plot_html(valid, f"{task}: validation AUC ({protocol})", f"valid_{task}"))
    return Section("Training", "".join(body))


def studies_section(paths: Paths, results: Sequence[Result], tasks: Sequence[str]) -> Section:
    """Every table of the studies that has runs."""
    body = []
    for study in STUDIES.values():
        for task, table in study_tables(paths, results, study, tasks).items():
            body += [heading(f"{study.name}, {task}"), *map(table_html, layouts(paths, study, table))]
            if study.name == "protocol":
                body.append(paragraph(leakage_summary(table, task)))
    return Section("Studies", "".join(body) or paragraph("No runs yet; run adjust_hyperparameter.py."))


def write_report(
    paths: Paths,
    results: Sequence[Result],
    predicted: dict[str, list[Predicted]],
    clouds: dict[str, dict[str, tuple[np.ndarray, list[str], list[str]]]],
) -> Path:
    """Write `saved_path/report.html`; return its path.

    Args:
        paths: Of the path.json in use.
        results: All finished runs.
        predicted: Runs with predictions by task, the run of the default variant first.
        clouds: By task and kind of features: points (n, 3), the group and the hover text of each point.
    """
    tasks = list(predicted)
    main_runs = {task: runs[0] for task, runs in predicted.items()}
    datasets = {split_task(task)[0]: None for task in tasks}
    predictions_kept = has_predictions(paths)
    newest = newest_of_each(results, lambda one: one.task in tasks and predictions_kept(one))
    about_results = "The newest run of each task, model, variant and protocol."
    graphs = {name: interactions_artifact(paths, name) for name in datasets}
    sections = [
        Section(
            "Protocol",
            "".join(paragraph(f"{task}: {protocol_line([one.result])}.") for task, one in main_runs.items()),
        ),
        Section("Results", paragraph(about_results) + "".join(map(table_html, result_tables(paths, newest)))),
        Section("Data", table_html(statistics_layout(graphs))),
        Section("ROC", "".join(_roc_plot(task, runs) for task, runs in predicted.items())),
        Section(
            "Calibration",
            "".join(_reliability_plot(task, runs) for task, runs in predicted.items() if runs[0].result.test_labels),
        ),
        training_section(paths, main_runs),
        Section(
            "UMAP",
            "".join(
                plot_html(
                    points_in_space(points.tolist(), group, hover),
                    f"{task}: {kind} ({describe_protocol([main_runs[task].result])})",
                    f"umap_{task}_{kind}",
                )
                for task, kinds in clouds.items()
                for kind, (points, group, hover) in kinds.items()
            ),
        ),
        studies_section(paths, results, tasks),
    ]
    if boards := leaderboards(paths, results):
        sections.insert(2, Section("Leaderboards", "".join(map(table_html, boards.values()))))
    path = paths.saved / "report.html"
    about = "Made from results.jsonl and the artifacts of the steps. Scores compare only under the same protocol."
    write_own_file(path, page("MMa4CTR report", about, sections).encode())
    return path


def _lists(points: tuple[np.ndarray, np.ndarray]) -> tuple[list[float], list[float]]:
    return np.round(points[0], 5).tolist(), np.round(points[1], 5).tolist()


def _roc_plot(task: str, runs: list[Predicted]) -> str:
    curves = {one.name: _lists(roc_points(one.label, one.predictions)) for one in runs}
    figure = lines(curves, x="false positive rate", y="true positive rate", diagonal=True)
    protocol = describe_protocol([one.result for one in runs])
    return plot_html(figure, f"{task}: ROC on test rows ({protocol})", f"roc_{task}")


def _reliability_plot(task: str, runs: list[Predicted]) -> str:
    curves = {name: _lists((predicted, observed)) for name, predicted, observed in map(reliability_curve, runs)}
    figure = lines(curves, x="mean prediction", y="share of positives", diagonal=True, markers=True)
    on_truth = ", in brackets that on true probabilities" if runs[0].truth is not None else ""
    title = (
        f"{task}: calibration, with the expected error{on_truth} ({describe_protocol([one.result for one in runs])})"
    )
    return plot_html(figure, title, f"reliability_{task}")
