"""How every figure looks, and how it is saved: PNG and SVG under `saved_path/figures/`, never a window.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart; lines also differ in marker
and dash, so that they hold in a black and white print.
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
    """A figure with `count` panels, two or three to a row, in the common style; inches are per panel."""
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
    """Colour, marker and dash of one line after the other."""
    for color, marker, dash in zip(cycle(COLORS), cycle(MARKERS), cycle(DASHES), strict=False):
        yield {"color": color, "marker": marker, "linestyle": dash}


def protocol_words(runs: Sequence[Result]) -> str:
    """Split, evidence and loss of the runs that a figure shows, for its title; what saw test labels is LEAKY."""

    def all_of(key: str) -> str:
        return " and ".join(dict.fromkeys(str(run.protocol[key]) for run in runs))

    words = [f"{all_of('split')} split", f"evidence {all_of('evidence')}", f"loss {all_of('loss')}"]
    return ", ".join(words + ["LEAKY"] * any(run.leaky for run in runs))


def set_title(axis: Axes, title: str, runs: Sequence[Result]) -> None:
    """A title with the protocol of the runs under it."""
    axis.set_title(f"{title}\n{protocol_words(runs)}", fontsize=9)


def save_figure(figure: Figure, paths: Paths, name: str) -> Path:
    """Write `saved_path/figures/<name>.png` and `.svg`; returns the PNG."""
    path = paths.saved / "figures" / f"{name}.png"
    for kind in ("png", "svg"):
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
        write_own_file(path.with_suffix(f".{kind}"), content.getvalue())
    return path
