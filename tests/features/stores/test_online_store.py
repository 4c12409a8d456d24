import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from features.errors import FeaturesError, StoreUnavailable
from features.spec import FeatureSpec
from features.stores.materialize import materialize
from features.stores.offline_store import historical_features
from features.stores.online_settings import OnlineSettings, RedisSettings
from features.stores.online_store import OnlineStore
from features.stores.state_rows import StateColumns
from serving import child_process

WriteStates = Callable[..., Path]
LAST_AT_MS = 3_000  # of six events, two a second


@pytest.fixture(scope="module")
def states(write_states: WriteStates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_states(tmp_path_factory.mktemp("offline") / "states.parquet", num_queries=40, num_events=6)


@pytest.fixture(scope="module")
def store(states: Path, online: OnlineSettings, tmp_path_factory: pytest.TempPathFactory) -> OnlineStore:
    repo_dir = tmp_path_factory.mktemp("online") / "new" / "feast"
    materialize(repo_dir, states=states, online=online)
    return OnlineStore.open(repo_dir)


def test_a_read_gives_the_newest_state_ties_included(store: OnlineStore) -> None:
    features, known = store.read(["q3"], requested_at_ms=[9_000])
    assert known == [True]
    # Six events of which the store keeps five; each two share their instant.
    assert features.history_item_ids == [["i3-1", "i3-2", "i3-3", "i3-4", "i3-5"]]
    assert features.history_events == [["purchase", "view", "purchase", "view", "purchase"]]
    assert features.history_values == [[1.0, 2.0, 3.0, 4.0, 5.0]]
    assert features.history_at_ms == [[1_000, 2_000, 2_000, 3_000, 3_000]]
    assert features.texts == ["words of 3"]
    assert features.categories == [["F", "c3"]]
    assert features.numbers == [[3.0, 170.0]]
    assert features.requested_at_ms == [9_000]


def test_the_online_and_the_offline_store_give_the_same_features(store: OnlineStore, states: Path) -> None:
    query_ids = [f"q{q}" for q in range(40)]
    at_ms = [LAST_AT_MS + 1] * 40
    online, offline = (
        store.read(query_ids, requested_at_ms=at_ms),
        historical_features(states, query_ids=query_ids, requested_at_ms=at_ms),
    )
    assert online == offline


def test_a_query_without_events_has_its_attributes(store: OnlineStore) -> None:
    features, known = store.read(["quiet"], requested_at_ms=[9_000])
    assert (known, features.history_item_ids, features.categories) == ([True], [[]], [["", "Ö"]])
    assert features.texts == [""]
    np.testing.assert_equal(features.numbers, [[np.nan, 170.0]])


def test_an_unknown_query_is_told_and_the_others_keep_their_places(store: OnlineStore) -> None:
    features, known = store.read(["q1", "nobody", "q0", "q1", ""], requested_at_ms=[1, 2, 3, 4, 5])
    assert known == [True, False, True, True, False]
    assert [history[-1:] for history in features.history_item_ids] == [["i1-5"], [], ["i0-5"], ["i1-5"], []]
    assert (features.texts[1], features.categories[1]) == ("", ["", ""])
    np.testing.assert_equal(features.numbers[1], [np.nan, np.nan])
    assert features.requested_at_ms == [1, 2, 3, 4, 5]


def test_a_read_larger_than_one_statement_is_answered(store: OnlineStore) -> None:
    query_ids = [f"n{n}" for n in range(5_001)] + ["q2"]
    features, known = store.read(query_ids, requested_at_ms=[0] * len(query_ids))
    assert [n for n, is_known in enumerate(known) if is_known] == [5_001]
    assert features.categories[5_001] == ["F", "c2"]


def test_no_query_is_no_row_and_lengths_must_agree(store: OnlineStore) -> None:
    assert len(store.read([], requested_at_ms=[])[0]) == 0
    with pytest.raises(FeaturesError, match="expected an instant for each of 1 queries; got 2"):
        store.read(["q0"], requested_at_ms=[1, 2])


def test_columns_and_spec_are_those_of_the_states(store: OnlineStore, state_spec: FeatureSpec) -> None:
    assert store.columns == StateColumns(categories=("gender", "city"), numbers=("age", "height"), text="says")
    assert store.spec_hash == state_spec.hash


def test_a_state_older_than_the_ttl_is_an_unknown_querys_online_and_offline(
    store: OnlineStore, states: Path, online: OnlineSettings, tmp_path: Path
) -> None:
    ttl = timedelta(milliseconds=100)
    materialize(tmp_path, states=states, online=replace(online, ttl_days=ttl / timedelta(days=1)))
    brief = OnlineStore.open(tmp_path)
    query_ids, at_ms = ["q3", "q3"], [LAST_AT_MS + 100, LAST_AT_MS + 101]
    features, known = brief.read(query_ids, requested_at_ms=at_ms)
    assert (brief.ttl_ms, known) == (100, [True, False])
    assert [len(history) for history in features.history_item_ids] == [5, 0]
    assert features.texts == ["words of 3", ""]
    offline, offline_known = historical_features(states, query_ids=query_ids, requested_at_ms=at_ms, ttl=ttl)
    assert offline_known == known
    assert offline.history_item_ids == features.history_item_ids
    assert store.ttl_ms is None
    assert store.read(["q3"], requested_at_ms=[LAST_AT_MS + 10**12])[1] == [True]


def test_threads_read_whole_versions_while_new_ones_are_made(
    write_states: WriteStates, online: OnlineSettings, tmp_path: Path
) -> None:
    """Version n has n events for each query: a mixture of two versions would have two lengths."""
    paths = [write_states(tmp_path / f"{num}", num_queries=20, num_events=num) for num in (2, 3, 4, 5)]
    repo_dir = tmp_path / "feast"
    materialize(repo_dir, states=paths[0], online=online)
    store = OnlineStore.open(repo_dir)
    query_ids = [f"q{q}" for q in range(20)]

    def read_all(_: int) -> set[int]:
        features, known = store.read(query_ids, requested_at_ms=[0] * 20)
        assert all(known)
        assert [row[1] for row in features.categories] == [f"c{q}" for q in range(20)]
        return {len(history) for history in features.history_item_ids}

    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(read_all, range(200))
        for path in paths[1:]:
            materialize(repo_dir, states=path, online=online)
        lengths = list(answers)
    assert all(len(found) == 1 for found in lengths)
    assert read_all(0) == {5}


def test_an_online_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match=r"nothing was materialised there .*run scripts/export_release.py"):
        OnlineStore.open(tmp_path / "nowhere")


def test_a_redis_that_does_not_answer_is_told_at_once_and_asked_again_at_the_next_read(
    start_redis: Callable[..., RedisSettings], states: Path, tmp_path: Path
) -> None:
    settings = start_redis()
    materialize(tmp_path / "store", states=states, online=OnlineSettings(type="redis", redis=settings))
    gone = replace(settings, port=child_process.free_ports(1)[0])
    configuration = tmp_path / "store" / "current" / "feature_store.yaml"
    text = configuration.read_text()
    configuration.write_text(text.replace(str(settings.port), str(gone.port)))
    store = OnlineStore.open(tmp_path / "store")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=rf"an answer of the Redis at 127.0.0.1:{gone.port}, .*refused"):
            store.read(["q0"], requested_at_ms=[0])


FIRST_READ = """
import os, pathlib, sys

def tell(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("asked the network:", event, arguments[1:], flush=True)

sys.addaudithook(tell)
from features.stores.materialize import materialize
from features.stores.online_store import OnlineStore

print("feast" in sys.modules)
repo_dir, states = map(pathlib.Path, sys.argv[1:])
materialize(repo_dir, states=states)
print(OnlineStore.open(repo_dir).read(["q0"], requested_at_ms=[0])[1])
print([name for name in os.environ if name.startswith("PROMETHEUS")])
"""


def test_feast_is_imported_late_and_leaves_network_output_and_environment_alone(states: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_READ, str(tmp_path), str(states)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["False", "[True]", "[]"]
