"""No file is half-written: full disks, two processes at once, links. No code that runs input, and no markup in the
report."""

import ast
import fcntl
import json
import resource
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest

import preprocess_inter
import preprocess_multimodal
import viewer
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.storage.artifacts import read_artifact
from tests.conftest import ROOT, call

SOURCES = [
    path
    for path in ROOT.rglob("*.py")
    if not any(part.startswith(".") or part in ("demo", "build", "out") for part in path.relative_to(ROOT).parts)
]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
STEPS = {
    "preprocess_inter.py": "graph/tiktok",
    "preprocess_multimodal.py": "modal/tiktok",
    "get_user_embedding.py": "user_embedding/tiktok_like",
    "cross_matrix.py": "matrix/tiktok_like/vat_concat",
}
MORE = {"preprocess_inter.py": ("--dataset", "tiktok", "--min-interactions", "30")}


def limited(script, folder, size):
    """Run a step that may not write files of more than `size` bytes."""
    options = MORE.get(script, ("--dataset", "tiktok"))
    return subprocess.run(
        [sys.executable, script, "--paths", str(folder / "path.json"), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


@pytest.mark.parametrize("script", STEPS)
@pytest.mark.parametrize("size", [100, 20_000])
def test_a_failed_write_is_reported_and_the_old_output_stays(made, tmp_path, script, size):
    folder = tmp_path / "copy"
    shutil.copytree(made.file.parent, folder)
    before = read_artifact(folder / STEPS[script], "").manifest
    done = limited(script, folder, size)
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert "Traceback" not in done.stderr and done.stderr.count("error:") == 1, done.stderr
    assert read_artifact(folder / STEPS[script], "").manifest == before
    assert not list(folder.rglob("*.partial")), "nothing half-written is left"


def test_two_processes_on_one_folder(raw_copy, capsys):
    options = ("--paths", raw_copy / "path.json", "--dataset", "tiktok", "--min-interactions", 20)
    assert call(preprocess_inter.main, *options) == 0
    with (raw_copy / "graph/.tiktok.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call(preprocess_inter.main, *options) == 2
    assert "another process is writing it" in capsys.readouterr().err
    assert call(preprocess_inter.main, *options) == 0


@pytest.mark.parametrize("place", ["graph", "graph/.tiktok.partial", "temp"])
def test_a_file_or_link_where_output_goes(raw_copy, capsys, place, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "precious").write_text("kept")
    (raw_copy / place).parent.mkdir(exist_ok=True)
    if place == "temp":
        (raw_copy / place).write_text("a file")
    else:
        (raw_copy / place).symlink_to(other / "precious" if place == "graph" else other)
    options = ("--paths", raw_copy / "path.json", "--dataset", "tiktok", "--min-interactions", 20)
    assert call(preprocess_inter.main, *options) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.count("error:") == 1
    assert [path.name for path in other.iterdir()] == ["precious"] and (other / "precious").read_text() == "kept"


def test_a_line_of_results_cannot_point_elsewhere(made, tmp_path, capsys):
    line = json.loads(made.results.read_text().splitlines()[0])
    path = tmp_path / "results.jsonl"
    bad = [{"run_id": "../../etc"}, {"run_id": "g" * 12}, {"task": "../wechat_click"}, {"task": EVIL}]
    for change in (*bad, {"variant": "../../etc"}, {"variant": EVIL}):
        path.write_text("\n".join(map(json.dumps, [line | change, line])) + "\n")
        assert [(result.run_id, result.variant) for result in read_results(path)] == [(line["run_id"], line["variant"])]
        assert capsys.readouterr().err.count("results.jsonl:1: not a result") == 1, change


@pytest.mark.parametrize("task", ["../x_like", "tiktok_../like", "tiktok_like/..", ""])
def test_a_task_is_a_name_and_no_path(made, capsys, task):
    assert call(preprocess_multimodal.main, "--paths", made.file, "--dataset", "tiktok/..") == 2
    import mlp

    assert call(mlp.main, "--paths", made.file, "--task", task) == 2
    assert "Traceback" not in capsys.readouterr().err


class Elements(HTMLParser):
    """Collects the elements of a page, and the attributes that could run code."""

    def __init__(self):
        super().__init__()
        self.names, self.handlers = Counter(), []

    def handle_starttag(self, tag, attrs):
        self.names[tag] += 1
        self.handlers += [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")]


def elements(text):
    found = Elements()
    found.feed(text)
    return found


def test_nothing_of_the_data_becomes_a_part_of_the_report(made, tmp_path, without_umap):
    """Markup in folder names and in a line of results is plain text in the page and in the pictures."""
    folder = tmp_path / "<img src=x onerror=alert(1)><b>"
    shutil.copytree(made.file.parent, folder)
    options = ("--paths", folder / "path.json", "--task", "tiktok_like", "--points", 30)
    assert call(viewer.main, *options) == 0
    report = folder / "saved/report.html"
    usual = elements(report.read_text())
    path = folder / "saved/results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["protocol"] |= {"loss": EVIL, "scaling": EVIL}
        line |= {"commit": EVIL, "device": EVIL}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert call(viewer.main, *options) == 0
    text = report.read_text()
    found = elements(text)
    assert "&lt;img" in text and "<script>alert" not in text
    assert found.names == usual.names and not found.handlers and not usual.handlers
    for picture in (folder / "saved/figures").glob("*.svg"):
        assert "<script" not in picture.read_text() and "<img" not in picture.read_text()


FUNCTIONS = {"eval", "exec", "compile", "__import__"}
METHODS = {"system", "popen", "getoutput", "unsafe_load"}
MODULES = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}


def test_nothing_evaluates_or_unpickles():
    """The syntax trees of all sources have no eval, pickle, shell or load that allows objects."""
    assert len(SOURCES) > 50
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names}
                names.add((getattr(node, "module", None) or "").split(".")[0])
                assert not names & MODULES, where
            if isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                owner = getattr(getattr(function, "value", None), "id", "")
                assert name not in (FUNCTIONS if isinstance(function, ast.Name) else METHODS), where
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                for option in ("shell", "allow_pickle"):
                    value = given.get(option)
                    assert value is None or (isinstance(value, ast.Constant) and value.value is False), where
                assert (owner, name) != ("torch", "load") or "weights_only" in given, where
                assert (owner, name) != ("yaml", "load"), where
