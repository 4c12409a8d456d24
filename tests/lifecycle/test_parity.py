import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.errors import ParityFailed
from evaluation.parity import ParityReport
from features.spec import DAY_MS
from features.split import SPLITS
from lifecycle.parity import rounds, spread_events
from serving.release import MANIFEST_FILE, seal
from serving.retrieval import Stage1

pytestmark = pytest.mark.timeout(600)


def test_every_event_is_the_same_offline_and_online(shop: Any, tmp_path: Path) -> None:
    report = shop.replay(tmp_path / "work")
    report.check(float_tolerance=0.0)
    num_events = len(shop.dataset.events.at_ms)
    assert num_events > 300
    assert {field.num_compared for field in report.fields} == {num_events}
    names = {field.name for field in report.fields}
    assert names >= {"history_rows", "history_events", "history_values", "history_age_days", "history_gap_days"}
    assert names >= {"seen_rows", "seen_age_days", "text_tokens"}
    assert names >= {"categories.gender", "numbers.age", "context.session_events", "ranker_tokens"}
    assert names >= {"ranker_dense.item_count_7d", "ranker_dense.colour_affinity_long", "ranker_dense.repeat_count"}


def test_a_replay_leaves_the_release_and_the_tables_as_they_were(shop: Any, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for folder in (shop.data_dir, shop.release_dir) for path in files(folder)}
    shop.replay(tmp_path / "work", places=np.arange(50))
    assert {path: path.read_bytes() for folder in (shop.data_dir, shop.release_dir) for path in files(folder)} == before
    assert not shop.release_dir.with_name("release.deltas").exists()


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def failures(report: ParityReport) -> dict[str, str]:
    """By feature, what the report says of those that differ."""
    return {field.name: failure for field in report.fields if (failure := field.failure(float_tolerance=0.0))}


def altered_release(shop: Any, target: Path, name: str, change: Callable[[Path], None]) -> Path:
    """A whole and sealed release with another content of one file."""
    shutil.copytree(shop.release_dir, target)
    manifest = json.loads((target / MANIFEST_FILE).read_text())
    (target / MANIFEST_FILE).unlink()
    change(target / name)
    seal(target, facts={"spec_hash": manifest["spec_hash"]})
    return target


def swap_categories(path: Path) -> None:
    content = path.read_text()
    assert '"F", "M"' in content
    path.write_text(content.replace('"F", "M"', '"M", "F"'))


def shift_ages(path: Path) -> None:
    content = json.loads(path.read_text())
    content["numbers"]["age"][0] += 1e-4  # the mean
    path.write_text(json.dumps(content))


def shift_item_categories(path: Path) -> None:
    np.save(path, np.roll(np.load(path), 1, axis=0))


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("vocabularies.json", swap_categories, {"categories.gender"}),
        ("vocabularies.json", shift_ages, {"numbers.age"}),
        ("arrays/text_tokens.npy", lambda path: np.save(path, np.load(path)[:, ::-1]), {"ranker_tokens"}),
        (
            "arrays/categories.npy",
            shift_item_categories,
            {"ranker_dense.colour_affinity_long", "ranker_dense.colour_affinity_short"},
        ),
    ],
    ids=["a vocabulary", "a scale", "a text", "a category"],
)
def test_a_release_that_transforms_otherwise_is_found_by_feature(
    shop: Any, tmp_path: Path, name: str, change: Callable[[Path], None], expected: set[str]
) -> None:
    release_dir = altered_release(shop, tmp_path / "release", name, change)
    found = failures(shop.replay(tmp_path / "work", places=np.arange(60), release_dir=release_dir))
    assert set(found) == expected
    for failure in found.values():
        assert "(place " in failure
        assert "offline " in failure
        assert "online " in failure


def altered_tables(shop: Any, target: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> Path:
    shutil.copytree(shop.data_dir, target)
    path = target / "tables" / f"{name}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    return target


def a_day_later(item_days: pa.Table) -> pa.Table:
    """What a delta of the tick before would have counted."""
    place = item_days.column_names.index("day")
    return item_days.set_column(place, "day", pa.array(item_days["day"].to_numpy() + 1, pa.int32()))


def test_a_delta_of_a_wrong_tick_is_found_by_feature(shop: Any, tmp_path: Path) -> None:
    data_dir = altered_tables(shop, tmp_path / "data", "item_days", a_day_later)
    found = failures(shop.replay(tmp_path / "work", data_dir=data_dir))
    assert set(found) >= {"ranker_dense.item_count_all", "ranker_dense.item_count_1d", "ranker_dense.item_idle_days"}
    assert all(name.startswith("ranker_dense.item_") for name in found)


def an_event_late(events: pa.Table) -> pa.Table:
    """Every query's log with its first event twice: at each position the newest is missing."""
    first = events.filter(pa.compute.equal(events["position"], 0))
    place = events.column_names.index("position")
    moved = events.set_column(place, "position", pa.array(events["position"].to_numpy() + 1, pa.int32()))
    return pa.concat_tables([first, moved])


def test_a_store_that_is_an_event_behind_is_found_by_feature_query_and_place(shop: Any, tmp_path: Path) -> None:
    data_dir = altered_tables(shop, tmp_path / "data", "events", an_event_late)
    report = shop.replay(tmp_path / "work", data_dir=data_dir)
    found = failures(report)
    assert set(found) >= {"history_rows", "history_age_days", "history_gap_days", "seen_rows", "context.idle_days"}
    assert not {"categories.gender", "numbers.age", "ranker_dense.item_count_all"} & set(found)
    with pytest.raises(
        ParityFailed, match=r"  history_rows: \d+ of \d+ events differ\n    query q\d+, event \d+ \(place"
    ):
        report.check(float_tolerance=0.0)


def test_values_that_another_text_brings_are_found(shop: Any, tmp_path: Path) -> None:
    def louder(queries: pa.Table) -> pa.Table:
        place = queries.column_names.index("wish")
        return queries.set_column(place, "wish", pa.array(["thing"] * queries.num_rows))

    data_dir = altered_tables(shop, tmp_path / "data", "queries", louder)
    found = failures(shop.replay(tmp_path / "work", places=np.arange(60), data_dir=data_dir))
    assert set(found) == {"text_tokens", "ranker_tokens"}


def test_rounds_take_one_event_of_each_query_in_order(shop: Any) -> None:
    log = shop.dataset.events
    in_rounds = rounds(log, np.arange(len(log.at_ms)))
    lengths = np.diff(log.offsets)
    assert [len(one) for one in in_rounds] == [int((lengths > n).sum()) for n in range(lengths.max())]
    for n, one in enumerate(in_rounds):
        np.testing.assert_array_equal(one - log.offsets[log.query_of(one)], n)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, unique=True))
def test_rounds_hold_every_place_once_and_rise_within_a_query(shop: Any, chosen: list[int]) -> None:
    log = shop.dataset.events
    in_rounds = rounds(log, np.array(chosen))
    np.testing.assert_array_equal(np.sort(np.concatenate(in_rounds)), np.sort(chosen))
    last: dict[int, int] = {}
    for one in in_rounds:
        queries = log.query_of(one).tolist()
        assert len(set(queries)) == len(queries)
        for query, place in zip(queries, one.tolist(), strict=True):
            assert last.get(query, -1) < place
            last[query] = place


def test_spread_events_are_of_all_queries_alike_and_follow_from_the_seed(shop: Any) -> None:
    log = shop.dataset.events
    lengths = np.diff(log.offsets)
    places = spread_events(log, num=150, seed=3)
    assert len(np.unique(places)) == 150
    counts = np.bincount(log.query_of(places), minlength=len(lengths))
    # Nobody has two more than somebody who has further events.
    assert counts.max() - counts[counts < lengths].min() <= 1
    np.testing.assert_array_equal(places, spread_events(log, num=150, seed=3))
    assert (places != spread_events(log, num=150, seed=4)).any()
    np.testing.assert_array_equal(spread_events(log, num=10_000, seed=3), np.arange(len(log.at_ms)))
    assert set(log.splits[spread_events(log, num=200, seed=3)]) == set(SPLITS)


def test_the_dataset_of_these_tests_has_what_is_hard(shop: Any) -> None:
    log = shop.dataset.events
    lengths, spec = np.diff(log.offsets), Stage1.read(shop.release_dir).spec
    assert lengths.min() < spec.history_length < spec.stored_history < lengths.max()
    assert (np.diff(log.at_ms) == 0).any()
    assert set(log.events) == {"rating", "view"}
    assert (log.relevance == 0).any()
    assert len(np.unique(log.at_ms // DAY_MS)) == 12
    assert dataclasses.replace(shop.dataset).query_texts.count("") > 0
