"""The package as others install it: a wheel with all its files, used outside the checkout."""

import ast
import os
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "mma4ctr"
COMMANDS = ("mma4ctr.simulation", "mma4ctr.evaluation", "mma4ctr.datasets")
# Modules of Python that some systems lack.
OF_ONE_SYSTEM = {"fcntl", "resource", "pwd", "grp", "termios", "msvcrt", "winreg"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the working tree."""
    pytest.importorskip("setuptools")
    out = tmp_path_factory.mktemp("wheel")
    build = (
        "import os, sys; os.chdir(sys.argv[1]); from setuptools.build_meta import build_wheel; build_wheel(sys.argv[2])"
    )
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "mma4ctr"):
        (source / name).symlink_to(ROOT / name)
    done = subprocess.run([sys.executable, "-c", build, source, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_data_file(wheel):
    there = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("mma4ctr/")}
    wanted = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix in (".py", ".json", ".toml")
    }
    assert there == wanted and {"mma4ctr/evaluation/published.json", "mma4ctr/simulation/__main__.py"} <= there


def test_commands_run_from_the_wheel_alone(wheel, tmp_path):
    """With the environment's packages, but without the checkout, which is installed there as editable."""
    folder, work = tmp_path / "installed", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(folder)
    packages = sysconfig.get_paths()["purelib"]
    # -S leaves out what the environment adds to the path, the editable checkout among it.
    run = "import runpy, sys; sys.argv = ['x', *sys.argv[2:]]; runpy.run_module({!r}, run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), packages])

    def started(module, *arguments):
        command = [sys.executable, "-S", "-c", run.format(module), module, *map(str, arguments)]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)

    for module in COMMANDS:
        done = started(module, "--help")
        assert done.returncode == 0 and "--" in done.stdout, done.stderr[-2000:]
    done = started("mma4ctr.simulation", "demo", "--rows", 2000, "--users", 20, "--items", 60, "--dataset", "tiktok")
    assert done.returncode == 0 and (work / "demo/path.json").is_file(), done.stderr[-2000:]
    where = "import mma4ctr; print(mma4ctr.__file__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", where], cwd=work, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(folder / "mma4ctr/__init__.py")


def test_no_module_needs_one_system_when_it_is_imported():
    """A module that only some systems have may be imported only inside a function that works without it."""
    for path in [*PACKAGE.rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "baseline").glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not names & OF_ONE_SYSTEM, f"{path}:{node.lineno}"
