"""Time: when the events happened, where the splits lie, and what kinds of events there are."""

import numpy as np
import pandas as pd

from features.sources.files import FIRST_MADE_AT_MS
from features.spec import DAY_MS
from lifecycle.data_report import figures, over_time
from lifecycle.data_report.drawing import drawn, drawn_for_both
from lifecycle.data_report.drift import WEEKDAYS
from lifecycle.data_report.html import Html, count, counted, day, joined, quoted, share, table, whole_share
from lifecycle.data_report.log import Log
from lifecycle.data_report.section import KeyNumber, Section, card, cards, note, numbers_behind


def time_section(log: Log) -> Section:
    """Events over time; of a log with at least one event."""
    calendar = over_time.has_calendar(log)
    bins = over_time.bins_of(log)
    first, last = int(log.at_ms.min()), int(log.at_ms.max())
    num_days = (last - first) / DAY_MS
    if calendar:
        finding = f"{counted(len(log), 'event')} from {day(first)} to {day(last)}: {_days(num_days)}."
        key = KeyNumber(_days(num_days), "of events", f"{day(first)} to {day(last)}")
    else:
        finding = (
            f"{counted(len(log), 'event')} in order but without times: instants were made from the order, so nothing "
            "that counts hours or days means what it says."
        )
        key = KeyNumber("no times", "events in order", "instants made from it")
    shown = [_by_split(log, bins, calendar=calendar), _by_kind(log, bins, calendar=calendar)]
    if calendar:
        shown.append(_by_hour(log))
    return Section("time", "Time", joined(finding), cards(*shown), (key,))


def _place(at_ms: int) -> str:
    return f"{(at_ms - FIRST_MADE_AT_MS) // 1000:,}"


def _days(number: float) -> str:
    return f"{number:,.0f} days" if number >= 2 else f"{24 * number:.0f} hours"


def _by_split(log: Log, bins: over_time.Bins, *, calendar: bool) -> Html:
    counts, spans = over_time.by_split(log, bins), over_time.spans(log)
    cuts = over_time.cuts(spans)
    drawing = drawn_for_both(
        lambda width: figures.events_by_split(counts, spans, cuts=cuts, calendar=calendar, width=width),
        name="split",
        description="Events over time by split, and the span of each split",
    )
    instant = day if calendar else _place
    rows = [
        (row["split"], count(row["num_events"]), *(instant(row[f"{name}_ms"]) for name in ("first", "middle", "last")))
        for row in spans.to_dict("records")
    ]
    legend = note(
        f"Below the bars: a line from a split's first event to its last, thick for the middle {whole_share(0.8)}, "
        "with a dot at the median."
    )
    return card(
        "Events by split",
        reading=_split_reading(spans, cuts, num_events=len(log), calendar=calendar),
        content=joined(drawing, legend, numbers_behind(table(["split", "events", "first", "median", "last"], rows))),
        wide=True,
    )


def _split_reading(spans: pd.DataFrame, cuts: list[tuple[str, int]], *, num_events: int, calendar: bool) -> str:
    instant = day if calendar else _place
    rows = {row["split"]: row for row in spans.to_dict("records")}
    if len(rows) == 1:
        return f"Every event is in {next(iter(rows))}: there is nothing to measure on."
    if len(cuts) == len(rows) - 1:
        begins = ", ".join(f"{name} at {instant(at_ms)}" for name, at_ms in cuts)
        train = rows.get("train")
        before = f" after {share(train['num_events'], num_events)} of the events" if train else ""
        return f"Cut in time for all queries alike{before}: {begins}."
    middles = [f"{name} {instant(row['middle_ms'])}" for name, row in rows.items()]
    own = "The splits overlap in time, as each query is cut in its own history"
    return f"{own}; the median events are: {', '.join(middles)}."


def _by_kind(log: Log, bins: over_time.Bins, *, calendar: bool) -> Html:
    counts = over_time.by_kind(log, bins)
    totals = [(str(name), int(counts[name].sum())) for name in counts.columns]
    num_tied = over_time.num_tied(log)
    tied = (
        f" {share(num_tied, len(log))} share their instant with another event of their query; the order of the raw "
        "file decides which came first."
        if num_tied
        else " No two events of a query share an instant."
    )
    if len(totals) == 1:
        reading = joined("Every event is of one kind: “", quoted(totals[0][0]), "”.", tied)
        return card("Kinds and order", reading=reading, content=_daily(log) if calendar else joined())
    parts = [joined("“", quoted(name), f"” is {share(number, len(log))}") for name, number in totals]
    reading = joined(
        *(joined(", ", part) if place else part for place, part in enumerate(parts)), " of the events.", tied
    )
    drawing = drawn(
        lambda: figures.events_by_kind(counts, calendar=calendar, width=figures.NARROW),
        name="kind",
        description="Events over time by kind",
    )
    rows = [(quoted(name), count(number), share(number, len(log))) for name, number in totals]
    behind = numbers_behind(table(["kind", "events", "share"], rows))
    return card("Kinds and order", reading=reading, content=joined(drawing, behind))


def _daily(log: Log) -> Html:
    days = over_time.by_day(log)
    fullest = days.sort_values(["events", "day"], ascending=[False, True]).to_dict("records")[0]
    num_days = int(days["day"].max() - days["day"].min()) + 1
    rows = [
        ("days with events", f"{count(len(days))} of {count(num_days)}"),
        ("events of a day, median", count(int(days["events"].median()))),
        (f"the fullest day, {day(fullest['day'] * DAY_MS)}", count(fullest["events"])),
        ("distinct instants", count(len(np.unique(log.at_ms)))),
    ]
    return table(["by day, UTC", "number"], rows)


def _by_hour(log: Log) -> Html:
    counts = over_time.by_hour(log)
    if counts[:, 0].sum() == len(log):
        weekdays = counts[:, 0]
        most = int(weekdays.argmax())
        part = share(weekdays[most], len(log))
        reading = f"Times are days: all events are of the hour 00:00 UTC, most on a {WEEKDAYS[most]} ({part})."
        rows = [
            (name, count(int(number)), share(number, len(log))) for name, number in zip(WEEKDAYS, weekdays, strict=True)
        ]
        return card("Hours of the week", reading=reading, content=table(["weekday", "events", "share"], rows))
    weekday, hour = divmod(int(counts.argmax()), 24)
    night = int(counts.sum(axis=0).argmin())
    reading = (
        f"The fullest hour of the week is {WEEKDAYS[weekday]} {hour:02}:00 UTC with {share(counts.max(), len(log))} of "
        f"the events, where {share(1, 168)} would be the average; the hour of the day with the fewest is {night:02}:00 "
        f"({share(counts[:, night].sum(), len(log))})."
    )
    drawing = drawn(lambda: figures.hours_of_week(counts), name="hours", description="Events by weekday and hour")
    rows = [
        (name, count(int(number)), share(number, len(log)))
        for name, number in zip(WEEKDAYS, counts.sum(axis=1), strict=True)
    ]
    return card(
        "Hours of the week",
        reading=reading,
        content=joined(drawing, numbers_behind(table(["weekday", "events", "share"], rows))),
    )
