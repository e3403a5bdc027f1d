"""Resources of this process on Linux, macOS and Windows: cores and memory."""

import sys
from pathlib import Path

import psutil


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    own = psutil.Process()
    if hasattr(own, "cpu_affinity"):  # not on macOS
        return len(own.cpu_affinity())
    return psutil.cpu_count() or 1


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage includes the memory of the process before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return float(memory.peak_wset) / 1e6
    try:
        import resource
    except ImportError:
        return float(memory.rss) / 1e6
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6
