"""A Figure as SVG inside a page: text stays text, colours are the page's own, the same figure gives the same bytes.

Owns the style that matplotlib draws in, and the step from its file to markup.
"""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from evaluation.plots import BLUE, VERMILION
from lifecycle.data_report import figures
from lifecycle.data_report.html import Html, element, joined, trusted

METADATA = ("Date", "Creator", "Format", "Type")  # of which a drawing has none: it would differ from day to day
VARIABLES = {
    BLUE: "--blue",
    VERMILION: "--vermilion",
    figures.SKY: "--sky",
    figures.ORANGE: "--orange",
    figures.GREEN: "--green",
    figures.PINK: "--pink",
    figures.INK: "--ink",
    figures.MUTED: "--muted",
    figures.FAINT: "--faint",
    figures.STILL: "--still",
    figures.PAPER: "--paper",
}
STYLE = {
    "font.size": figures.FONT_SIZE,
    "axes.labelsize": figures.FONT_SIZE,
    "xtick.labelsize": figures.FONT_SIZE,
    "ytick.labelsize": figures.FONT_SIZE,
    "legend.fontsize": figures.FONT_SIZE,
    "legend.frameon": False,
    "legend.handlelength": 1.0,
    "legend.handleheight": 0.8,
    "xtick.major.pad": 6.0,  # clear of the label at the foot of the other axis
    "text.color": figures.INK,
    "axes.labelcolor": figures.MUTED,
    "axes.edgecolor": figures.MUTED,
    "xtick.color": figures.MUTED,
    "ytick.color": figures.MUTED,
    "xtick.labelcolor": figures.MUTED,
    "ytick.labelcolor": figures.INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",
}
COLOUR = re.compile("(fill|stroke): (#[0-9a-f]{6})")
GROUP_ID = re.compile(r'<g id="[^"]*_\d+"')  # of matplotlib's counters: the same in every drawing, and named by none
GLOBAL_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)


def drawn(draw: Callable[[], Figure], *, name: str, description: str, width: str = "") -> Html:
    """The figure that `draw` makes, as an inline drawing.

    Args:
        draw: makes the figure; called in the report's style.
        name: of the drawing, distinct within a page: ids inside it are made from it.
        description: what it shows, for those who cannot see it.
        width: "wide" or "narrow" for a drawing that is shown on such a page alone.
    """
    content = io.StringIO()
    style: Any = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        # Not Figure.savefig, which draws everything twice.
        canvas = FigureCanvasSVG(draw())
        canvas.print_svg(content, metadata=dict.fromkeys(METADATA))  # type: ignore[no-untyped-call]
    markup = content.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = GLOBAL_STYLE.sub("", GROUP_ID.sub("<g", markup), count=1)
    markup = COLOUR.sub(lambda found: f"{found[1]}: {_variable(found[2])}", markup)
    classes = f"drawing {width}".strip()
    return element("div", trusted(markup), attributes={"class": classes, "role": "img", "aria-label": description})


def _variable(colour: str) -> str:
    name = {own.lower(): variable for own, variable in VARIABLES.items()}.get(colour)
    return f"var({name})" if name else colour


def drawn_for_both(draw: Callable[[float], Figure], *, name: str, description: str) -> Html:
    """Two drawings of one figure, of which a page shows the one that fits its width."""
    return joined(
        drawn(lambda: draw(figures.WIDE), name=f"{name}-wide", description=description, width="wide"),
        drawn(lambda: draw(figures.NARROW), name=f"{name}-narrow", description=description, width="narrow"),
    )
