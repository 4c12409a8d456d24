import fcntl
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.errors import FeaturesError
from features.offline_store import historical_features, write_query_states
from features.online_store import OnlineStore, materialize
from features.query_states import StateColumns

COLUMNS = StateColumns(categories=("gender", "city"), numbers=("age", "height"))
LAST_AT_MS = 5_000


def made_log(*, num_queries: int, num_events: int) -> tuple[pa.Table, pa.Table]:
    """Each query q has the events 0..num_events-1 at 1,000 ms each and the last two of them together at LAST_AT_MS."""
    rows = [(q, place) for q in range(num_queries) for place in range(num_events)]
    events = pa.table(
        {
            "query_id": [f"q{q}" for q, _ in rows],
            "item_id": [f"i{q}-{place}" for q, place in rows],
            "value": [float(place) for _, place in rows],
            "occurred_at_ms": pa.array([1_000 if place < num_events - 2 else LAST_AT_MS for _, place in rows]),
            "position": pa.array([place for _, place in rows], pa.int32()),
            "split": ["train"] * len(rows),
        }
    )
    queries = pa.table(
        {
            "query_id": [*(f"q{q}" for q in range(num_queries)), "quiet"],
            "gender": ["F"] * num_queries + [None],
            "city": [f"c{q}" for q in range(num_queries)] + ["Ö"],
            "age": [float(q) for q in range(num_queries)] + [None],
            "height": pa.array([170] * (num_queries + 1), pa.int32()),
        }
    )
    return events, queries


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("offline") / "states.parquet"
    events, queries = made_log(num_queries=40, num_events=6)
    write_query_states(path, events=events, queries=queries, columns=COLUMNS, history_length=5)
    return path


@pytest.fixture(scope="module")
def store(states: Path, tmp_path_factory: pytest.TempPathFactory) -> OnlineStore:
    repo_dir = tmp_path_factory.mktemp("online") / "new" / "feast"
    materialize(repo_dir, states=states, spec_hash="0123456789abcdef")
    return OnlineStore.open(repo_dir)


def test_a_read_gives_the_newest_state_ties_included(store: OnlineStore) -> None:
    features, known = store.read(["q3"], requested_at_ms=[9_000])
    assert known == [True]
    # Six events of which the store keeps five; the last two share their instant.
    assert features.history_item_ids == [["i3-1", "i3-2", "i3-3", "i3-4", "i3-5"]]
    assert features.history_values == [[1.0, 2.0, 3.0, 4.0, 5.0]]
    assert features.history_at_ms == [[1_000, 1_000, 1_000, 5_000, 5_000]]
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
    np.testing.assert_equal(features.numbers, [[np.nan, 170.0]])


def test_an_unknown_query_is_told_and_the_others_keep_their_places(store: OnlineStore) -> None:
    features, known = store.read(["q1", "nobody", "q0", "q1", ""], requested_at_ms=[1, 2, 3, 4, 5])
    assert known == [True, False, True, True, False]
    assert [history[-1:] for history in features.history_item_ids] == [["i1-5"], [], ["i0-5"], ["i1-5"], []]
    assert features.categories[1] == ["", ""]
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


def test_columns_and_spec_are_those_of_the_states(store: OnlineStore) -> None:
    assert store.columns == COLUMNS
    assert store.spec_hash == "0123456789abcdef"


def test_states_after_the_wanted_instant_are_left_out(states: Path, tmp_path: Path) -> None:
    for until_at_ms, last in ((LAST_AT_MS - 1, "i3-3"), (LAST_AT_MS, "i3-5")):
        materialize(tmp_path, states=states, until_at_ms=until_at_ms)
        features, _ = OnlineStore.open(tmp_path).read(["q3"], requested_at_ms=[9_000])
        assert features.history_item_ids[0][-1] == last


def test_a_state_older_than_the_ttl_is_an_unknown_querys(store: OnlineStore, states: Path, tmp_path: Path) -> None:
    materialize(tmp_path, states=states)
    brief = OnlineStore.open(tmp_path, ttl_ms=100)
    features, known = brief.read(["q3", "q3"], requested_at_ms=[LAST_AT_MS + 100, LAST_AT_MS + 101])
    assert known == [True, False]
    assert [len(history) for history in features.history_item_ids] == [5, 0]
    assert features.categories == [["F", "c3"], ["", ""]]
    assert store.read(["q3"], requested_at_ms=[LAST_AT_MS + 10**12])[1] == [True]


def test_an_open_store_follows_a_new_version_and_only_two_are_kept(states: Path, tmp_path: Path) -> None:
    repo_dir = tmp_path / "feast"
    (repo_dir / "versions" / "v-killed").mkdir(parents=True)
    materialize(repo_dir, states=states, until_at_ms=1_000, spec_hash="first")
    store = OnlineStore.open(repo_dir)
    assert store.read(["q0"], requested_at_ms=[0])[0].history_item_ids[0][-1] == "i0-3"
    versions = {materialize(repo_dir, states=states, spec_hash=f"{n}").version for n in range(3)}
    assert store.read(["q0"], requested_at_ms=[0])[0].history_item_ids[0][-1] == "i0-5"
    assert (store.spec_hash, store.version in versions) == ("2", True)
    assert len(list((repo_dir / "versions").iterdir())) == 2


def test_a_failed_materialisation_leaves_the_current_version(states: Path, tmp_path: Path) -> None:
    before = materialize(tmp_path, states=states).version
    with pytest.raises(FeaturesError, match="none of the 281 states is from before -5 ms"):
        materialize(tmp_path, states=states, until_at_ms=-5)
    assert OnlineStore.open(tmp_path).version == before
    assert [version.name for version in (tmp_path / "versions").iterdir()] == [before]


def test_threads_read_whole_versions_while_new_ones_are_made(tmp_path: Path) -> None:
    """Version n has n events for each query: a mixture of two versions would have two lengths."""
    paths = []
    for num_events in (3, 4, 5, 6):
        paths.append(tmp_path / f"{num_events}.parquet")
        events, queries = made_log(num_queries=20, num_events=num_events)
        write_query_states(paths[-1], events=events, queries=queries, columns=COLUMNS)
    repo_dir = tmp_path / "feast"
    materialize(repo_dir, states=paths[0])
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
            materialize(repo_dir, states=path)
        lengths = list(answers)
    assert all(len(found) == 1 for found in lengths)
    assert read_all(0) == {6}


def test_two_writers_do_not_meet(states: Path, tmp_path: Path) -> None:
    materialize(tmp_path, states=states)
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FeaturesError, match="another process is materialising there"):
            materialize(tmp_path, states=states)
    materialize(tmp_path, states=states)


def test_an_online_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match=r"nothing was materialised there .*run scripts/export_release.py"):
        OnlineStore.open(tmp_path / "nowhere")


FIRST_READ = """
import os, pathlib, sys

def tell(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("asked the network:", event, arguments[1:], flush=True)

sys.addaudithook(tell)
from features.online_store import OnlineStore, materialize

print("feast" in sys.modules)
repo_dir, states = map(pathlib.Path, sys.argv[1:])
materialize(repo_dir, states=states)
print(OnlineStore.open(repo_dir).read(["q0"], requested_at_ms=[0])[1])
print([name for name in os.environ if name.startswith("PROMETHEUS")])
"""


def test_feast_is_imported_late_and_leaves_network_output_and_environment_alone(states: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_READ, str(tmp_path), str(states)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["False", "[True]", "[]"]
