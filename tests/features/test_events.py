import math
from collections.abc import Mapping

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import SchemaMismatch
from features.events import (
    CLEAN_EVENTS,
    RAW_EVENTS,
    RAW_ITEMS,
    RAW_QUERIES,
    RawTables,
    as_strings,
    count_reasons,
    validate,
)

NOW_AT_MS = 1_000_000
GOOD = {"query_id": "q1", "item_id": "i1", "event": "rating", "value": 4.0, "occurred_at": 500}


def raw_tables(
    *,
    events: list[Mapping[str, object]] | None = None,
    item_ids: list[str | None] | None = None,
    query_ids: list[str | None] | None = None,
    unparsed: Mapping[str, pa.Table] | None = None,
) -> RawTables:
    events = [{**event, "source_row": row} for row, event in enumerate(events or [])]
    items = [
        {"item_id": item_id, "available_from": None, "source_row": row}
        for row, item_id in enumerate(["i1", "i2"] if item_ids is None else item_ids)
    ]
    queries = [
        {"query_id": query_id, "source_row": row}
        for row, query_id in enumerate(["q1", "q2"] if query_ids is None else query_ids)
    ]
    return RawTables(
        events=pa.Table.from_pylist(events, schema=RAW_EVENTS),
        items=pa.Table.from_pylist(items, schema=RAW_ITEMS),
        queries=pa.Table.from_pylist(queries, schema=RAW_QUERIES),
        unparsed=unparsed or {},
    )


def test_good_rows_come_out_typed_with_time_in_ms():
    valid = validate(raw_tables(events=[GOOD]), now_at_ms=NOW_AT_MS)
    assert valid.events.schema == CLEAN_EVENTS
    assert valid.events.to_pylist() == [
        {"query_id": "q1", "item_id": "i1", "event": "rating", "value": 4.0, "occurred_at_ms": 500, "source_row": 0}
    ]
    assert valid.items.column_names == ["item_id", "available_from"]
    assert valid.queries.column_names == ["query_id"]
    assert all(table.num_rows == 0 for table in valid.rejected.values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query_id": None}, "query_id missing"),
        ({"query_id": " "}, "query_id missing"),
        ({"item_id": ""}, "item_id missing"),
        ({"event": None}, "event missing"),
        ({"value": None}, "value missing"),
        ({"value": math.nan}, "value not finite"),
        ({"value": -math.inf}, "value not finite"),
        ({"occurred_at": None}, "time missing"),
        ({"occurred_at": -1}, "time negative"),
        ({"occurred_at": NOW_AT_MS + 1}, "time after now"),
        ({"query_id": "q9"}, "unknown query"),
        ({"item_id": "i9"}, "unknown item"),
        ({"item_id": "", "value": None}, "item_id missing"),
    ],
)
def test_a_bad_event_is_set_aside_with_its_first_reason(change, reason):
    valid = validate(raw_tables(events=[{**GOOD, **change}, GOOD]), now_at_ms=NOW_AT_MS)
    assert valid.events["source_row"].to_pylist() == [1]
    rejected = valid.rejected["events"].to_pylist()
    assert [(row["source_row"], row["reason"]) for row in rejected] == [(0, reason)]


def test_an_event_of_this_very_instant_is_good():
    valid = validate(raw_tables(events=[{**GOOD, "occurred_at": NOW_AT_MS}]), now_at_ms=NOW_AT_MS)
    assert valid.events.num_rows == 1


def test_of_exact_copies_the_first_row_stays():
    other_value = {**GOOD, "value": 5.0}
    valid = validate(raw_tables(events=[GOOD, other_value, GOOD, GOOD]), now_at_ms=NOW_AT_MS)
    assert valid.events["source_row"].to_pylist() == [0, 1]
    assert count_reasons(valid.rejected["events"]) == {"exact copy of an earlier row": 2}


def test_a_copy_of_a_rejected_row_has_the_same_reason_as_that_row():
    valid = validate(raw_tables(events=[{**GOOD, "item_id": "i9"}] * 2), now_at_ms=NOW_AT_MS)
    assert count_reasons(valid.rejected["events"]) == {"unknown item": 2}


def test_of_repeated_ids_the_first_row_stays_and_its_events_are_good():
    raw = raw_tables(events=[GOOD], item_ids=["i1", "i1", None], query_ids=["q1", " ", "q1"])
    valid = validate(raw, now_at_ms=NOW_AT_MS)
    assert valid.items["item_id"].to_pylist() == ["i1"]
    assert valid.queries["query_id"].to_pylist() == ["q1"]
    assert valid.rejected["items"]["reason"].to_pylist() == ["item_id repeated", "item_id missing"]
    assert valid.rejected["queries"]["reason"].to_pylist() == ["query_id missing", "query_id repeated"]
    assert valid.events.num_rows == 1


def test_a_rejected_row_keeps_every_column_as_text():
    raw = raw_tables(events=[{**GOOD, "item_id": "i9", "occurred_at": 874_724_710_000}])
    rejected = validate(raw, now_at_ms=10**12).rejected["events"]
    assert rejected.to_pylist() == [
        {
            "query_id": "q1",
            "item_id": "i9",
            "event": "rating",
            "value": "4",
            "occurred_at": "1997-09-20 03:05:10.000Z",
            "source_row": 0,
            "raw": None,
            "reason": "unknown item",
        }
    ]


def test_lists_become_json_and_instants_beyond_the_calendar_stay_numbers():
    table = pa.table(
        {
            "names": pa.array([["Él", "b"], None], pa.list_(pa.string())),
            "at": pa.array([10**15, -(10**15)], pa.timestamp("ms", tz="UTC")),
            "source_row": pa.array([0, 1], pa.int64()),
        }
    )
    assert as_strings(table).to_pydict() == {
        "names": ['["Él", "b"]', None],
        "at": ["1000000000000000", "-1000000000000000"],
        "source_row": [0, 1],
    }


def test_rows_that_the_source_could_not_parse_join_the_rejected_ones_in_order_of_the_log():
    unparsed = pa.table(
        {"raw": ["q1|i1|four"], "reason": ["value is no number"], "query_id": ["q1"], "source_row": [7]}
    )
    raw = raw_tables(events=[{**GOOD, "item_id": "i9"}], unparsed={"events": unparsed})
    rejected = validate(raw, now_at_ms=NOW_AT_MS).rejected["events"]
    assert rejected["source_row"].to_pylist() == [0, 7]
    assert rejected["raw"].to_pylist() == [None, "q1|i1|four"]
    assert rejected["query_id"].to_pylist() == ["q1", "q1"]
    assert rejected["item_id"].to_pylist() == ["i9", None]


def test_a_source_that_breaks_its_schema_is_told_which_column():
    good = raw_tables(events=[GOOD])
    no_value = RawTables(events=good.events.drop_columns("value"), items=good.items, queries=good.queries)
    with pytest.raises(SchemaMismatch, match="raw events: column 'value' is missing, the source gave"):
        validate(no_value, now_at_ms=NOW_AT_MS)
    number = good.items.set_column(0, "item_id", pa.array([1, 2]))
    with pytest.raises(SchemaMismatch, match="raw items: column 'item_id' must be string, the source gave int64"):
        validate(RawTables(events=good.events, items=number, queries=good.queries), now_at_ms=NOW_AT_MS)


def test_a_source_that_repeats_a_source_row_is_refused():
    good = raw_tables(events=[GOOD])
    twice = RawTables(events=pa.concat_tables([good.events] * 2), items=good.items, queries=good.queries)
    with pytest.raises(SchemaMismatch, match="raw events: source_row"):
        validate(twice, now_at_ms=NOW_AT_MS)


def test_unparsed_rows_of_a_table_that_does_not_exist_are_refused_rather_than_lost():
    unparsed = pa.table({"raw": ["x"], "reason": ["?"], "source_row": [0]})
    with pytest.raises(SchemaMismatch, match=r"must belong to one of .* the source gave 'event'"):
        validate(raw_tables(unparsed={"event": unparsed}), now_at_ms=NOW_AT_MS)
    with pytest.raises(SchemaMismatch, match="unparsed events: column 'reason' is missing"):
        validate(raw_tables(unparsed={"events": unparsed.drop_columns("reason")}), now_at_ms=NOW_AT_MS)


events_of_any_kind = st.lists(
    st.fixed_dictionaries(
        {
            "query_id": st.sampled_from(["q1", "q2", "q9", "", None]),
            "item_id": st.sampled_from(["i1", "i2", "i9", None]),
            "event": st.sampled_from(["rating", "view"]),
            "value": st.none() | st.floats(width=32),
            "occurred_at": st.none() | st.integers(-(2**62), 2**62) | st.integers(0, 3),
        }
    ),
    max_size=12,
)


@given(events_of_any_kind)
def test_every_event_is_kept_or_set_aside_with_a_reason_and_none_is_lost(events):
    valid = validate(raw_tables(events=events), now_at_ms=NOW_AT_MS)
    rejected = valid.rejected["events"]
    rows = valid.events["source_row"].to_pylist() + rejected["source_row"].to_pylist()
    assert sorted(rows) == list(range(len(events)))
    assert None not in rejected["reason"].to_pylist()
    assert None not in [value for column in valid.events.columns for value in column.to_pylist()]
    assert sum(count_reasons(rejected).values()) == rejected.num_rows
