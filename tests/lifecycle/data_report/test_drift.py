from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.columns import FeatureColumns
from features.context import CONTEXT
from features.dataset import Dataset
from features.spec import DAY_MS, TextLayout
from features.split import TimeSplit
from features.statistics import STATISTICS, ItemStatistics
from features.transforms import query_inputs
from lifecycle.cuts import REFIT
from lifecycle.data_report.drift import Sample, before, derived_drift, draw, ranked, raw_drift
from lifecycle.data_report.item_ticks import item_days, statistics_of
from lifecycle.data_report.log import Log

HALF = TimeSplit(train=0.5, ranking=0.0, validation=0.0)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def random_events(num: int = 300) -> list[tuple[str, str, float, str, float]]:
    random = np.random.default_rng(3)
    return [
        (
            f"q{random.integers(12)}",
            f"i{random.integers(40)}",
            float(random.random() * 90),
            ("view", "buy")[random.integers(2)],
            float(random.integers(1, 6)),
        )
        for _ in range(num)
    ]


def whole(log: Log) -> Sample:
    return draw(log, num=len(log), generator=generator())


def test_at_most_the_asked_number_of_events_is_drawn_a_side(log_of: Callable[..., Log]) -> None:
    log = log_of(random_events(), split=TimeSplit(train=0.9, ranking=0.0, validation=0.05))
    sample = draw(log, num=30, generator=generator())
    assert (sample.in_train.sum(), (~sample.in_train).sum()) == (30, 15)  # 5 % of 300 are 15
    assert len(set(sample.places.tolist())) == 45
    assert (log.of_split("train")[sample.places] == sample.in_train).all()


def test_drift_of_raw_columns_matches_hand_computation(
    prepared: Callable[..., Path], no_columns: FeatureColumns
) -> None:
    # Train: items a, a, b, c; test: c, c, c, d. One query each, so queries are those of the items' days.
    events = [
        (f"q{place % 2}", item, place, "view", value)
        for place, (item, value) in enumerate(zip("aabccccd", [1, 2, 3, 4, 3, 4, 5, 6], strict=True))
    ]
    data_dir = prepared(
        events,
        split=HALF,
        item_columns={
            "colour": pa.array(["red", "red", "blue", None], pa.string()),
            "tags": pa.array([["x", "y"], ["x"], [], ["y"]], pa.list_(pa.string())),
            "size": pa.array([1.0, 2.0, 3.0, None], pa.float64()),
        },
        query_columns={"age": pa.array([20, 30], pa.int32())},
    )
    log = Log.read(data_dir / "tables" / "events.parquet")
    columns = replace(no_columns, item_categories=("colour", "tags"), item_numbers=("size",), query_numbers=("age",))
    table = raw_drift(
        log, whole(log), tables_dir=data_dir / "tables", columns=columns, generator=generator()
    ).set_index("feature")
    # value: train 1 2 3 4, test 3 4 5 6; at or below 2 are half of train and none of test.
    assert table.loc["value", ["value", "moved"]].tolist() == [0.5, "at most 2: 50.0\u202f% → 0\u202f%"]
    # size: train 1 1 2 3, test 3 3 3 (d has none); at or below 2 are 3 of 4 and none.
    assert table.loc["size", ["value", "num_train", "num_test"]].tolist() == [0.75, 4, 3]
    # age: each side has both queries twice.
    assert table.loc["age", "value"] == 0.0
    # colour: shares of red, blue, nothing are (3/4, 1/4, 0) and (0, 3/4, 1/4).
    one, other = np.array([0.75, 0.25, 0.0]), np.array([0.0, 0.75, 0.25])
    middle = (one + other) / 2
    entropies = [sum(p * np.log2(p / m) for p, m in zip(side, middle, strict=True) if p) for side in (one, other)]
    assert table.loc["colour", "value"] == pytest.approx(np.sqrt(sum(entropies) / 2))
    assert table.loc["colour", "moved"] == "red: 75.0\u202f% → 0\u202f%"
    # tags: train has x 3 times, y twice and nothing once; test has nothing 3 times and y once.
    assert table.loc["tags", "moved"] == "(missing): 16.7\u202f% → 75.0\u202f%"
    assert "event" not in table.index  # of one kind


def test_histories_are_those_of_the_dataset(prepared: Callable[..., Path], no_columns: FeatureColumns) -> None:
    data_dir = prepared(random_events(), split=HALF)
    log, dataset = Log.read(data_dir / "tables" / "events.parquet"), dataset_of(data_dir, no_columns)
    places = np.array([0, 5, 100, 299])
    assert before(log, places, length=7) == dataset.before(places, length=7)


def dataset_of(data_dir: Path, columns: FeatureColumns) -> Dataset:
    return Dataset.read(data_dir, name="by_hand", columns=columns)


def test_statistics_are_those_that_models_see(prepared: Callable[..., Path], no_columns: FeatureColumns) -> None:
    available = pa.array([None if place % 3 else (20_000 - place) * DAY_MS for place in range(40)], pa.int64())
    data_dir = prepared(random_events(), split=HALF, items=[f"i{place}" for place in range(40)])
    tables_dir = data_dir / "tables"
    with_available(tables_dir / "items.parquet", available)
    log, dataset = Log.read(tables_dir / "events.parquet"), dataset_of(data_dir, no_columns)
    places = np.sort(np.random.default_rng(1).choice(len(log), 80, replace=False))
    found, kept = statistics_of(log, places, tables_dir=tables_dir, tick_days=1, generator=generator())
    at_ms = dataset.events.at_ms[places]
    whole_table = ItemStatistics.at_requests(dataset.days(REFIT.splits), requested_at_ms=at_ms, tick_ms=DAY_MS)
    expected = whole_table.values[whole_table.ticks(at_ms), dataset.event_rows()[places]]
    assert kept.tolist() == list(range(80))
    # The prior of a mean is summed in another order: the last bit may differ.
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def with_available(path: Path, at_ms: pa.Array) -> None:
    import pyarrow.parquet as pq

    items = pq.read_table(path)
    place = items.column_names.index("available_from")
    pq.write_table(items.set_column(place, "available_from", at_ms.cast(pa.timestamp("ms", tz="UTC"))), path)


def test_where_ticks_are_too_many_a_part_of_them_is_looked_at(prepared: Callable[..., Path]) -> None:
    tables_dir = prepared(random_events(), split=HALF) / "tables"
    log = Log.read(tables_dir / "events.parquet")
    num_rows = len(item_days(tables_dir, item_ids=list(log.items.values)).rows)
    found, kept = statistics_of(
        log, np.arange(300), tables_dir=tables_dir, tick_days=1, generator=generator(), max_rows_read=7 * num_rows
    )
    days = np.unique(log.at_ms[kept] // DAY_MS)
    assert len(found) == len(kept)
    assert len(days) == 7
    assert (np.isin(log.at_ms // DAY_MS, days).nonzero()[0] == kept).all()


def test_derived_features_are_the_context_and_the_statistics(
    prepared: Callable[..., Path], no_columns: FeatureColumns
) -> None:
    columns = replace(no_columns, query_text="words")  # which the report compares nowhere
    data_dir = prepared(random_events(), split=HALF)
    log = Log.read(data_dir / "tables" / "events.parquet")
    table = derived_drift(
        log, whole(log), tables_dir=data_dir / "tables", columns=columns, generator=generator()
    ).set_index("feature")
    assert table.index.tolist() == [*CONTEXT, *(f"item {name}" for name in STATISTICS)]
    # With the dataset in memory, by the transform of training.
    dataset, spec = dataset_of(data_dir, no_columns), no_columns.spec(text=TextLayout(), ranker_features=())
    sample = whole(log)
    inputs = query_inputs(
        dataset.before(sample.places, length=spec.stored_history),
        spec=spec,
        vocabularies=dataset.fit_vocabularies(("train",), columns=no_columns),
        catalogue=dataset.items.catalogue,
    )
    for column, name in enumerate(CONTEXT):
        train, test = (np.sort(inputs.context[side, column]) for side in (sample.in_train, ~sample.in_train))
        numbers = np.unique(inputs.context[:, column])
        gaps = [(train <= number).mean() - (test <= number).mean() for number in numbers]
        assert table.loc[name, "value"] == pytest.approx(np.abs(gaps).max()), name
    assert table.loc["history_count", "value"] > table.loc["history_count", "random_split"]  # histories grow


def test_features_are_ranked_by_what_chance_does_not_explain() -> None:
    names = ["feature", "origin", "measure", "value", "random_split", "num_train", "num_test", "moved"]
    rows = [
        ("noisy", "item", "JS", 0.40, 0.39, 9, 9, ""),
        ("moved", "item", "KS", 0.30, 0.05, 9, 9, ""),
        ("empty", "item", "KS", np.nan, np.nan, 9, 0, ""),
        ("still", "item", "KS", 0.01, 0.05, 9, 9, ""),
    ]
    assert ranked(pd.DataFrame(rows, columns=names), calendar=True)["feature"].tolist() == ["moved", "noisy", "still"]
    assert ranked(calendar=True).empty


def test_a_log_without_times_has_no_hours_to_compare() -> None:
    rows = [(name, origin, "KS", 0.4, 0.1, 9, 9, "") for name, origin in (("hour", "clock"), ("size", "item"))]
    names = ["feature", "origin", "measure", "value", "random_split", "num_train", "num_test", "moved"]
    assert ranked(pd.DataFrame(rows, columns=names), calendar=False)["feature"].tolist() == ["size"]
