import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.errors import FeaturesError, SchemaMismatch, StoreUnavailable
from features.spec import FeatureSpec
from features.stores.materialize import materialize
from features.stores.online_settings import OnlineSettings, RedisSettings
from features.stores.online_store import OnlineStore
from features.stores.state_writer import Added, StateWriter, materialize_new
from serving import child_process

WriteStates = Callable[..., Path]
NUM_QUERIES = 30
QUERY_IDS = [f"q{q}" for q in range(NUM_QUERIES)]


@pytest.fixture(scope="module")
def whole_log(write_states: WriteStates, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The states of 30 queries before all and after each of six events, two of them at each second."""
    path = write_states(tmp_path_factory.mktemp("whole") / "states", num_queries=NUM_QUERIES, num_events=6)
    return pq.read_table(path)


@pytest.fixture
def repo_dir(write_states: WriteStates, online: OnlineSettings, tmp_path: Path) -> Path:
    """A store in which each query has its state after three events, and `quiet` has none."""
    states = write_states(tmp_path / "three", num_queries=NUM_QUERIES, num_events=3, latest_only=True)
    materialize(tmp_path / "store", states=states, online=online)
    return tmp_path / "store"


def states_at(whole_log: pa.Table, *, positions: list[int], query_ids: list[str] = QUERY_IDS) -> pa.RecordBatch:
    wanted = pc.and_(
        pc.is_in(whole_log["position"], pa.array(positions, pa.int32())),
        pc.is_in(whole_log["query_id"], pa.array(query_ids)),
    )
    (batch,) = whole_log.filter(wanted).replace_schema_metadata().combine_chunks().to_batches()
    return batch


def newest_items(store: OnlineStore) -> list[str]:
    features, _ = store.read(QUERY_IDS, requested_at_ms=[9_000] * NUM_QUERIES)
    return [history[-1] for history in features.history_item_ids]


def test_new_states_are_seen_by_the_next_read_and_the_others_stay(whole_log: pa.Table, repo_dir: Path) -> None:
    store = OnlineStore.open(repo_dir)
    version = store.version
    with StateWriter.open(repo_dir) as writer:
        assert writer.write(states_at(whole_log, positions=[3], query_ids=["q0", "q7"])) == 2
        expected = [f"i{q}-{3 if q in (0, 7) else 2}" for q in range(NUM_QUERIES)]
        assert newest_items(store) == expected
        for position in (4, 5):
            assert writer.write(states_at(whole_log, positions=[position], query_ids=["q0"])) == 1
            features, _ = store.read(["q0"], requested_at_ms=[9_000])
            assert features.history_item_ids[0][-1] == f"i0-{position}"
    assert store.version == version
    assert store.read(["quiet"], requested_at_ms=[9_000])[1] == [True]


def test_an_added_state_is_read_like_a_materialised_one(
    whole_log: pa.Table, repo_dir: Path, write_states: WriteStates, online: OnlineSettings, tmp_path: Path
) -> None:
    with StateWriter.open(repo_dir) as writer:
        assert writer.write(states_at(whole_log, positions=[5])) == NUM_QUERIES
    states = write_states(tmp_path / "six", num_queries=NUM_QUERIES, num_events=6)
    materialize(tmp_path / "other", states=states, online=online)
    added, materialised = (
        OnlineStore.open(directory).read(QUERY_IDS, requested_at_ms=[9_000] * NUM_QUERIES)
        for directory in (repo_dir, tmp_path / "other")
    )
    assert added == materialised


def test_an_older_state_never_replaces_a_newer_one(whole_log: pa.Table, repo_dir: Path) -> None:
    store = OnlineStore.open(repo_dir)
    # The store has position 2, at 2,000 ms; position 3 shares that instant, 1 is older, 5 is the newest of all.
    for round_of, written, newest in (([1], 0, 2), ([2], 0, 2), ([3], 30, 3), ([2, 1], 0, 3), ([5, 4], 30, 5)):
        with StateWriter.open(repo_dir) as writer:
            assert writer.write(states_at(whole_log, positions=round_of)) == written
            assert writer.write(states_at(whole_log, positions=round_of)) == 0
        assert newest_items(store) == [f"i{q}-{newest}" for q in range(NUM_QUERIES)]


def test_a_query_that_the_store_lacks_comes_to_it(whole_log: pa.Table, repo_dir: Path) -> None:
    batch = states_at(whole_log, positions=[-1, 0], query_ids=["q0"])
    renamed = batch.set_column(0, whole_log.schema.field("query_id"), pa.array(["new", "new"]))
    with StateWriter.open(repo_dir) as writer:
        assert writer.write(renamed) == 1  # of two states of a query the newest counts
    features, known = OnlineStore.open(repo_dir).read(["new"], requested_at_ms=[9_000])
    assert (known, features.history_item_ids) == ([True], [["i0-0"]])


def test_a_file_is_written_and_counted(
    repo_dir: Path, write_states: WriteStates, state_spec: FeatureSpec, tmp_path: Path
) -> None:
    version = OnlineStore.open(repo_dir).version
    day = write_states(tmp_path / "day", num_queries=NUM_QUERIES + 2, num_events=5, latest_only=True)
    # The 30 queries have newer states and two are new; `quiet`'s is the one before all events as before.
    assert materialize_new(repo_dir, states=day) == Added(version=version, num_written=32, num_older=1)
    assert materialize_new(repo_dir, states=day) == Added(version=version, num_written=0, num_older=33)
    assert newest_items(OnlineStore.open(repo_dir)) == [f"i{q}-4" for q in range(NUM_QUERIES)]
    other = replace(state_spec, stored_history=6)
    path = write_states(tmp_path / "other", num_queries=1, num_events=9, spec=other)
    with pytest.raises(SchemaMismatch, match=f"the feature spec {state_spec.hash} of .* is for {other.hash}"):
        materialize_new(repo_dir, states=path)


def test_a_large_write_is_divided_and_whole(write_states: WriteStates, online: OnlineSettings, tmp_path: Path) -> None:
    first, second = (
        write_states(tmp_path / f"{num}", num_queries=1_200, num_events=num, latest_only=True) for num in (1, 2)
    )
    materialize(tmp_path / "store", states=first, online=online)
    assert materialize_new(tmp_path / "store", states=second).num_written == 1_200
    query_ids = [f"q{q}" for q in range(1_200)]
    features, _ = OnlineStore.open(tmp_path / "store").read(query_ids, requested_at_ms=[9_000] * 1_200)
    assert features.history_item_ids == [[f"i{q}-0", f"i{q}-1"] for q in range(1_200)]


def test_threads_read_each_query_whole_while_it_is_written(whole_log: pa.Table, repo_dir: Path) -> None:
    store = OnlineStore.open(repo_dir)

    def read_all(_: int) -> list[int]:
        features, known = store.read(QUERY_IDS, requested_at_ms=[9_000] * NUM_QUERIES)
        assert all(known)
        for history, values, at_ms in zip(
            features.history_item_ids, features.history_values, features.history_at_ms, strict=True
        ):
            newest = int(history[-1].rpartition("-")[2])
            assert values == [float(place) for place in range(max(0, newest - 4), newest + 1)]
            assert at_ms[-1] == 1_000 * (newest // 2 + 1)
        return [int(history[-1].rpartition("-")[2]) for history in features.history_item_ids]

    with ThreadPoolExecutor(3) as pool, StateWriter.open(repo_dir) as writer:
        answers = pool.map(read_all, range(60))
        for position in (3, 4, 5):
            writer.write(states_at(whole_log, positions=[position]))
        seen = list(answers)
    assert read_all(0) == [5] * NUM_QUERIES
    assert all(set(newest) <= {2, 3, 4, 5} for newest in seen)


WRITES = """
import pathlib, sys
import pyarrow.parquet as pq
import features.stores.state_writer as state_writer

state_writer.QUERIES_A_WRITE = 40
repo_dir, states = map(pathlib.Path, sys.argv[1:])
with state_writer.StateWriter.open(repo_dir) as writer:
    table = pq.read_table(states).replace_schema_metadata().sort_by("position")
    print("writing", flush=True)
    for batch in table.to_batches(max_chunksize=400):
        writer.write(batch)
print("done", flush=True)
"""


def test_a_killed_writer_leaves_each_query_with_one_whole_state(
    write_states: WriteStates, online: OnlineSettings, tmp_path: Path
) -> None:
    """Killed at some point of 400 queries' 40 states each: every query has one of them, and a second writer goes on."""
    first = write_states(tmp_path / "first", num_queries=400, num_events=1)
    states = write_states(tmp_path / "states", num_queries=400, num_events=40)
    repo_dir = tmp_path / "store"
    materialize(repo_dir, states=first, online=online)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", WRITES, str(repo_dir), str(states)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        store = OnlineStore.open(repo_dir)
        while store.read(["q0"], requested_at_ms=[0])[0].history_values[0][-1] < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.stdout.read() == "", "the writer came to its end before it was killed"
    query_ids = [f"q{q}" for q in range(400)]
    features, known = OnlineStore.open(repo_dir).read(query_ids, requested_at_ms=[10**6] * 400)
    assert all(known)
    newest = [int(values[-1]) for values in features.history_values]
    for n, (query_id, last) in enumerate(zip(query_ids, newest, strict=True)):
        places = range(max(0, last - 4), last + 1)
        assert features.history_item_ids[n] == [f"i{query_id[1:]}-{place}" for place in places]
        assert features.history_at_ms[n] == [1_000 * (place // 2 + 1) for place in places]
    assert 3 <= max(newest) < 39
    materialize_new(repo_dir, states=states)
    features, _ = OnlineStore.open(repo_dir).read(query_ids, requested_at_ms=[10**6] * 400)
    assert [values[-1] for values in features.history_values] == [39.0] * 400


def test_a_writer_is_alone_and_needs_a_store(repo_dir: Path, tmp_path: Path) -> None:
    with (repo_dir / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(FeaturesError, match="another process is materialising there"),
            StateWriter.open(repo_dir),
        ):
            pass
    with pytest.raises(FeaturesError, match="nothing was materialised there"), StateWriter.open(tmp_path / "nowhere"):
        pass


def test_rows_of_other_columns_are_refused(whole_log: pa.Table, repo_dir: Path) -> None:
    batch = states_at(whole_log, positions=[5]).drop_columns(["says"])
    with (
        StateWriter.open(repo_dir) as writer,
        pytest.raises(
            SchemaMismatch, match=r"position, says, gender, .*; got query_id, history, state_at_ms, position, g"
        ),
    ):
        writer.write(batch)


def test_a_redis_that_does_not_answer_is_told(
    start_redis: Callable[..., RedisSettings], whole_log: pa.Table, write_states: WriteStates, tmp_path: Path
) -> None:
    settings, gone = start_redis(), child_process.free_ports(1)[0]
    states = write_states(tmp_path / "states", num_queries=1, num_events=1)
    materialize(tmp_path / "store", states=states, online=OnlineSettings(type="redis", redis=settings))
    configuration = tmp_path / "store" / "current" / "feature_store.yaml"
    configuration.write_text(configuration.read_text().replace(str(settings.port), str(gone)))
    with (
        StateWriter.open(tmp_path / "store") as writer,
        pytest.raises(StoreUnavailable, match=f"Redis at 127.0.0.1:{gone}"),
    ):
        writer.write(states_at(whole_log, positions=[5]))
