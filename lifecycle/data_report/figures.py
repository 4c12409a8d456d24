"""The report's plots, each a function from a table to a Figure.

Owns colours, sizes and axes. The finding of a plot stands beside it in the page as text, where it wraps on a phone, can
be selected and is read aloud; axes carry units and n. Sets no backend and no global state.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from evaluation.plots import BLUE, VERMILION
from features.sources.files import FIRST_MADE_AT_MS
from lifecycle.data_report.html import THIN, shown

# The other colours of Okabe and Ito that stand out on white and on black.
SKY, ORANGE, GREEN, PINK = "#56B4E9", "#E69F00", "#009E73", "#CC79A7"
# Neutral colours; drawing.py turns all of these into the page's own, which differ by day and by night.
INK, MUTED, FAINT, STILL, PAPER = "#1B1F24", "#5B6570", "#DDE2E7", "#CFD6DD", "#FFFFFE"
COLOUR_OF_SPLIT = {"train": BLUE, "ranking": SKY, "validation": ORANGE, "test": VERMILION}
KIND_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, MUTED)
LABEL_COLOURS = {"positive": BLUE, "negative": VERMILION, "skipped": ORANGE}
DASHES = (0, (3, 2))
HAIR = "\u200a"  # the thinnest space
ONE_POWER = 50  # below it, powers of ten alone would be too few marks on an axis
LETTERS_BELOW = 44  # what fits below a narrow plot
NAME_LETTERS = {True: 24, False: 40}  # of a feature or column beside a narrow plot, or a wide one
NARROW, WIDE = 4.6, 9.4  # inches: half the page or a phone, and the whole page
FONT_SIZE = 8


def events_by_split(
    table: pd.DataFrame, spans: pd.DataFrame, *, cuts: Sequence[tuple[str, int]], calendar: bool, width: float
) -> Figure:
    """Events a bar of time, stacked by split; below, when each split's first, middle and last events happened."""
    figure = _figure(width, height=2.2 + 0.24 * len(spans))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.0, 0.3 + 0.24 * len(spans)])
    _stack(upper, table, colours=[COLOUR_OF_SPLIT[name] for name in table.columns], calendar=calendar)
    for place, row in enumerate(spans.to_dict("records")):
        colour = COLOUR_OF_SPLIT[row["split"]]
        first, low, middle, high, last = (
            _instants(row[f"{name}_ms"], calendar) for name in ("first", "low", "middle", "high", "last")
        )
        lower.plot([first, last], [place, place], color=colour, linewidth=1, solid_capstyle="butt")
        lower.plot([low, high], [place, place], color=colour, linewidth=6, solid_capstyle="butt")
        lower.plot([middle], [place], marker="o", markersize=4, markerfacecolor=PAPER, markeredgecolor=colour)
    lower.set_yticks(range(len(spans)), [f"{row.split}, n = {row.num_events:,}" for row in spans.itertuples()])
    lower.set_ylim(len(spans) - 0.4, -0.6)
    for _, at_ms in cuts:
        for axes in (upper, lower):
            axes.axvline(_instants(at_ms, calendar), color=INK, linewidth=0.9, linestyle=DASHES)
    lower.margins(x=0.01)
    _bare(lower, left=True)
    _time_axis(lower, calendar)
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
    return figure


def events_by_kind(table: pd.DataFrame, *, calendar: bool, width: float) -> Figure:
    """Events a bar of time, stacked by the kind of event."""
    figure = _figure(width, height=2.3)
    axes = figure.subplots()
    _stack(axes, table, colours=KIND_COLOURS[: table.shape[1]], calendar=calendar)
    _time_axis(axes, calendar)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2 if width < WIDE else 4, borderaxespad=0)
    return figure


def hours_of_week(counts: NDArray[np.int64]) -> Figure:
    """Events by weekday and hour, the more the darker; counts is [7, 24]."""
    figure = _figure(NARROW, height=1.9)
    axes = figure.subplots()
    weekdays, hours = np.divmod(np.arange(7 * 24), 24)
    parts = counts.ravel() / max(int(counts.max()), 1)
    # Opacity, so that few is near the paper by day and by night.
    colours = [to_rgba(BLUE, alpha=0.04 + 0.96 * float(part)) for part in parts]
    axes.barh(weekdays, 0.9, left=hours + 0.05, height=0.9, color=colours, linewidth=0)
    axes.set_yticks(range(7), ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])
    axes.set_ylim(6.5, -0.5)
    axes.set_xlim(0, 24)
    axes.set_xticks(range(0, 25, 6))
    axes.set_xlabel(f"hour of the day, UTC (n = {counts.sum():,} events)")
    _bare(axes, left=True)
    axes.grid(visible=False)
    return figure


def items_by_rank(table: pd.DataFrame, *, num_items: int) -> Figure:
    """Events of each item by its rank, both axes by powers of ten."""
    figure = _figure(NARROW, height=2.4)
    axes = figure.subplots()
    axes.plot(table["rank"], table["events"], color=BLUE, linewidth=2, marker="o" if num_items < 2 else None)
    axes.fill_between(table["rank"], table["events"], 0.8, color=BLUE, alpha=0.12, linewidth=0)
    for axis, setter, most in (
        (axes.xaxis, axes.set_xscale, num_items),
        (axes.yaxis, axes.set_yscale, int(table["events"].max())),
    ):
        setter("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if most < ONE_POWER else (1.0,)))
        axis.set_major_formatter(FuncFormatter(_short))
        axis.set_minor_locator(NullLocator())
    axes.set_ylim(0.8, 1.6 * int(table["events"].max()))
    axes.set_xlim(0.9, 1.2 * num_items)
    axes.set_xlabel(f"rank of the item (n = {num_items:,} items with events)")
    axes.set_ylabel("events")
    _bare(axes)
    return figure


def concentration(table: pd.DataFrame, *, num_items: int) -> Figure:
    """The share of events that the most popular items have, as their share of the items grows."""
    figure = _figure(NARROW, height=2.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=DASHES)
    axes.annotate("every item alike", (0.66, 0.6), color=MUTED, va="top")
    axes.plot(table["items"], table["events"], color=BLUE, linewidth=2)
    axes.fill_between(table["items"], table["items"], table["events"], color=BLUE, alpha=0.12, linewidth=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_percent))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"of the items, the most popular first (n = {num_items:,})")
    axes.set_ylabel("of the events")
    _bare(axes)
    return figure


def lengths(table: pd.DataFrame, *, what: str, marks: Sequence[tuple[str, int]]) -> Figure:
    """How many queries (or items) have how many events; marks are lengths worth a line."""
    figure = _figure(NARROW, height=2.4)
    axes = figure.subplots()
    places = np.arange(len(table))
    axes.bar(places, table["number"], width=0.92, color=BLUE)
    names = [f"{row.low:,}" for row in table.itertuples()]
    step = next(step for step in range(1, len(places) + 1) if len(" ".join(names[::step])) <= LETTERS_BELOW)
    axes.set_xticks(places[::step], names[::step])
    for name, length in marks:
        place = np.log2(length + 0.5) - 0.5  # within its bar by the logarithm, as the bars double
        axes.axvline(place, color=INK, linewidth=0.9, linestyle=DASHES)
        axes.annotate(name, (place, 1), xycoords=("data", "axes fraction"), va="bottom", ha="center", color=MUTED)
    axes.set_xlabel(f"events, at least (n = {int(table['number'].sum()):,} {what})")
    axes.set_ylabel(what)
    _counts_axis(axes)
    _bare(axes)
    return figure


def cold_shares(table: pd.DataFrame) -> Figure:
    """Shares as bars in groups: what (the group), known, share, label."""
    groups = list(dict.fromkeys(table["what"]))
    figure = _figure(NARROW, height=0.7 + 0.42 * len(table))
    axes = figure.subplots()
    place, ticks = 0.0, []
    colours = {"train": BLUE, "all before test": ORANGE}
    for group in groups:
        rows = table[table["what"] == group].to_dict("records")
        ticks.append(place + (len(rows) - 1) / 2)
        for row in rows:
            axes.barh(place, row["share"], height=0.8, color=colours[row["known"]])
            _beside(axes, row["label"], row["share"], place)
            place += 1
        place += 0.5
    axes.set_yticks(ticks, groups)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_xlim(0, max(1.35 * float(table["share"].max()), 0.01))
    for name, colour in colours.items():
        if (table["known"] == name).any():
            axes.barh([place], [0], color=colour, label=f"knowing {name}")
    axes.set_ylim(place - 0.9, -0.6)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    _bare(axes, left=True)
    axes.grid(axis="y", visible=False)
    return figure


def label_shares(table: pd.DataFrame) -> Figure:
    """What the labels of each split say and where they come from: split, source, says, number."""
    splits = list(dict.fromkeys(table["split"]))
    kinds = list(dict.fromkeys(zip(table["source"], table["says"], strict=True)))
    figure = _figure(NARROW, height=0.8 + 0.3 * len(splits))
    axes = figure.subplots()
    totals = table.groupby("split")["number"].sum()
    left = np.zeros(len(splits))
    for source, says in kinds:
        of_kind = table[(table["source"] == source) & (table["says"] == says)].set_index("split")["number"]
        shares = np.array([of_kind.get(split, 0) / totals[split] for split in splits])
        colour = SKY if (source, says) == ("implicit", "positive") else LABEL_COLOURS[says]
        axes.barh(
            range(len(splits)),
            shares,
            left=left,
            height=0.7,
            color=colour,
            hatch="////" if source == "assumed" else None,
            edgecolor=PAPER,
            linewidth=0.6,
            label=_legend_name(f"{source} {says}"),
        )
        left += shares
    axes.set_yticks(range(len(splits)), [f"{split}, n = {totals[split]:,}" for split in splits])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_xlabel("of the split's events")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    _bare(axes, left=True)
    return figure


def missing_shares(table: pd.DataFrame, *, width: float) -> Figure:
    """The share of rows in which a column says nothing."""
    figure = _figure(width, height=0.6 + 0.24 * len(table))
    axes = figure.subplots()
    shares = (table["num_missing"] / table["num_rows"]).to_numpy()
    axes.barh(range(len(table)), shares, height=0.72, color=BLUE)
    for place, (part, number) in enumerate(zip(shares, table["num_missing"], strict=True)):
        _beside(axes, f"{number:,}", part, place)
    _names(axes, table["column"].tolist(), width=width)
    axes.set_xlim(0, min(1.25 * float(shares.max()), 1.15))
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_xlabel("missing, of the table's rows")
    _bare(axes, left=True)
    return figure


def drift(table: pd.DataFrame, *, width: float) -> Figure:
    """Each feature's drift, split at what a random split shows: feature, measure, value, random_split."""
    figure = _figure(width, height=0.7 + 0.2 * len(table))
    axes = figure.subplots()
    places = np.arange(len(table))
    value, noise = table["value"].to_numpy(), table["random_split"].to_numpy()
    axes.barh(places, np.minimum(value, noise), height=0.7, color=STILL, label="as much as a random split")
    axes.barh(places, np.maximum(value - noise, 0), left=noise, height=0.7, color=VERMILION, label="beyond it")
    axes.vlines(noise, places - 0.42, places + 0.42, color=INK, linewidth=1)
    letters = NAME_LETTERS[width < WIDE] - len(" (KS)")
    pairs = zip(table["feature"], table["measure"], strict=True)
    names = [f"{shown(name, length=letters)} ({measure})" for name, measure in pairs]
    _names(axes, names, width=width)
    axes.set_xlim(0, max(1.08 * float(max(value.max(), noise.max())), 0.02))
    axes.set_xlabel("0 the same distribution, 1 nothing in common")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    _bare(axes, left=True)
    return figure


def _figure(width: float, *, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _stack(axes: Axes, table: pd.DataFrame, *, colours: Sequence[str], calendar: bool) -> None:
    starts, ends = (table.index.get_level_values(name).to_numpy() for name in ("start_ms", "end_ms"))
    edges = _instants(np.append(starts, ends[-1]), calendar)
    below = np.zeros(len(table))
    for name, colour in zip(table.columns, colours, strict=True):
        above = below + table[name].to_numpy()
        axes.stairs(above, edges, baseline=below, fill=True, color=colour, label=_legend_name(str(name)))
        below = above
    axes.set_ylim(0, 1.05 * float(below.max()))
    axes.margins(x=0.01)
    axes.set_ylabel("events")
    _counts_axis(axes)
    _bare(axes)


def _instants(at_ms: NDArray[np.int64] | int, calendar: bool) -> NDArray[np.datetime64] | NDArray[np.int64]:
    plain = np.asarray(at_ms, dtype=np.int64)
    return plain.astype("datetime64[ms]") if calendar else (plain - FIRST_MADE_AT_MS) // 1000


def _time_axis(axes: Axes, calendar: bool) -> None:
    if calendar:
        locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.set_xlabel("UTC")
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("order of the log, in seconds that stand for time")


def _names(axes: Axes, names: Sequence[str], *, width: float) -> None:
    length = NAME_LETTERS[width < WIDE]
    axes.set_yticks(range(len(names)), [shown(name, length=length) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)


def _counts_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))


def _legend_name(text: str) -> str:
    """A name for a legend, which leaves out those that begin with an underscore."""
    name = shown(text, length=20)
    return HAIR + name if name.startswith("_") else name


def _beside(axes: Axes, text: str, end: float, place: float) -> None:
    """What a bar says, after its end."""
    axes.annotate(text, (end, place), xytext=(3, 0), textcoords="offset points", va="center", color=INK)


def _percent(value: float, place: int | None) -> str:
    return f"{round(100 * value, 6):g}{THIN}%" if value <= 1 else ""  # an axis may be longer for the text at its bars


def _thousands(value: float, place: int | None) -> str:
    return f"{value:,.0f}"


def _short(value: float, place: int | None) -> str:
    """A power of ten in few letters."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= unit:
            return f"{value / (1e3 if name == 'k' else unit):,.0f}{name}"
    return f"{value:,.0f}"


def _bare(axes: Axes, *, left: bool = False) -> None:
    """Only the lines that help to read: no frame, and a grid across the bars (`left`: bars that grow to the right)."""
    axes.spines[["top", "right", *(["left"] if left else [])]].set_visible(False)
    axes.grid(axis="x" if left else "y", color=FAINT, linewidth=0.7)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
