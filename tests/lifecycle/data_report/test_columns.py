from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from lifecycle.data_report.columns import Column, missing_table, profile
from lifecycle.data_report.set_aside import EXAMPLE_LENGTH, Example, examples

EVENTS = [("q", item, day) for day, item in enumerate("abcd")]


def columns_of(data_dir: Path, table: str) -> dict[str, Column]:
    return {column.name: column for column in profile(data_dir / "tables", (table,))}


def test_null_blank_and_empty_are_missing(prepared: Callable[..., Path]) -> None:
    data_dir = prepared(
        EVENTS,
        item_columns={
            "title": pa.array(["Alien", " ", None, ""], pa.string()),
            "genres": pa.array([["x", "y"], [], None, ["x"]], pa.list_(pa.string())),
            "year": pa.array([1979, None, 1986, 1992], pa.int32()),
            "price": pa.array([1.5, float("nan"), None, 2.5], pa.float64()),
        },
    )
    items = columns_of(data_dir, "items")
    missing = {name: column.num_missing for name, column in items.items()}
    assert missing == {"item_id": 0, "title": 3, "genres": 2, "year": 1, "price": 2, "available_from": 4}
    assert items["genres"].frequent == (("x", 2), ("y", 1))
    assert (items["genres"].num_distinct, items["title"].num_distinct) == (2, 1)
    assert items["title"].frequent == ()  # every title comes once
    assert items["year"].quantiles == (1979.0, 1986.0, 1992.0)
    assert [column.kind for column in items.values()] == ["text", "instant", "text", "list", "number", "number"]
    assert missing_table([*items.values()]).to_numpy().tolist() == [
        ["items.available_from", 4, 4],
        ["items.title", 3, 4],
        ["items.genres", 2, 4],
        ["items.price", 2, 4],
        ["items.year", 1, 4],
    ]


def test_what_the_preparation_adds_is_left_out(prepared: Callable[..., Path]) -> None:
    events = columns_of(prepared(EVENTS), "events")
    assert {"position", "split", "source_row"} & {*events} == set()
    assert events["occurred_at_ms"].kind == "instant"


def test_the_first_rows_of_each_reason_are_shown_as_they_stood(prepared: Callable[..., Path]) -> None:
    unknown = [("q", f"z{place}", place) for place in range(5)]
    data_dir = prepared([*EVENTS, *unknown, ("q", "a", 0)], items=list("abcd"))
    found = examples(data_dir / "tables" / "rejected" / "events.parquet")
    assert [example.source_row for example in found["unknown item"]] == [4, 5, 6]
    assert found["exact copy of an earlier row"] == [
        Example(
            source_row=9,
            content="query_id=q, item_id=a, event=rating, value=3, occurred_at=2024-10-04 00:00:00.000Z",
        )
    ]


def test_a_row_that_could_not_be_read_is_shown_raw_and_cut(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = [{"query_id": None, "raw": "x" * 10_000, "reason": "not 3 tokens", "source_row": None}]
    schema = pa.schema([(name, pa.string()) for name in ("query_id", "raw", "reason")]).append(
        pa.field("source_row", pa.int64())
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "events.parquet")
    (example,) = examples(tmp_path / "events.parquet")["not 3 tokens"]
    assert example == Example(source_row=None, content="x" * EXAMPLE_LENGTH + "…")
