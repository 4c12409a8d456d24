from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from features.events import RAW_EVENTS, RAW_QUERIES, RawTables, validate
from features.sources.attributes import ItemFile, QueryFile
from features.sources.files import EventColumns, EventFile, Files
from features.sources.tabular import Layout
from lifecycle.replicated_log import SHIFT_S, replicate

# (query, item, value, seconds): p and q both have a; nobody has c
EVENTS = [("p", "a", 1.5, 100), ("q", "a", 2.0, 100), ("p", "b", 3.0, 200_000), ("q", "a", 4.0, 300_000)]


@pytest.fixture
def raw() -> RawTables:
    events = [
        {"query_id": query, "item_id": item, "event": "purchase", "value": value, "occurred_at": at_s * 1000}
        for query, item, value, at_s in EVENTS
    ]
    return RawTables(
        events=pa.Table.from_pylist([{**e, "source_row": n} for n, e in enumerate(events)], schema=RAW_EVENTS),
        items=pa.table(
            {
                "item_id": ["a", "b", "c"],
                "brand": pa.array(["X", None, "Z"]),
                "size": pa.array([1.5, None, 2.0]),
                "source_row": pa.array([0, 1, 2]),
            }
        ),
        queries=pa.Table.from_pylist(
            [{"query_id": query, "source_row": n} for n, query in enumerate("pq")], RAW_QUERIES
        ),
    )


def read_back(folder: Path) -> RawTables:
    layout = Layout(delimiter="tab", quote="")
    path = folder / folder.name
    columns = EventColumns(
        query_id="query_id:token", item_id="item_id:token", value="value:float", time="timestamp:float"
    )
    return Files(
        events=EventFile(path=path.with_suffix(".inter"), columns=columns, event="purchase", layout=layout),
        items=ItemFile(
            path=path.with_suffix(".item"),
            id="item_id:token",
            categories=["brand:token"],
            numbers=["size:float"],
            layout=layout,
        ),
        queries=QueryFile(path=path.with_suffix(".user"), id="query_id:token", layout=layout),
    ).read()


def test_every_copy_has_queries_and_items_of_its_own_that_did_the_same(raw, tmp_path):
    log = replicate(raw, copies=3, seed=1, folder=tmp_path / "log")
    assert (log.num_events, log.num_queries, log.num_items) == (12, 6, 6)
    events = read_back(log.folder).events.to_pylist()
    expected = Counter((f"{q}-{copy}", f"{i}-{copy}", value) for q, i, value, _ in EVENTS for copy in range(3))
    assert Counter((event["query_id"], event["item_id"], event["value"]) for event in events) == expected


def test_events_are_in_order_of_time_and_a_copy_of_a_query_is_shifted_as_a_whole(raw, tmp_path):
    log = replicate(raw, copies=3, seed=1, folder=tmp_path / "log")
    events = read_back(log.folder).events.to_pylist()
    at_s = [event["occurred_at"].timestamp() for event in events]
    assert at_s == sorted(at_s)
    original = {(query, value): at_s for query, _, value, at_s in EVENTS}
    shifts: dict[str, set[float]] = {}
    for event, at in zip(events, at_s, strict=True):
        shift = at - original[event["query_id"][0], event["value"]]
        shifts.setdefault(event["query_id"], set()).add(shift)
    assert all(len(own) == 1 and abs(next(iter(own))) <= SHIFT_S for own in shifts.values())
    assert len({next(iter(own)) for own in shifts.values()}) > 1


def test_items_keep_what_is_known_of_them_and_those_that_nobody_had_are_left_out(raw, tmp_path):
    items = read_back(replicate(raw, copies=1, seed=1, folder=tmp_path / "log").folder).items
    assert items.select(["item_id", "brand:token", "size:float"]).to_pylist() == [
        {"item_id": "a-0", "brand:token": ["X"], "size:float": 1.5},
        {"item_id": "b-0", "brand:token": [], "size:float": None},
    ]


def test_a_share_is_all_events_of_queries_that_the_seed_draws(raw, tmp_path):
    logs = [replicate(raw, copies=0.5, seed=seed, folder=tmp_path / f"log{seed}") for seed in range(6)]
    drawn = [{event["query_id"] for event in read_back(log.folder).events.to_pylist()} for log in logs]
    assert all(len(queries) == 1 for queries in drawn)
    assert set.union(*drawn) == {"p-0", "q-0"}
    assert {log.num_events for log in logs} == {2}


def test_the_same_seed_writes_the_same_bytes(raw, tmp_path):
    one, two = (replicate(raw, copies=2, seed=1, folder=tmp_path / name / "log").folder for name in "ab")
    assert [path.read_bytes() for path in sorted(one.iterdir())] == [
        path.read_bytes() for path in sorted(two.iterdir())
    ]


def test_a_copy_of_a_good_log_is_a_good_log(raw, tmp_path):
    log = replicate(raw, copies=2, seed=1, folder=tmp_path / "log")
    valid = validate(read_back(log.folder), now_at_ms=10**12)
    reasons = valid.rejected["events"]["reason"].to_pylist()
    # Shifted back from the first day, an event may be before 1970.
    assert set(reasons) <= {"time negative"}
    assert valid.events.num_rows + len(reasons) == log.num_events


@pytest.mark.parametrize("copies", [0.0, -1.0, 1.5])
def test_a_part_of_a_copy_is_refused(raw, tmp_path, copies):
    with pytest.raises(ValueError, match="expected copies to be a whole number or a share below 1"):
        replicate(raw, copies=copies, seed=1, folder=tmp_path / "log")
