"""The HTML of the report: one page with tables and interactive plots that needs no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mma4ctr.evaluation.figures import COLORS
from mma4ctr.evaluation.layouts import Layout
from mma4ctr.evaluation.run_records import MARKS

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 0 1rem 4rem; max-width: 72rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; } h3 { margin-bottom: 0.2rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.85rem; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #eee; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
.caption { color: #555; font-size: 0.85rem; max-width: 60rem; }
.leaky { color: #b00020; font-weight: 600; }
.plot { width: 100%; min-height: 420px; }
</style>
<script>$script</script>
</head>
<body>
<h1>$title</h1>
<p class="caption">$about</p>
<nav>$links</nav>
$body
</body>
</html>
""")


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Heading, as plain text.
        body: HTML; text that comes from data must be escaped already.
    """

    title: str
    body: str


def table_html(shown: Layout) -> str:
    """A table with its caption; the best values are bold, and columns of words start at the left."""
    firsts = ["".join(row[place][0][:1] for row in shown.rows) for place in range(len(shown.header))]
    # A column of words has no numbers; a column of numbers may have a word.
    words = [any(map(str.isalpha, found)) and not any(map(str.isdigit, found)) for found in firsts]
    kinds = [' class="text"' if of_words else "" for of_words in words]
    head = "".join(f"<th{kind}>{escape(cell)}</th>" for kind, cell in zip(kinds, shown.header, strict=True))
    rows = []
    for row in shown.rows:
        texts = (f"<b>{escape(text)}</b>" if best else escape(text) for text, best in row)
        cells = (f"<td{kind}>{text}</td>" for kind, text in zip(kinds, texts, strict=True))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = escape(shown.caption)
    for mark in MARKS:
        caption = caption.replace(mark, f'<span class="leaky">{mark}</span>')
    return (
        f'<p class="caption">{caption}</p><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def heading(text: str) -> str:
    """A heading within a section, from plain text."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str) -> str:
    """A paragraph, from plain text."""
    return f"<p>{escape(text)}</p>"


def plot_html(figure: go.Figure, title: str, name: str) -> str:
    """An interactive plot as wide as the page, below its title.

    Args:
        figure: The plot; its layout is set here.
        title: Plain text.
        name: Id of the HTML element.
    """
    margin = {"l": 50, "r": 10, "t": 30, "b": 45}
    figure.update_layout(template="plotly_white", autosize=True, height=430, margin=margin, colorway=list(COLORS))
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "itemsizing": "constant"})
    inner: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"responsive": True, "displaylogo": False}
    )
    return f'{heading(title)}<div class="plot">{inner}</div>'


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    diagonal: bool = False,
    markers: bool = False,
) -> go.Figure:
    """A line plot.

    Args:
        curves: (x, y) of each curve by name.
        x: Label of the x axis.
        y: Label of the y axis.
        diagonal: Also draw the line from (0, 0) to the largest value.
        markers: Mark the points of the curves.
    """
    figure = go.Figure()
    if diagonal:
        end = max((value for curve in curves.values() for part in curve for value in part), default=1.0) or 1.0
        figure.add_scatter(
            x=[0, end], y=[0, end], mode="lines", line={"dash": "dot", "color": "#888"}, showlegend=False
        )
    for name, (xs, ys) in curves.items():
        figure.add_scatter(x=list(xs), y=list(ys), mode="lines+markers" if markers else "lines", name=escape(name))
    figure.update_layout(xaxis_title=x, yaxis_title=y)
    return figure


def points_in_space(points: Sequence[Sequence[float]], group: Sequence[str], hover: Sequence[str]) -> go.Figure:
    """A 3-d scatter plot that can be rotated.

    Args:
        points: (n, 3).
        group: (n,) name of each point's group, which sets its colour.
        hover: (n,) text that each point shows on hover.
    """
    figure = go.Figure()
    for position, name in enumerate(dict.fromkeys(group)):
        own = [i for i, one in enumerate(group) if one == name]
        figure.add_scatter3d(
            x=[round(float(points[i][0]), 3) for i in own],
            y=[round(float(points[i][1]), 3) for i in own],
            z=[round(float(points[i][2]), 3) for i in own],
            mode="markers",
            name=escape(name),
            marker={"size": 2.5, "color": COLORS[position], "opacity": 0.7},
            text=[escape(hover[i]) for i in own],
            hoverinfo="text",
        )
    axes = {f"{axis}axis": {"title": f"UMAP {i}"} for i, axis in enumerate("xyz", 1)}
    figure.update_layout(scene={**axes, "aspectmode": "cube", "camera": {"eye": {"x": 1.6, "y": 1.6, "z": 0.9}}})
    return figure


def page(title: str, about: str, sections: Sequence[Section]) -> str:
    """The whole page as HTML.

    Args:
        title: Plain text.
        about: One sentence below the title, plain text.
        sections: The parts of the page in order.
    """
    links = " ".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(f'<section id="s{i}"><h2>{escape(s.title)}</h2>{s.body}</section>' for i, s in enumerate(sections))
    return PAGE.substitute(title=escape(title), about=escape(about), links=links, body=body, script=get_plotlyjs())
