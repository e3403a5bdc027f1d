"""The style of all figures. They are saved as PNG and SVG under `saved_path/figures/`; no window opens.

The colours are those of Okabe and Ito, which are distinct for any colour vision. Lines also differ in marker and dash,
so that they can be distinguished in print without colour.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mma4ctr.evaluation.run_records import Result
from mma4ctr.storage.files import write_own_file
from mma4ctr.storage.paths import Paths

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
NEGATIVE, POSITIVE = COLORS[0], COLORS[1]
STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "mma4ctr",
}


@contextmanager
def panels(count: int, *, width: float = 3.6, height: float = 2.9) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with several panels in the common style, two or three in a row.

    Args:
        count: Number of panels.
        width: Inches per panel.
        height: Inches per panel.

    Yields:
        The figure and its `count` axes. The figure is closed at the end of the block.
    """
    columns = 2 if count == 4 else min(3, count)
    rows = -(-count // columns)
    with mpl.rc_context(STYLE):
        size = (max(4.2, width * columns), height * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        flat = list(grid.ravel())
        for unused in flat[count:]:
            unused.remove()
        try:
            yield figure, flat[:count]
        finally:
            plt.close(figure)


def line_styles() -> Iterator[dict[str, Any]]:
    """Yield colour, marker and dash for one line after another."""
    for color, marker, dash in zip(cycle(COLORS), cycle(MARKERS), cycle(DASHES), strict=False):
        yield {"color": color, "marker": marker, "linestyle": dash}


def describe_protocol(runs: Sequence[Result]) -> str:
    """Split, evidence and loss of the runs in a figure, and the marks of the runs, such as LEAKY."""

    def all_of(key: str) -> str:
        return " and ".join(dict.fromkeys(str(run.protocol[key]) for run in runs))

    parts = [f"{all_of('split')} split", f"evidence {all_of('evidence')}", f"loss {all_of('loss')}"]
    return ", ".join(parts + list(dict.fromkeys(mark for run in runs for mark in run.marks)))


def set_title(axis: Axes, title: str, runs: Sequence[Result]) -> None:
    """Set a title with the protocol of the runs below it."""
    axis.set_title(f"{title}\n{describe_protocol(runs)}", fontsize=9)


def save_figure(figure: Figure, paths: Paths, name: str) -> Path:
    """Write `saved_path/figures/<name>.png` and `.svg`; return the path of the PNG."""
    path = paths.saved / "figures" / f"{name}.png"
    for kind in ("png", "svg"):
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
        write_own_file(path.with_suffix(f".{kind}"), content.getvalue())
    return path
