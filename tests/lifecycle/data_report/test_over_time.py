from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from features.sources.files import FIRST_MADE_AT_MS
from features.spec import DAY_MS
from features.split import LeaveOneOut, TimeSplit
from lifecycle.data_report.log import Log
from lifecycle.data_report.over_time import (
    MAX_BINS,
    bins_of,
    by_day,
    by_hour,
    by_kind,
    by_split,
    cuts,
    has_calendar,
    num_tied,
    spans,
)

FIRST_DAY = 20_000
IN_TIME = TimeSplit(train=0.5, ranking=0.0, validation=0.25)


def four_days(kinds: str = "aaaa") -> list[tuple[str, str, float, str]]:
    return [("q", f"i{place}", place, kind) for place, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("days", "width_ms"), [(0, 60_000), (0.1, 600_000), (3, 3_600_000), (90, DAY_MS), (300, 7 * DAY_MS)]
)
def test_bars_are_as_narrow_as_a_hundred_of_them_allow(log_of: Callable[..., Log], days: float, width_ms: int) -> None:
    bins = bins_of(log_of([("q", "a", 0), ("q", "b", days)]))
    assert bins.width_ms == width_ms
    assert len(bins.edges_ms) - 1 <= MAX_BINS


def test_every_event_is_in_one_bar(log_of: Callable[..., Log]) -> None:
    random = np.random.default_rng(0)
    log = log_of([("q", "a", day) for day in random.random(200) * 1_000])
    bins = bins_of(log)
    assert bins.count(log.at_ms).sum() == len(log)
    assert bins.edges_ms[0] <= log.at_ms.min() < bins.edges_ms[1]
    assert bins.edges_ms[-2] <= log.at_ms.max() < bins.edges_ms[-1]


def test_bars_are_stacked_by_split_and_cut_where_a_split_begins(log_of: Callable[..., Log]) -> None:
    log = log_of(four_days(), split=IN_TIME)
    table = by_split(log, bins_of(log))
    assert table.columns.tolist() == ["train", "validation", "test"]
    assert table.sum().tolist() == [2, 1, 1]
    at_ms = [(FIRST_DAY + day) * DAY_MS for day in range(4)]
    assert cuts(spans(log)) == [("validation", at_ms[2]), ("test", at_ms[3])]
    first = spans(log).to_dict("records")[0]
    assert (first["split"], first["num_events"], first["first_ms"], first["last_ms"]) == (
        "train",
        2,
        at_ms[0],
        at_ms[1],
    )


def test_splits_of_each_query_s_own_history_have_no_cut(log_of: Callable[..., Log]) -> None:
    events = [(query, item, day + 10 * place) for place, query in enumerate("pq") for day, item in enumerate("abc")]
    assert cuts(spans(log_of(events, split=LeaveOneOut(ranking_events=0)))) == []


def test_rare_kinds_are_counted_together(log_of: Callable[..., Log]) -> None:
    log = log_of([("q", f"i{place}", place, kind) for place, kind in enumerate("aaaabbbccdefgh")])
    table = by_kind(log, bins_of(log))
    assert table.sum().to_dict() == {"a": 4, "b": 3, "c": 2, "d": 1, "e": 1, "3 other kinds": 3}


def test_a_sixth_kind_has_its_own_name(log_of: Callable[..., Log]) -> None:
    log = log_of([("q", f"i{place}", place, kind) for place, kind in enumerate("abcdef")])
    assert by_kind(log, bins_of(log)).columns.tolist() == list("abcdef")


def test_hours_and_weekdays_are_of_utc(log_of: Callable[..., Log]) -> None:
    # Day 20,000 is 2024-10-04, a Friday.
    assert pd.Timestamp(FIRST_DAY, unit="D").day_name() == "Friday"
    hours = by_hour(log_of([("q", "a", 0), ("q", "b", 13.5 / 24), ("q", "c", 3)]))
    assert np.argwhere(hours).tolist() == [[0, 0], [4, 0], [4, 13]]


def test_days_are_counted_where_something_happened(log_of: Callable[..., Log]) -> None:
    days = by_day(log_of([("q", "a", 0), ("q", "b", 0.5), ("p", "b", 2)]))
    assert days.to_numpy().tolist() == [[FIRST_DAY, 2], [FIRST_DAY + 2, 1]]


def test_events_that_share_an_instant_are_tied_within_a_query(log_of: Callable[..., Log]) -> None:
    # q has three at 1 and one at 2; p's event at 1 is alone.
    log = log_of([("q", "a", 1), ("q", "b", 1), ("q", "c", 1), ("q", "a", 2), ("p", "a", 1)])
    assert num_tied(log) == 3


def test_instants_that_were_made_from_an_order_are_no_calendar(log_of: Callable[..., Log]) -> None:
    assert has_calendar(log_of(four_days()))
    made = log_of([("q", f"i{place}", place / 86_400) for place in range(50)], first_at_ms=FIRST_MADE_AT_MS)
    assert not has_calendar(made)
    assert bins_of(made).width_ms == 1_000
