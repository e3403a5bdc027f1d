"""`--help` answers at once: no script imports a library that takes long to load before it has parsed its options."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted(ROOT.glob("*.py")), ROOT / "baseline/comp.py"]
SLOW = {"matplotlib", "numba", "pandas", "plotly", "ray", "scipy", "sklearn", "torch", "umap"}


def imported(*words: object) -> set[str]:
    """Return the packages and modules of the top level that a command of Python imports."""
    command = [sys.executable, "-X", "importtime", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-500:]
    return set(re.findall(r"^import time:[^|]*\|[^|]*\| +(\w+)", done.stderr, re.M))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_help_imports_nothing_slow(script):
    found = imported(script, "--help")
    assert "argparse" in found  # the imports are seen at all
    slow = found & SLOW
    assert not slow
