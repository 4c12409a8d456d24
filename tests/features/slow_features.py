"""Every point-in-time feature once more: one request, one event and one number at a time, from the raw log alone.

Owns a second implementation that is slow and obvious, and takes nothing from the first. Where a sum of fractions is not
exact, its order is part of what the feature is: the order of the history for a query, and day by day for an item.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

DAY_MS, HOUR_MS, MINUTE_MS = 24 * 3600 * 1000, 3600 * 1000, 60 * 1000
YEAR_DAYS, TEN_YEARS_DAYS = 365.0, 3650.0
PADDING, UNKNOWN, FIRST = 0, 1, 2


class Event(NamedTuple):
    query_id: str
    item_id: str
    event: str
    value: float
    at_ms: int
    source_row: int


class Request(NamedTuple):
    """Who asks and when; of the events of that very instant those of earlier rows of the raw log are known."""

    query_id: str
    at_ms: int
    before_row: int


class Item(NamedTuple):
    """What an item is, which does not change with time: VocabIds of each category, and scaled numbers."""

    categories: Sequence[Sequence[int]]
    numbers: Sequence[float]
    available_at_ms: int | None


@dataclass(frozen=True)
class SlowFeatures:
    """Features of any request.

    Args:
        raw: the log as it stands in its file.
        is_positive: whether an event says yes.
        split_of: the split of an event, by source row; only the order of sums depends on it.
        item_ids: the catalogue, in order.
        items: facts by ItemRow.
        kinds: kinds of event that were learnt, in order of their ids.
        history_length, stored_history, session_gap_minutes, tick_days: settings of the spec.
    """

    raw: Sequence[Event]
    is_positive: Callable[[Event], bool]
    split_of: Mapping[int, str]
    item_ids: Sequence[str]
    items: Mapping[int, Item]
    kinds: Sequence[str]
    history_length: int
    stored_history: int
    session_gap_minutes: int
    tick_days: int = 1

    @cached_property
    def events(self) -> list[Event]:
        """The log without copies, and without what a later row of the same action corrects."""
        first_copies: dict[tuple[str, str, str, float, int], Event] = {}
        for event in sorted(self.raw, key=lambda event: event.source_row):
            first_copies.setdefault(event[:5], event)
        last_words: dict[tuple[str, str, str, int], Event] = {}
        for event in first_copies.values():
            last_words[(event.query_id, event.item_id, event.event, event.at_ms)] = event
        return sorted(last_words.values(), key=lambda event: (event.at_ms, event.source_row))

    @cached_property
    def _events_of_query(self) -> dict[str, list[Event]]:
        events = defaultdict(list)
        for event in self.events:
            events[event.query_id].append(event)
        return events

    @cached_property
    def _row_of_item(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids, start=FIRST)}

    def history(self, request: Request) -> list[Event]:
        """What the query did before the request, oldest first, as far back as is stored."""
        known = []
        for event in self._events_of_query.get(request.query_id, []):
            if event.at_ms < request.at_ms or (event.at_ms == request.at_ms and event.source_row < request.before_row):
                known.append(event)
        return known[max(len(known) - self.stored_history, 0) :]

    def row(self, item_id: str) -> int:
        return self._row_of_item.get(item_id, UNKNOWN)

    def sequences(self, request: Request) -> dict[str, list[float]]:
        """The newest part of the history padded on the left, and all of it, newest first."""
        columns: dict[str, list[float]] = {
            "history_rows": [],
            "history_events": [],
            "history_values": [],
            "history_age_days": [],
            "history_gap_days": [],
            "seen_rows": [],
            "seen_age_days": [],
        }
        history = self.history(request)
        next_at_ms = [event.at_ms for event in history[1:]] + [request.at_ms]
        newest = list(zip(history, next_at_ms, strict=False))[-self.history_length :]
        for event, until_ms in newest:
            known = event.event in self.kinds
            columns["history_rows"].append(self.row(event.item_id))
            columns["history_events"].append(self.kinds.index(event.event) + FIRST if known else UNKNOWN)
            columns["history_values"].append(event.value)
            columns["history_age_days"].append(_age_days(event, request))
            columns["history_gap_days"].append(min(max(until_ms - event.at_ms, 0) / DAY_MS, TEN_YEARS_DAYS))
        for name in [name for name in columns if name.startswith("history")]:
            columns[name] = [0] * (self.history_length - len(columns[name])) + columns[name]
        for event in reversed(history):
            columns["seen_rows"].append(self.row(event.item_id))
            columns["seen_age_days"].append(_age_days(event, request))
        return columns

    def context(self, request: Request) -> dict[str, float]:
        """In which situation the query asks."""
        history = self.history(request)
        num = len(history)
        total = 0.0
        for event in history:
            total += float(np.float32(event.value))
        items = {self.row(event.item_id) for event in history}
        pauses_ms = [later.at_ms - earlier.at_ms for earlier, later in pairwise(history)]
        gap_ms = self.session_gap_minutes * MINUTE_MS
        in_session = 0
        if history and request.at_ms - history[-1].at_ms <= gap_ms:
            in_session = 1
            for pause_ms in reversed(pauses_ms):
                if pause_ms > gap_ms:
                    break
                in_session += 1
        hour, weekday = (request.at_ms // HOUR_MS) % 24, (request.at_ms // DAY_MS + 3) % 7
        numbers = {
            "history_count": _log(num),
            "history_days": _log(_age_days(history[0], request)) if history else 0.0,
            "value_mean": total / max(num, 1),
            "distinct_share": len(items) / max(num, 1),
            "idle_days": _log(_age_days(history[-1], request) if history else YEAR_DAYS),
            "gap_days": _log(
                min((history[-1].at_ms - history[0].at_ms) / DAY_MS / (num - 1), YEAR_DAYS) if num > 1 else YEAR_DAYS
            ),
            "sessions": _log(1 + sum(pause_ms > gap_ms for pause_ms in pauses_ms) if history else 0),
            "session_events": _log(in_session),
            "hour_sin": math.sin(2 * math.pi * hour / 24),
            "hour_cos": math.cos(2 * math.pi * hour / 24),
            "weekday_sin": math.sin(2 * math.pi * weekday / 7),
            "weekday_cos": math.cos(2 * math.pi * weekday / 7),
        }
        for days in (1, 7, 30):
            recent = [event for event in history if request.at_ms - event.at_ms <= days * DAY_MS]
            numbers[f"count_{days}d"] = _log(len(recent))
        return numbers

    def statistics(self, at_ms: int) -> dict[int, dict[str, float]]:
        """Aggregates of every row of the item table as of the last tick that is finished at an instant."""
        tick_day = at_ms // DAY_MS // self.tick_days * self.tick_days
        known: dict[int, list[Event]] = defaultdict(list)
        for event in self.events:
            if event.at_ms // DAY_MS < tick_day:
                known[self.row(event.item_id)].append(event)
        num_rows = len(self.item_ids) + FIRST
        totals = [_total_by_day(known[row], self.split_of) for row in range(num_rows)]
        prior = 0.0
        for total in totals:
            prior += total
        prior /= max(sum(len(events) for events in known.values()), 1)
        return {
            row: self._statistics_of(row, known[row], total=totals[row], prior=prior, tick_day=tick_day)
            for row in range(num_rows)
        }

    def _statistics_of(
        self, row: int, events: list[Event], *, total: float, prior: float, tick_day: int
    ) -> dict[str, float]:
        days = [event.at_ms // DAY_MS for event in events]
        positive_days = [event.at_ms // DAY_MS for event in events if self.is_positive(event)]
        born = min(days, default=None)
        if row in self.items and self.items[row].available_at_ms is not None:
            born = self.items[row].available_at_ms // DAY_MS
        return {
            "count_all": len(positive_days),
            **{f"count_{window}d": sum(day >= tick_day - window for day in positive_days) for window in (1, 7, 30)},
            "value_mean": (total + 5.0 * prior) / (len(events) + 5.0),
            "idle_days": min(tick_day - max(days), YEAR_DAYS) if days else YEAR_DAYS,
            "age_days": YEAR_DAYS if born is None else min(max(tick_day - born, 0), YEAR_DAYS),
        }

    def affinities(self, request: Request, candidate: int) -> list[float]:
        """Share of the history with the candidate's values, of each category, long and short; number by number."""
        history = [self.row(event.item_id) for event in self.history(request)[-self.history_length :]]
        nothing = Item(categories=[[]] * 99, numbers=[0.0] * 99, available_at_ms=None)
        facts = [self.items.get(row, nothing) for row in history]
        own = self.items.get(candidate, nothing)
        found: list[float] = []
        for column in range(len(self.items[FIRST].categories)):
            values = [value for value in own.categories[column] if value > UNKNOWN]
            for looked_at in (facts, facts[-5:]):
                total = 0.0
                for value in values:
                    total += sum(value in item.categories[column] for item in looked_at) / max(len(looked_at), 1)
                found.append(total / max(len(values), 1))
        for column in range(len(self.items[FIRST].numbers)):
            total = 0.0
            for item in facts[-5:]:
                total += float(np.float32(item.numbers[column]))
            mean = total / max(len(facts[-5:]), 1)
            found.append(abs(float(np.float32(own.numbers[column])) - mean))
        return found

    def repeats(self, request: Request, candidate: int) -> tuple[float, float]:
        """How often the query had the candidate, and days since it last had it."""
        had = [event for event in self.history(request) if self.row(event.item_id) == candidate >= FIRST]
        days = float(np.float32(_age_days(had[-1], request))) if had else YEAR_DAYS
        return _log(len(had)), _log(days)


def _age_days(event: Event, request: Request) -> float:
    return min(max(request.at_ms - event.at_ms, 0) / DAY_MS, YEAR_DAYS)


def _total_by_day(events: Sequence[Event], split_of: Mapping[int, str]) -> float:
    """Sum of the events' values: within a day and split first, then day by day."""
    of_day: dict[tuple[int, str, str], float] = defaultdict(float)
    for event in events:
        of_day[(event.at_ms // DAY_MS, event.item_id, split_of[event.source_row])] += event.value
    total = 0.0
    for key in sorted(of_day):
        total += of_day[key]
    return total


def _log(number: float) -> float:
    return float(np.log1p(np.float64(number)))
