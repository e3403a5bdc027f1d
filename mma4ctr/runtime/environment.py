"""What a process needs before libraries are loaded: how threads wait, where caches are, how memory is freed.

Importing the package sets it. A script that imports torch itself must import this module first.
"""

import atexit
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

# By default OpenMP threads spin while they wait. With other processes on the cores, two epochs of 2 million rows at
# batch size 2048 took 594 s. On an idle machine one epoch took 8 s, and 4.3 s with sleeping threads.
PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
# glibc raises the size from which a block is mapped on its own to the largest block freed, up to 32 MB. Smaller blocks
# come from heaps, which keep freed blocks as long as a later one is in use. With 8 MB for good, step 4 of WeChat at
# full size (features plus) has a third less memory for arrays, and takes no longer.
LARGEST_IN_HEAP = 1 << 23
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NUMBA, MATPLOTLIB = "NUMBA_CACHE_DIR", "MPLCONFIGDIR"


def wait_passively(environ: MutableMapping[str, str]) -> None:
    """Let waiting OpenMP threads sleep, unless the user has set one of the variables."""
    if not any(name in environ for name in (*PASSIVE, "GOMP_SPINCOUNT")):
        environ.update(PASSIVE)


def return_freed_memory(environ: MutableMapping[str, str]) -> None:
    """Let glibc return freed memory to the system, unless the user has set its thresholds; no effect elsewhere."""
    if "MALLOC_MMAP_THRESHOLD_" in environ or "glibc.malloc" in environ.get("GLIBC_TUNABLES", ""):
        return
    with suppress(OSError, TypeError, AttributeError):  # another system or C library
        set_option = ctypes.CDLL(None).mallopt
        set_option(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        set_option(M_TRIM_THRESHOLD, LARGEST_IN_HEAP)


def writable(folder: Path) -> bool:
    """Return whether the folder, or its nearest existing parent, can be written."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def home_caches(environ: MutableMapping[str, str]) -> list[Path]:
    """Return the cache and configuration folders in the user's home; empty if there is no home."""
    try:
        home = Path.home()
    except RuntimeError:
        return []
    places = {"XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config"}
    return [Path(environ.get(name) or home / usual) for name, usual in places.items()]


def fall_back_to_temporary_caches(environ: MutableMapping[str, str], sources: Iterable[Path]) -> Path | None:
    """Give numba and matplotlib a temporary cache folder if they cannot write to their default ones.

    Without a cache folder, numba refuses to load functions declared with `cache=True`, and matplotlib prints warnings.

    Args:
        environ: the environment variables to set.
        sources: folders of modules with compiled functions; numba prefers to cache beside the module.

    Returns:
        The temporary folder, or None if none was needed or none can be made.
    """
    caches = home_caches(environ)
    if caches and all(map(writable, caches)):
        return None
    wanted = [MATPLOTLIB, *([] if all(map(writable, sources)) else [NUMBA])]
    missing = [name for name in wanted if name not in environ]
    if not missing:
        return None
    with suppress(OSError):  # no folder is writable at all; the libraries will report it
        folder = Path(tempfile.mkdtemp(prefix="mma4ctr-"))
        environ.update(dict.fromkeys(missing, str(folder)))
        return folder
    return None


def _compiled_sources() -> list[Path]:
    found = [Path(__file__).parents[1] / room for room in ("storage", "simulation", "features/behavioral")]
    for name in ("umap", "pynndescent"):
        with suppress(ImportError, ValueError):
            if (spec := find_spec(name)) and spec.origin:
                found.append(Path(spec.origin).parent)
    return found


wait_passively(os.environ)
return_freed_memory(os.environ)
_temporary = fall_back_to_temporary_caches(os.environ, _compiled_sources())
if _temporary:
    atexit.register(shutil.rmtree, _temporary, ignore_errors=True)
