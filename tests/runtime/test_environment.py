"""What importing the package sets for the process."""

import os
import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Ten blocks of 20 MB, of which the last stays in use. The first, larger block makes glibc raise its threshold.
FREED = """
import re
from pathlib import Path
import {module}
import numpy as np

def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

np.ones(30 << 17)
before = resident()
blocks = [np.ones(20 << 17) for _ in range(10)]
del blocks[:-1]
print(resident() - before)
"""


def mb_after_freeing(module, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    code = FREED.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=kept | variables, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_goes_back_to_the_system():
    assert mb_after_freeing("numpy") > 150
    assert mb_after_freeing("mma4ctr") < 40
    for own in ({"MALLOC_MMAP_THRESHOLD_": str(1 << 25)}, {"GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={1 << 25}"}):
        assert mb_after_freeing("mma4ctr", **own) > 150
