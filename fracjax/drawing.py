"""Pictures of numbers, as SVG to be put into a page. Imports matplotlib, which is slow."""

import html
import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

VALUE = "{x:g}"
"""How heights are written."""

INK, FAINT, ACCENT, MARK = COLOURS = ("#010101", "#020202", "#030303", "#040404")
"""Stand for colours of the page, which knows whether it is light or dark."""

VARIABLES = dict(zip(COLOURS, ("--ink", "--faint", "--accent", "--mark"), strict=True))

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, and in the font of the page
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture with its words, as HTML.

    Attributes:
        title: Plain text.
        caption: Plain text: what is drawn, and what was left out.
        svg: An ``svg`` element that refers to nothing outside itself.
    """

    title: str
    caption: str
    svg: str


def blank(across: str, up: str = "", size: tuple[float, float] = (4.4, 2.5)) -> tuple[Figure, Axes]:
    """Make an empty plot, which belongs to no global list as one of pyplot's would.

    Args:
        across: What the horizontal axis is.
        up: What the vertical one is.
        size: Width and height, inches.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.yaxis.set_major_formatter(VALUE)
        axes.grid(linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, axes


def drawn(figure: Figure, title: str, caption: str) -> Drawing:
    """Draw a plot as SVG that takes its colours from the page and names nothing outside it.

    Args:
        figure: The plot.
        title: Plain text.
        caption: Plain text: what is drawn, of how many cases, and what was left out.
    """
    stream = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": title + caption}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    drawing = stream.getvalue().partition("<svg")[2]  # what stands before names a DTD
    attributes, _, content = drawing.partition(">")
    (box,) = re.findall(r'viewBox="[^"]*"', attributes)
    content = re.sub(r'<g id="[^"]*"', "<g", content)  # the same in each plot, and not referred to
    content = content.replace("xlink:href", "href")
    for colour, variable in VARIABLES.items():
        content = content.replace(colour, f"var({variable})")
    label = html.escape(f"{title}. {caption}")
    return Drawing(title, caption, f'<svg {box} role="img" aria-label="{label}">{content}')
