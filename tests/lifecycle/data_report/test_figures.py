"""Plots with the longest names and numbers that they may meet: nothing overlaps, nothing leaves the drawing."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from evaluation.plots import BLUE
from features.spec import DAY_MS
from lifecycle.data_report import figures
from lifecycle.data_report.drawing import STYLE, drawn

FIRST_AT_MS = 17_167 * DAY_MS
LONG = "a_column_with_a_very_long_name_indeed"
WIDTHS = (figures.NARROW, figures.WIDE)


def bars_of(names: tuple[str, ...], num: int = 52) -> pd.DataFrame:
    edges = FIRST_AT_MS + 7 * DAY_MS * np.arange(num + 1)
    index = pd.MultiIndex.from_arrays([edges[:-1], edges[1:]], names=["start_ms", "end_ms"])
    return pd.DataFrame({name: np.arange(num) * 40_000 + 1_000_000 for name in names}, index=index)


def spans_of(names: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        (name, 11_469_293, *(FIRST_AT_MS + (90 * place + days) * DAY_MS for days in (0, 9, 45, 80, 89)))
        for place, name in enumerate(names)
    ]
    return pd.DataFrame(rows, columns=["split", "num_events", "first_ms", "low_ms", "middle_ms", "high_ms", "last_ms"])


SPLITS = ("train", "ranking", "validation", "test")
COLD = [
    (f"{what},\n{split}", known, share, f"{100 * share:.1f} % of 11,149,629")
    for what, share in (("cold queries", 1.0), ("unseen items", 0.002))
    for split, known in (("test", "train"), ("test", "all before test"), ("validation", "train"))
]
LABELS = [
    (split, source, says, 1_000_000)
    for split in SPLITS
    for source, says in (
        ("explicit", "negative"),
        ("explicit", "positive"),
        ("implicit", "positive"),
        ("assumed", "skipped"),
    )
]
DRIFT = pd.DataFrame(
    [(f"{LONG}_{place}", "KS", 1.0 - place / 40, 0.9 * place / 40) for place in range(40)],
    columns=["feature", "measure", "value", "random_split"],
)
MISSING = pd.DataFrame(
    [(f"items.{LONG}_{place}", 11_469_293 - 400_000 * place, 11_469_293) for place in range(24)],
    columns=["column", "num_missing", "num_rows"],
)
LENGTHS = pd.DataFrame(
    {"low": 2 ** np.arange(20), "high": 2 ** (np.arange(20) + 1) - 1, "number": 1_234_567 * (np.arange(20) + 1)}
)
RANKS = pd.DataFrame({"rank": np.geomspace(1, 10_000_000, 200).astype(int), "events": np.geomspace(5_000_000, 1, 200)})
CURVE = pd.DataFrame({"items": np.linspace(0, 1, 200), "events": np.linspace(0, 1, 200) ** 0.2})

FIGURES: dict[str, Callable[[], Figure]] = {
    **{
        f"split {width}": lambda width=width: figures.events_by_split(
            bars_of(SPLITS),
            spans_of(SPLITS),
            cuts=[("test", FIRST_AT_MS + 270 * DAY_MS)],
            calendar=True,
            width=width,
        )
        for width in WIDTHS
    },
    "kinds": lambda: figures.events_by_kind(
        bars_of(tuple(f"{LONG}{place}" for place in range(6))), calendar=True, width=figures.NARROW
    ),
    "one minute": lambda: figures.events_by_kind(
        bars_of(("a",), 1).set_axis(
            pd.MultiIndex.from_tuples([(FIRST_AT_MS, FIRST_AT_MS + 60_000)], names=["start_ms", "end_ms"])
        ),
        calendar=True,
        width=figures.NARROW,
    ),
    "order": lambda: figures.events_by_kind(bars_of(("a",)), calendar=False, width=figures.NARROW),
    "hours": lambda: figures.hours_of_week(np.full((7, 24), 12_345_678)),
    "rank": lambda: figures.items_by_rank(RANKS, num_items=10_000_000),
    "concentration": lambda: figures.concentration(CURVE, num_items=10_000_000),
    "lengths": lambda: figures.lengths(LENGTHS, what="queries", marks=[("tower: 50", 50), ("stored: 1,000", 1_000)]),
    "cold": lambda: figures.cold_shares(pd.DataFrame(COLD, columns=["what", "known", "share", "label"])),
    "labels": lambda: figures.label_shares(pd.DataFrame(LABELS, columns=["split", "source", "says", "number"])),
    **{f"missing {width}": lambda width=width: figures.missing_shares(MISSING, width=width) for width in WIDTHS},
    **{f"drift {width}": lambda width=width: figures.drift(DRIFT, width=width) for width in WIDTHS},
}


def tick_labels(axis: Axis) -> Iterator[Text]:
    low, high = sorted(axis.get_view_interval())
    yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)
    yield from (axis.label, axis.offsetText)


def texts_of(figure: Figure) -> dict[str, Bbox]:
    """Where each text of a figure lies, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found: list[Text] = []
    for axes in figure.axes:
        found += [*tick_labels(axes.xaxis), *tick_labels(axes.yaxis), *axes.texts]
        legend = axes.get_legend()
        found += legend.get_texts() if legend else []
    shown = [text for text in found if text.get_visible() and text.get_text()]
    return {
        f"{place} {text.get_text()}": text.get_window_extent(canvas.get_renderer()) for place, text in enumerate(shown)
    }


@pytest.mark.parametrize("name", FIGURES)
def test_no_two_texts_overlap_and_none_leaves_the_drawing(name: str) -> None:
    style: Any = STYLE
    with matplotlib.rc_context(style):
        figure = FIGURES[name]()
        places = texts_of(figure)
    assert len(places) > 4
    for (one, first), (other, second) in combinations(places.items(), 2):
        shared = Bbox.intersection(first, second)
        assert shared is None or min(shared.width, shared.height) < 1.0, f"{one!r} lies over {other!r}"
    width, height = figure.canvas.get_width_height()
    for text, box in places.items():
        assert box.x0 > -1, text
        assert box.x1 < width + 1, text
        assert box.y0 > -1, text
        assert box.y1 < height + 1, text


def test_a_bar_of_drift_is_cut_where_a_random_split_ends() -> None:
    table = pd.DataFrame(
        [("far", "KS", 0.5, 0.2), ("near", "JS", 0.1, 0.3)], columns=["feature", "measure", "value", "random_split"]
    )
    (axes,) = figures.drift(table, width=figures.WIDE).axes
    grey, coloured = ([bar.get_width() for bar in bars] for bars in axes.containers)
    assert grey == pytest.approx([0.2, 0.1])
    assert coloured == pytest.approx([0.3, 0.0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["far (KS)", "near (JS)"]


def test_a_mark_lies_in_its_bar_by_the_logarithm() -> None:
    table = pd.DataFrame({"low": [1, 2, 4], "high": [1, 3, 7], "number": [5, 5, 5]})
    (axes,) = figures.lengths(table, what="queries", marks=[("three", 3)]).axes
    # Bars end at -0.5, 0.5, 1.5, 2.5, where lengths pass 0.5, 1.5, 3.5, 7.5: three lies in the middle bar.
    (line,) = axes.lines
    assert 0.5 < line.get_xdata()[0] < 1.5


def test_a_drawing_has_the_page_s_colours_and_text_that_is_text() -> None:
    markup = drawn(FIGURES["concentration"], name="lorenz", description='the "curve"')
    assert BLUE.lower() not in markup
    assert "stroke: var(--blue)" in markup
    assert ">of the events</text>" in markup
    assert 'aria-label="the &quot;curve&quot;"' in markup
    assert drawn(FIGURES["concentration"], name="lorenz", description='the "curve"') == markup


def test_two_drawings_of_a_page_share_no_id() -> None:
    import re

    one, other = (set(re.findall(r'id="([^"]+)"', drawn(FIGURES["rank"], name=name, description=""))) for name in "ab")
    assert one
    assert other
    assert one & other == set()
