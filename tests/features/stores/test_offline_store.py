from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.columns import FeatureColumns
from features.errors import FeaturesError, SchemaMismatch
from features.spec import TextLayout
from features.stores.offline_store import historical_features, write_query_states

HISTORY_LENGTH = 4
SPEC = FeatureColumns(
    query_text="says",
    query_categories=("gender", "city"),
    query_numbers=("age",),
    item_categories=(),
    item_numbers=(),
    item_texts=(),
    history_length=HISTORY_LENGTH,
    stored_history=HISTORY_LENGTH,
).spec(text=TextLayout(query_tokens=4), ranker_features=())
NUM_QUERIES = 6
START_AT_MS = 1_000_000


def made_log(generator: np.random.Generator, *, num_events: int = 120) -> tuple[pa.Table, pa.Table]:
    """Events of which most share their instant with another of their query, and a table that lacks the last query."""
    at_ms = np.sort(START_AT_MS + generator.integers(0, 12, num_events))
    query = generator.integers(0, NUM_QUERIES, num_events)
    seen = [int(np.sum(query[:row] == query[row])) for row in range(num_events)]
    left = {int(q): int(np.sum(query == q)) for q in range(NUM_QUERIES)}
    events = pa.table(
        {
            "query_id": [f"q{q}" for q in query],
            "item_id": [f"i{item}" for item in generator.integers(0, 30, num_events)],
            "event": generator.choice(["view", "purchase", "skip"], num_events),
            "value": generator.normal(size=num_events),
            "occurred_at_ms": at_ms,
            "position": pa.array(seen, pa.int32()),
            "split": ["test" if place == left[int(q)] - 1 else "train" for q, place in zip(query, seen, strict=True)],
        }
    )
    queries = pa.table(
        {
            "query_id": [f"q{q}" for q in range(NUM_QUERIES - 1)] + ["quiet"],
            "says": pa.array(["drama", None, "two  words", "", "x", "y"]),
            "gender": pa.array(["F", "M", None, "F", "M", "F"]),
            "city": [f"c{q}" for q in range(NUM_QUERIES)],
            "age": pa.array([1.0, 2.0, 3.0, None, 5.0, 6.0]),
        }
    )
    return events, queries


@pytest.fixture(scope="module")
def log() -> tuple[pa.Table, pa.Table]:
    return made_log(np.random.default_rng(7))


@pytest.fixture(scope="module")
def states(log: tuple[pa.Table, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("offline") / "new" / "states.parquet"
    write_query_states(path, events=log[0], queries=log[1], spec=SPEC)
    return path


def slow_history(log: tuple[pa.Table, pa.Table], *, query_id: str, before: tuple[str, int]) -> list[dict[str, Any]]:
    """The newest events of a query whose column `before[0]` is below `before[1]`, by looking at every event."""
    column, bound = before
    return [event for event in log[0].to_pylist() if event["query_id"] == query_id and event[column] < bound][
        -HISTORY_LENGTH:
    ]


def assert_features_are_slow_ones(
    states: Path, log: tuple[pa.Table, pa.Table], requests: Sequence[tuple[str, int, int | None]]
) -> None:
    """Requests are (query, instant, position or None)."""
    positions = [position for _, _, position in requests if position is not None]
    features, known = historical_features(
        states,
        query_ids=[query_id for query_id, _, _ in requests],
        requested_at_ms=[at_ms for _, at_ms, _ in requests],
        positions=positions or None,
    )
    attributes = {row["query_id"]: row for row in log[1].to_pylist()}
    for n, (query_id, at_ms, position) in enumerate(requests):
        before = ("occurred_at_ms", at_ms) if position is None else ("position", position)
        expected = slow_history(log, query_id=query_id, before=before)
        assert features.history_item_ids[n] == [event["item_id"] for event in expected]
        assert features.history_events[n] == [event["event"] for event in expected]
        assert features.history_values[n] == [event["value"] for event in expected]
        assert features.history_at_ms[n] == [event["occurred_at_ms"] for event in expected]
        row = attributes.get(query_id, {}) if at_ms >= START_AT_MS else {}
        assert known[n] == bool(row or expected)
        assert features.texts[n] == " ".join((row.get("says") or "").split())
        assert features.categories[n] == [row.get("gender") or "", row.get("city") or ""]
        np.testing.assert_equal(features.numbers[n], [np.nan if row.get("age") is None else row["age"]])
        assert features.requested_at_ms[n] == at_ms


def test_a_request_sees_what_a_slow_recomputation_finds_strictly_before_it(
    states: Path, log: tuple[pa.Table, pa.Table]
) -> None:
    query_ids = [*(f"q{q}" for q in range(NUM_QUERIES)), "quiet", "nobody"]
    instants = range(START_AT_MS - 1, START_AT_MS + 14)
    assert_features_are_slow_ones(
        states, log, [(query_id, at_ms, None) for query_id in query_ids for at_ms in instants]
    )


def test_a_request_for_an_event_sees_the_events_before_it_at_the_same_instant(
    states: Path, log: tuple[pa.Table, pa.Table]
) -> None:
    events = log[0].to_pylist()
    ties = [e for e in events if e["position"] > slow_length(log, e["query_id"], e["occurred_at_ms"])]
    assert len(ties) > len(events) / 3, "the log made above has too few ties to tell anything"
    known = [e for e in events if e["query_id"] != f"q{NUM_QUERIES - 1}" or e["position"] > 0]
    assert_features_are_slow_ones(states, log, [(e["query_id"], e["occurred_at_ms"], e["position"]) for e in known])


def slow_length(log: tuple[pa.Table, pa.Table], query_id: str, at_ms: int) -> int:
    return sum(e["query_id"] == query_id and e["occurred_at_ms"] < at_ms for e in log[0].to_pylist())


def test_requests_in_many_portions_are_answered_in_their_order(
    states: Path, log: tuple[pa.Table, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.stores.point_in_time.PAIRS_A_JOIN", 30)
    requests = [(f"q{q}", START_AT_MS + at_ms, None) for at_ms in (9, 3, 6) for q in (4, 0, 2, 0)]
    assert_features_are_slow_ones(states, log, requests)


def test_no_request_is_no_row(states: Path) -> None:
    features, known = historical_features(states, query_ids=[], requested_at_ms=[])
    assert (len(features), known) == (0, [])


def test_a_row_that_became_known_later_is_not_seen_before(states: Path, tmp_path: Path) -> None:
    rows = pq.read_table(states)
    before = rows.filter(pa.compute.equal(rows["query_id"], "q0"))
    late = before.slice(before.num_rows - 1)
    corrected = late.set_column(late.schema.get_field_index("city"), "city", pa.array(["corrected"]))
    known_at = pa.array([datetime.fromtimestamp(START_AT_MS / 1_000 + 60, tz=UTC)], rows.schema.field("created").type)
    corrected = corrected.set_column(corrected.schema.get_field_index("created"), "created", known_at)
    path = tmp_path / "corrected.parquet"
    pq.write_table(pa.concat_tables([rows, corrected]), path)
    features, _ = historical_features(
        path, query_ids=["q0", "q0"], requested_at_ms=[START_AT_MS + 59_000, START_AT_MS + 61_000]
    )
    assert [city for _, city in features.categories] == ["c0", "corrected"]


def test_the_latest_states_are_the_last_ones_of_the_whole(log: tuple[pa.Table, pa.Table], tmp_path: Path) -> None:
    events, queries = log
    for name, latest_only in (("whole", False), ("latest", True)):
        write_query_states(
            tmp_path / name,
            events=events,
            queries=queries,
            spec=SPEC,
            splits={"train"},
            latest_only=latest_only,
        )
    whole, latest = (pq.read_table(tmp_path / name).to_pylist() for name in ("whole", "latest"))
    np.testing.assert_equal({row["query_id"]: row for row in latest}, {row["query_id"]: row for row in whole})
    assert len(latest) == NUM_QUERIES + 1


def test_what_was_written_is_counted(log: tuple[pa.Table, pa.Table], tmp_path: Path) -> None:
    written = write_query_states(tmp_path / "s", events=log[0], queries=log[1], spec=SPEC)
    # One state for each event and one before all for each of the table's six queries.
    assert (written.num_rows, written.num_queries) == (log[0].num_rows + 6, NUM_QUERIES + 1)
    assert written.num_bytes == (tmp_path / "s").stat().st_size


def test_a_failed_write_leaves_what_was_there(log: tuple[pa.Table, pa.Table], tmp_path: Path) -> None:
    path = tmp_path / "states.parquet"
    path.write_bytes(b"before")
    too_long = log[0].set_column(1, "item_id", pa.array(["x" * 2_000] * log[0].num_rows))
    with pytest.raises(FeaturesError, match="at most 1024 bytes"):
        write_query_states(path, events=too_long, queries=log[1], spec=SPEC)
    with pytest.raises(SchemaMismatch, match="states need the columns event, which"):
        write_query_states(path, events=log[0].drop_columns(["event"]), queries=log[1], spec=SPEC)
    assert [file.name for file in tmp_path.iterdir()] == ["states.parquet"]
    assert path.read_bytes() == b"before"


def test_requests_that_do_not_fit_are_refused(states: Path) -> None:
    with pytest.raises(FeaturesError, match=r"an instant, and a position if any, for each request; got \[0, 1\] of"):
        historical_features(states, query_ids=["q0"], requested_at_ms=[])
    with pytest.raises(FeaturesError, match="query 'q0' has none at 999"):
        historical_features(states, query_ids=["q0"], requested_at_ms=[START_AT_MS], positions=[999])
