"""Tables and figures name `evidence=all`, `split=user` and `listwise` if their runs have them; the protocol study
states the effect of leakage."""

import csv
import re
import shutil
from dataclasses import replace
from html import escape, unescape

import pytest

import adjust_hyperparameter as sweep
import mlp
import preprocess_inter
import statis_and_draw
import viewer
from mma4ctr.evaluation import run_report
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.evaluation.studies import STUDIES
from mma4ctr.evaluation.study_cells import prepared_inputs
from mma4ctr.evaluation.study_figures import draw_losses
from mma4ctr.evaluation.tables import leakage_summary, study_tables, write_tables
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, first_columns, prepare
from tests.steps.test_sweep import SHORT

OF_THE_DATA = {"negatives_per_positive", "activity", "popularity"}  # figures that show no run
TASK = ("--task", "tiktok_like")


def made_with(raw_world, folder, evidence):
    """A run and a short study with whole users as the split and a listwise loss, and their figures."""
    import get_user_embedding

    shutil.copytree(raw_world / "dataset/TikTok2019ICME", folder / "dataset/TikTok2019ICME")
    shutil.copy(raw_world / "path.json", folder)
    options = {preprocess_inter: ("--split", "user"), get_user_embedding: ("--evidence", evidence)}
    paths = load_paths(folder / "path.json")
    prepare(paths.file, options=options)
    assert call(mlp.main, "--paths", paths.file, *TASK, "--epochs", 3, "--loss", "listwise", "--max-interrupts", 0) == 0
    with pytest.MonkeyPatch.context() as patch:
        for module in (sweep, statis_and_draw, run_report):
            patch.setattr(module, "STUDIES", SHORT)
        patch.setattr("mma4ctr.evaluation.run_figures.embed", first_columns)
        studies = ("--study", "embedding-length", "protocol")
        assert call(sweep.main, "--paths", paths.file, *TASK, *studies, "--seeds", 1) == 0
        assert call(statis_and_draw.main, "--paths", paths.file, *TASK) == 0
        assert call(viewer.main, "--paths", paths.file, *TASK, "--points", 40) == 0
    return paths


@pytest.fixture(scope="module")
def leaky(raw_world, tmp_path_factory):
    return made_with(raw_world, tmp_path_factory.mktemp("leaky"), "all")


def figures(paths):
    """Return the words of every figure of runs, by its name."""
    found = {path.stem: path.read_text() for path in (paths.saved / "figures").glob("*.svg")}
    return {name: unescape(re.sub("<[^>]*>", "", text)) for name, text in found.items() if name not in OF_THE_DATA}


def test_figures_name_it(leaky):
    shown = figures(leaky)
    assert {"roc_tiktok_like", "reliability", "study_embedding-length", "umap_tiktok_like_hidden_3d"} <= set(shown)
    del shown["loss"]  # shows the longest run that is not leaky, one of the protocol study
    for name, text in shown.items():
        loss = "bce" if name.startswith("study") else "listwise"
        assert f"user split, evidence all, loss {loss}, LEAKY" in text, name


def test_the_loss_figure_names_what_it_shows(leaky, tmp_path):
    """The figure shows no leaky run, so the test marks one as honest."""
    (run,) = [result for result in read_results(leaky.results) if result.protocol["loss"] == "listwise"][:1]
    honest = replace(run, protocol=run.protocol | {"evidence": "train"})
    assert draw_losses(leaky, [honest], ["tiktok_like"]) is not None
    text = (leaky.saved / "figures/loss.svg").read_text()
    (leaky.saved / "figures/loss.svg").unlink()
    assert "user split, evidence train, loss listwise" in text and "LEAKY" not in text


def test_tables_name_it(leaky):
    folder = leaky.saved / "tables"
    assert "| split | user |" in (folder / "statistics.md").read_text()
    text = (folder / "embedding-length.md").read_text()
    assert "user split, evidence all" in text and "LEAKY: features saw test labels" in text
    text = (folder / "protocol.md").read_text()
    assert "rows with evidence all are LEAKY" in text
    for split in ("chronological", "random", "user"):
        assert f"| {split}, all, listwise |" in text
    for name in ("embedding-length", "protocol"):
        for row in csv.DictReader((folder / f"{name}.csv").open()):
            assert row["leaky"] == str("evidence all" in row["protocol"]) and "split" in row["protocol"]
            assert ("LEAKY" in row["protocol"]) == (row["leaky"] == "True") and "loss" in row["protocol"]


def test_the_report_names_it(leaky):
    text = (leaky.saved / "report.html").read_text()
    words = "user split, evidence all, loss listwise, LEAKY"
    headings = [unescape(one) for one in re.findall("<h3>(.*?)</h3>", text)]
    plots = [one for one in headings if one.startswith("tiktok_like: ")]
    assert len(plots) == 6 and all(words in one for one in plots)
    caption = "tiktok_like: user split, evidence all, scaling zscore, loss listwise, "
    assert f'<p class="caption">{caption}<span class="leaky">LEAKY</span>' in text


def test_table_and_report_mark_leakage(leaky):
    table = study_tables(leaky, read_results(leaky.results), SHORT["protocol"], ["tiktok_like"])["tiktok_like"]
    words = leakage_summary(table, "tiktok_like")
    assert "On tiktok_like, a user embedding made from all labels changes test AUC" in words
    assert "AUC points of leakage" in words and "Under the published protocol" in words
    assert words in (leaky.saved / "tables/protocol.md").read_text()
    assert escape(words) in (leaky.saved / "report.html").read_text()


def test_what_is_not_known_is_said(leaky):
    runs = [run for run in read_results(leaky.results) if run.protocol["split"] == "random"]
    write_tables(replace(leaky, saved=leaky.temp / "saved"), runs, [SHORT["protocol"]], ["tiktok_like"])
    text = (leaky.temp / "saved/tables/protocol.md").read_text()
    assert text.count("is not known: runs are missing, or their AUC is undefined") == 2
    assert prepared_inputs(leaky, "tiktok_like").evidence == "all" and "protocol" in STUDIES
