"""Settings of libraries that must stand in the environment before they are loaded: how threads wait, where compiled
code is kept. Processes that are started from here inherit them.

Importing the package applies them. A script that imports torch itself imports this module first.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

# Threads of OpenMP spin while they wait for each other. With other processes on the cores two epochs of 2 million rows
# at batch 2048 took 594 s; alone one took 8 s, and 4.3 s with threads that sleep while they wait.
PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
NUMBA, MATPLOTLIB = "NUMBA_CACHE_DIR", "MPLCONFIGDIR"


def wait_passively(environ: MutableMapping[str, str]) -> None:
    """Let waiting threads sleep, where the user has not said how they wait."""
    if not any(name in environ for name in (*PASSIVE, "GOMP_SPINCOUNT")):
        environ.update(PASSIVE)


def writable(folder: Path) -> bool:
    """Whether a folder, or the nearest one above it that is there, can be written."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def home_caches(environ: MutableMapping[str, str]) -> list[Path]:
    """Where libraries keep what they have compiled or found out, below the user's home; empty where there is none."""
    try:
        home = Path.home()
    except RuntimeError:
        return []
    places = {"XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config"}
    return [Path(environ.get(name) or home / usual) for name, usual in places.items()]


def fall_back_to_temporary_caches(environ: MutableMapping[str, str], sources: Iterable[Path]) -> Path | None:
    """Give numba and matplotlib a temporary folder, returned, where they could write none of their usual ones.

    Without it numba refuses to load a function that it is to keep, and matplotlib prints lines of advice.

    Args:
        sources: folders of modules with compiled functions; numba keeps them beside the module where it can.
    """
    caches = home_caches(environ)
    if caches and all(map(writable, caches)):
        return None
    wanted = [MATPLOTLIB, *([] if all(map(writable, sources)) else [NUMBA])]
    missing = [name for name in wanted if name not in environ]
    if not missing:
        return None
    with suppress(OSError):  # then no folder can be written at all, and the libraries say so
        folder = Path(tempfile.mkdtemp(prefix="mma4ctr-"))
        environ.update(dict.fromkeys(missing, str(folder)))
        return folder
    return None


def _compiled_sources() -> list[Path]:
    found = [Path(__file__).parents[1] / "storage"]
    for name in ("umap", "pynndescent"):
        with suppress(ImportError, ValueError):
            if (spec := find_spec(name)) and spec.origin:
                found.append(Path(spec.origin).parent)
    return found


wait_passively(os.environ)
_temporary = fall_back_to_temporary_caches(os.environ, _compiled_sources())
if _temporary:
    atexit.register(shutil.rmtree, _temporary, ignore_errors=True)
