"""Steps 7 and 8: the figures exist and are not empty, their numbers are right, the report works in a browser."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import get_user_embedding
import mlp
import preprocess_inter
import statis_and_draw
import viewer
from mma4ctr.data.interactions import interactions_artifact
from mma4ctr.evaluation.data_figures import doubling_buckets, draw_counts, draw_ratios
from mma4ctr.evaluation.figures import COLORS
from mma4ctr.evaluation.layouts import Layout, write_layout
from mma4ctr.evaluation.metrics import reliability
from mma4ctr.evaluation.report import Section, page, table_html
from mma4ctr.evaluation.run_figures import balanced_sample, load_predicted, roc_points
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.evaluation.run_table import result_tables
from tests.conftest import call, first_columns

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def drawn(made):
    """Figures and report of the tiny world, with columns in place of UMAP."""
    more = ("--task", "wechat_click", "--variant", "textual", "--epochs", 2)
    assert call(mlp.main, "--paths", made.file, *more) == 0
    assert call(statis_and_draw.main, "--paths", made.file) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mma4ctr.evaluation.run_figures.embed", first_columns)
        options = ("--task", "wechat_click", "tiktok_like", "--points", 60)
        assert call(viewer.main, "--paths", made.file, *options) == 0
    return made


def test_figures_are_written_and_show_something(drawn):
    folder = drawn.saved / "figures"
    names = {path.stem for path in folder.glob("*.png")}
    expected = {"negatives_per_positive", "activity", "popularity", "loss", "roc_wechat_click", "reliability"}
    expected |= {f"umap_tiktok_like_{kind}_{d}d" for kind in ("features", "hidden") for d in (2, 3)}
    assert expected <= names
    for path in folder.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert 0.002 < (pixels < 250).mean() < 0.9, path.name
        assert (pixels[0] == 255).all() and (pixels[-1] == 255).all(), f"{path.name} is cut at its edge"
        assert path.with_suffix(".svg").read_text().startswith("<?xml")
    assert (drawn.saved / "tables/statistics.csv").is_file()


def test_a_task_without_runs_needs_no_other_outputs(drawn):
    """An outdated user embedding of a task that nobody trained must not keep the report from the others."""
    results = read_results(drawn.results)
    assert load_predicted(drawn, results, "tiktok_like")
    assert not (drawn.user_embedding / "tiktok_share").exists()
    assert load_predicted(drawn, results, "tiktok_share") == []


def test_buckets_count_everything_once():
    counts = np.array([1, 1, 2, 3, 4, 7, 8, 100])
    labels, sizes = doubling_buckets(counts)
    assert labels == ["1", "2-3", "4-7", "8-15", "16-31", "32-63", "64-127"]
    assert sizes.tolist() == [2, 2, 2, 1, 0, 0, 1]


def test_roc_reliability_and_sample():
    rng = np.random.default_rng(0)
    chance = rng.random(5000)
    label = (rng.random(5000) < chance).astype(np.uint8)
    x, y = roc_points(label, chance)
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(label, chance), abs=1e-3)
    said, seen, error = reliability(label, chance, 10)
    assert np.abs(said - seen).max() < 0.07 and error < 0.03
    assert reliability(label, np.full(5000, 0.9), 10)[2] == pytest.approx(0.9 - label.mean(), abs=0.02)
    assert reliability(chance, chance, 10)[2] == 0, "against the truth there is no noise of labels"
    chosen = balanced_sample(label, 70, 0)
    assert label[chosen].sum() == 70 and len(set(chosen)) == 140
    assert (chosen == balanced_sample(label, 70, 0)).all()


def test_names_from_data_are_escaped():
    evil = "<script>alert(1)</script>"
    text = page(evil, evil, [Section(evil, table_html(Layout(evil, [evil], [[(evil, True)]])))])
    assert "<script>alert" not in text


@pytest.mark.skipif(not BROWSER, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_report_draws_in_a_browser(drawn, width, tmp_path):
    report = drawn.saved / "report.html"
    text = report.read_text()
    own = text[text.index("</head>") :]  # the head holds plotly's source, which names the makers of its maps
    assert not re.search(r'(src|href)="https?:', own), "the page needs no network"
    flags = ["--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--enable-logging=stderr"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += [f"--window-size={width},2000", "--virtual-time-budget=20000", f"--user-data-dir={tmp_path}"]
    done = subprocess.run([BROWSER, *flags, "--dump-dom", report.as_uri()], capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "error" in line.lower()]
    assert not console, console
    assert len(re.findall(r"error 0\.\d+ \(0\.\d+\)", text)) >= 3, "simulated tasks show both errors"
    plots = set(re.findall(r'id="((?:roc|reliability|loss|valid|umap)_\w+)"', text))
    assert len(plots) >= 12
    assert done.stdout.count("<canvas") >= 4, "3-d plots are drawn"
    assert done.stdout.count('class="main-svg"') >= len(plots)


def test_nothing_yet_names_the_command(raw_copy, capsys):
    assert call(viewer.main, "--paths", raw_copy / "path.json") == 2
    assert "run mlp.py first" in capsys.readouterr().err
    assert call(statis_and_draw.main, "--paths", raw_copy / "path.json") == 2
    assert "run preprocess_inter.py first" in capsys.readouterr().err


def test_columns_of_words_start_at_the_left():
    rows = [[("1", False), ("DIN", False), ("0.7", True)], [("2", False), ("-", False), ("none", False)]]
    html = table_html(Layout("", ["rank", "model", "AUC"], rows))
    assert re.findall('<t[hd] class="text">([^<]*)<', html) == ["model", "DIN", "-"]


def test_a_table_keeps_the_dots_of_its_name(tmp_path):
    for name in ("a-1.7m_click", "a-1.8m_click"):
        write_layout(tmp_path / name, name, Layout("caption", ["x"], [[("1", False)]]))
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "a-1.7m_click.csv", "a-1.7m_click.md", "a-1.8m_click.csv", "a-1.8m_click.md"
    ]  # fmt: skip


def test_data_without_ratios_and_many_data_sets_are_drawn(made):
    artifact = interactions_artifact(made, "tiktok")
    positives = dict.fromkeys(artifact.manifest["positives"], 0)
    empty = SimpleNamespace(manifest=artifact.manifest | {"positives": positives})
    assert draw_ratios(made, {"one": empty, "other": artifact}).is_file()
    many = {f"set {place}": np.array([1, 2, 3]) for place in range(len(COLORS) + 2)}
    assert draw_counts(made, many, "test_of_many", "users", "rows").is_file()
    for path in (made.saved / "figures").glob("test_of_many.*"):
        path.unlink()


def test_tasks_and_data_sets_that_exclude_each_other_are_refused(made, raw_copy, capsys):
    for script in (get_user_embedding, mlp, statis_and_draw, viewer):
        capsys.readouterr()
        assert call(script.main, "--paths", made.file, "--dataset", "wechat", "--task", "tiktok_like") == 2
        assert "is not a task of --dataset wechat" in capsys.readouterr().err
    assert (
        call(preprocess_inter.main, "--paths", raw_copy / "path.json", "--dataset", "tiktok", "--min-interactions", 20)
        == 0
    )
    capsys.readouterr()
    assert call(statis_and_draw.main, "--paths", raw_copy / "path.json", "--dataset", "wechat") == 2
    assert "graph/wechat: does not exist yet; run preprocess_inter.py first" in capsys.readouterr().err


@pytest.mark.parametrize("oracle", [0.5, 0.4])
def test_a_share_of_an_oracle_without_skill_is_a_dash(made, monkeypatch, oracle):
    monkeypatch.setattr("mma4ctr.evaluation.run_table.oracle_auc", lambda *_: oracle)
    for table in result_tables(made, read_results(made.results)):
        if "share" in table.header:
            assert {row[table.header.index("share")][0] for row in table.rows} == {"-"}
