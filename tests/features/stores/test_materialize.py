import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis

from features.errors import FeaturesError, SchemaMismatch, StoreUnavailable
from features.stores.materialize import materialize, remove_store
from features.stores.online_settings import PASSWORD_VARIABLE, OnlineSettings, RedisSettings
from features.stores.online_store import OnlineStore
from serving import child_process

WriteStates = Callable[..., Path]


@pytest.fixture(scope="module")
def states(write_states: WriteStates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six events a query, two at each of 1,000, 2,000 and 3,000 ms: 40 x (6 + 1) states and one of `quiet`."""
    return write_states(tmp_path_factory.mktemp("offline") / "states.parquet", num_queries=40, num_events=6)


def keys_of(settings: RedisSettings) -> dict[str, int]:
    """How many keys each project has."""
    counts: dict[str, int] = {}
    with Redis(host=settings.host, port=settings.port) as client:
        for key in client.scan_iter(count=1_000):
            project = key[key.index(b"twostage_") :].decode()
            counts[project] = counts.get(project, 0) + 1
    return counts


def test_states_after_the_wanted_instant_are_left_out(states: Path, online: OnlineSettings, tmp_path: Path) -> None:
    for until_at_ms, last in ((1_999, "i3-1"), (2_000, "i3-3")):
        materialize(tmp_path, states=states, until_at_ms=until_at_ms, online=online)
        features, _ = OnlineStore.open(tmp_path).read(["q3"], requested_at_ms=[9_000])
        assert features.history_item_ids[0][-1] == last


def test_more_queries_than_a_batch_are_all_written(
    write_states: WriteStates, online: OnlineSettings, tmp_path: Path
) -> None:
    states = write_states(tmp_path / "states", num_queries=2_100, num_events=1)
    assert materialize(tmp_path / "store", states=states, online=online).num_queries == 2_101
    query_ids = [f"q{q}" for q in range(2_100)]
    features, known = OnlineStore.open(tmp_path / "store").read(query_ids, requested_at_ms=[0] * 2_100)
    assert all(known)
    assert features.history_item_ids == [[f"i{q}-0"] for q in range(2_100)]


def test_an_open_store_follows_a_new_version_and_only_two_are_kept(
    states: Path, online: OnlineSettings, tmp_path: Path
) -> None:
    repo_dir = tmp_path / "feast"
    (repo_dir / "versions" / "v-killed").mkdir(parents=True)
    materialize(repo_dir, states=states, until_at_ms=1_000, online=online)
    store = OnlineStore.open(repo_dir)
    assert store.read(["q0"], requested_at_ms=[0])[0].history_item_ids[0][-1] == "i0-1"
    versions = {materialize(repo_dir, states=states, online=online).version for _ in range(3)}
    assert store.read(["q0"], requested_at_ms=[0])[0].history_item_ids[0][-1] == "i0-5"
    assert store.version in versions
    assert len(list((repo_dir / "versions").iterdir())) == 2


def test_a_store_changes_from_sqlite_to_redis_and_back_under_an_open_reader(
    states: Path, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    kinds = [OnlineSettings(), OnlineSettings(type="redis", redis=redis_settings), OnlineSettings()]
    materialize(tmp_path, states=states, until_at_ms=1_000)
    store = OnlineStore.open(tmp_path)
    for until_at_ms, kind in zip((1_000, 2_000, 3_000), kinds, strict=True):
        materialize(tmp_path, states=states, until_at_ms=until_at_ms, online=kind)
        features, _ = store.read(["q0"], requested_at_ms=[0])
        assert features.history_at_ms[0][-1] == until_at_ms


def test_a_redis_holds_the_keys_of_versions_that_are_read_and_no_others(
    start_redis: Callable[..., RedisSettings], states: Path, tmp_path: Path
) -> None:
    settings = start_redis()
    online = OnlineSettings(type="redis", redis=settings)
    other = materialize(tmp_path / "other", states=states, online=online).version
    versions = [materialize(tmp_path / "store", states=states, online=online).version for _ in range(3)]
    # 40 queries and `quiet`.
    assert keys_of(settings) == {f"twostage_{version}": 41 for version in (other, *versions[1:])}
    assert not (tmp_path / "store" / "current" / "online.db").exists()
    remove_store(tmp_path / "store")
    assert keys_of(settings) == {f"twostage_{other}": 41}
    assert not (tmp_path / "store").exists()
    remove_store(tmp_path / "store")  # where there is none, nothing happens


def test_a_failed_materialisation_leaves_the_current_version(
    states: Path, online: OnlineSettings, tmp_path: Path
) -> None:
    before = materialize(tmp_path, states=states, online=online).version
    with pytest.raises(FeaturesError, match="none of the 281 states is from before -5 ms"):
        materialize(tmp_path, states=states, until_at_ms=-5, online=online)
    assert OnlineStore.open(tmp_path).version == before
    assert [version.name for version in (tmp_path / "versions").iterdir()] == [before]


KILLED = """
import json, os, pathlib, signal, sys
from features.stores.feast_process import import_feast
from features.stores.materialize import materialize
from features.stores.online_settings import OnlineSettings, RedisSettings

import_feast()
from feast.infra.online_stores.redis import RedisOnlineStore

def die(self, config, table, data, progress, write=RedisOnlineStore.online_write_batch):
    write(self, config, table, data[: len(data) // 2], progress)
    os.kill(os.getpid(), signal.SIGKILL)

RedisOnlineStore.online_write_batch = die
repo_dir, states, port = sys.argv[1:]
online = OnlineSettings(type="redis", redis=RedisSettings(port=int(port)))
materialize(pathlib.Path(repo_dir), states=pathlib.Path(states), online=online)
"""


def test_what_a_killed_materialisation_left_in_a_redis_goes_with_the_next_one(
    start_redis: Callable[..., RedisSettings], states: Path, tmp_path: Path
) -> None:
    settings = start_redis()
    online = OnlineSettings(type="redis", redis=settings)
    repo_dir = tmp_path / "store"
    first = materialize(repo_dir, states=states, online=online).version
    command = [sys.executable, "-c", KILLED, str(repo_dir), str(states), str(settings.port)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    left = keys_of(settings)
    # Half of 41 queries were written under another name than the one that is read.
    assert left.pop(f"twostage_{first}") == 41
    assert list(left.values()) == [20]
    assert OnlineStore.open(repo_dir).version == first
    second = materialize(repo_dir, states=states, online=online).version
    assert keys_of(settings) == {f"twostage_{first}": 41, f"twostage_{second}": 41}


def test_a_redis_that_does_not_answer_is_told_and_nothing_changes(
    states: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = materialize(tmp_path, states=states).version
    gone = RedisSettings(port=child_process.free_ports(1)[0])
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(StoreUnavailable, match=rf"Redis at 127.0.0.1:{gone.port}, .*; got ConnectionError.*; mend it"),
    ):
        materialize(tmp_path, states=states, online=OnlineSettings(type="redis", redis=gone))
    assert OnlineStore.open(tmp_path).version == before
    # What it may hold of the version is asked for again when the next one is made.
    assert "stays until the next one is made" in caplog.text


def test_the_password_comes_from_the_environment_and_is_written_nowhere(
    start_redis: Callable[..., RedisSettings],
    states: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    password = 'se,cr=et"\\ $HOME'
    monkeypatch.setenv("HOME", "elsewhere")
    settings = start_redis("--requirepass", password)
    online = OnlineSettings(type="redis", redis=settings)
    with pytest.raises(StoreUnavailable, match="got AuthenticationError") as refused:
        materialize(tmp_path / "store", states=states, online=online)
    monkeypatch.setenv(PASSWORD_VARIABLE, password)
    with caplog.at_level(logging.DEBUG):
        materialize(tmp_path / "store", states=states, online=online)
        assert OnlineStore.open(tmp_path / "store").read(["q0"], requested_at_ms=[0])[1] == [True]
    monkeypatch.setenv(PASSWORD_VARIABLE, "se,cr")
    with pytest.raises(StoreUnavailable) as wrong:
        OnlineStore.open(tmp_path / "store").read(["q0"], requested_at_ms=[0])
    files = [file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file()]
    assert len(files) > 3
    for text in (*files, caplog.text.encode(), str(refused.value).encode(), str(wrong.value).encode()):
        assert b"se,cr" not in text
        assert b"se\\u002ccr" not in text


def test_two_writers_do_not_meet(states: Path, tmp_path: Path) -> None:
    materialize(tmp_path, states=states)
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FeaturesError, match="another process is materialising there"):
            materialize(tmp_path, states=states)
    materialize(tmp_path, states=states)


def test_a_table_that_names_no_spec_is_refused(tmp_path: Path) -> None:

    pq.write_table(pa.table({"query_id": ["a"]}), tmp_path / "states.parquet")
    with pytest.raises(SchemaMismatch, match=r"it has the columns query_id and no spec that this code reads .*again"):
        materialize(tmp_path / "store", states=tmp_path / "states.parquet")
