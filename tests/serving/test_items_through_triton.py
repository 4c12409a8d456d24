"""Items changed over gRPC: two Tritons of two instances each serve one release, and one of them is killed."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.transforms import QueryFeatures
from serving import item_wire
from serving.answers import Answer
from serving.carried_changes import carry_changes
from serving.client import RecommendClient
from serving.errors import InvalidRequest, ServerUnavailable, ServingError, SpecMismatch
from serving.item_filter import ItemFilter
from serving.item_wire import ChangeRequest, ItemFacts
from serving.items_client import ItemsClient
from serving.model_repository import build_model_repository
from serving.pipeline import Pipeline
from serving.release import Release
from serving.settings import Instances, TritonSettings
from serving.triton import TritonServer
from serving.wire import Tensors
from tests.serving.test_carried_changes import exported_anew

pytestmark = pytest.mark.timeout(300)

KEPT = 100  # of the release's 300 items, so that every candidate list holds all there are


@pytest.fixture(scope="module")
def release_dir(tiny_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_release, tmp_path_factory.mktemp("changed") / "release"))


@pytest.fixture(scope="module")
def settings(triton_settings: TritonSettings) -> TritonSettings:
    return replace(triton_settings, instances=Instances(recommend=2))


@pytest.fixture(scope="module")
def servers(
    release_dir: Path, settings: TritonSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[TritonServer]]:
    started = []
    try:
        for _ in range(2):
            work_dir = tmp_path_factory.mktemp("server")
            build_model_repository(release_dir=release_dir, repository_dir=work_dir / "models", settings=settings)
            started.append(TritonServer(settings=settings, repository_dir=work_dir / "models", work_dir=work_dir))
            started[-1].start()
        yield started
    finally:
        for server in started:
            server.stop()


@pytest.fixture(scope="module")
def spec_hash(release_dir: Path) -> str:
    return Release.open(release_dir).spec.hash


@pytest.fixture(scope="module")
def query(build_queries: Callable[[list[list[str]]], QueryFeatures]) -> QueryFeatures:
    return build_queries([["i1", "i2", "i3"]])


def facts(item_id: str) -> ItemFacts:
    return ItemFacts(item_id, categories={"genres": ["Drama"]}, numbers={"year": 1990}, texts={"title": "film"})


def change(server: TritonServer, request: ChangeRequest, *, spec_hash: str) -> int:
    with ItemsClient(address=server.grpc_address, deadline_s=60.0) as client:
        return client.change(request, spec_hash=spec_hash)


def ask_often(server: TritonServer, query: QueryFeatures, *, spec_hash: str, num: int = 16) -> list[Answer]:
    """From four threads at a time, so that both instances are busy."""
    with RecommendClient(address=server.grpc_address, deadline_s=60.0) as client, ThreadPoolExecutor(4) as threads:

        def ask(_: int) -> Answer:
            return client.recommend(query, k=20, spec_hash=spec_hash, with_candidates=True)[0]

        return list(threads.map(ask, range(num)))


def there(answer: Answer) -> set[str]:
    return {item_id for item_id, _ in answer.candidates}


def test_a_change_through_one_server_is_in_the_next_answer_of_every_instance_of_both(
    servers: list[TritonServer], release_dir: Path, settings: TritonSettings, query: QueryFeatures, spec_hash: str
) -> None:
    expected = {f"i{number}" for number in range(KEPT)} - set(query.history_item_ids[0])
    gone = tuple(f"i{number}" for number in range(KEPT, 300))
    number = change(servers[0], ChangeRequest(deleted_ids=gone), spec_hash=spec_hash)
    for step, (writer, request) in enumerate(
        [
            (servers[1], ChangeRequest(items=(facts("new ü"), facts("new 2")), deleted_ids=("i9",))),
            (servers[0], ChangeRequest(items=(facts("i8"), facts("new 3")), deleted_ids=("new 2",))),
            (servers[1], ChangeRequest(restored_ids=("i9", "i150"))),
        ]
    ):
        assert change(writer, request, spec_hash=spec_hash) == number + step + 1
        expected |= {item.item_id for item in request.items} | set(request.restored_ids)
        expected -= set(request.deleted_ids)
        for server in servers:
            for answer in ask_often(server, query, spec_hash=spec_hash):
                assert answer.changes == number + step + 1
                assert there(answer) == expected
                assert {item.item_id for item in answer.items} <= expected
    only = ItemFilter(allowed_ids=("new ü", "i9", "i150", "new 2"), categories=(("genres", ("Drama",)),))
    with RecommendClient(address=servers[0].grpc_address, deadline_s=60.0) as client:
        filtered = client.recommend(query, k=20, spec_hash=spec_hash, with_candidates=True, only=only)[0]
        assert there(filtered) == {item.item_id for item in filtered.items} == {"new ü", "i9", "i150"}
        with pytest.raises(InvalidRequest, match="only: items have the categories genres"):
            client.recommend(query, k=20, spec_hash=spec_hash, only=ItemFilter(categories=(("size", ("XL",)),)))
        nothing = client.recommend(query, k=20, spec_hash=spec_hash, only=ItemFilter(allowed_ids=()))[0]
        assert (nothing.items, nothing.changes) == ((), number + 3)
    # The same request is answered again from the number that an answer carries.
    again = Pipeline.open(release_dir, settings=settings.pipeline, delta=0, changes=answer.changes)
    wanted = again.recommend(query, k=20)
    assert [item.item_id for item in answer.items] == wanted.item_ids[0]
    np.testing.assert_array_equal([item.score for item in answer.items], wanted.scores[0])


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (ChangeRequest(), InvalidRequest, "expected something to change"),
        (ChangeRequest(deleted_ids=("nobody",)), InvalidRequest, r"deleted_ids: \['nobody'\] are not recommended"),
        (ChangeRequest(restored_ids=("i1",)), InvalidRequest, "are recommended, or unknown"),
        (ChangeRequest(deleted_ids=("i1", "i1")), InvalidRequest, "stand twice"),
        (ChangeRequest(items=(facts("a"), facts("a"))), InvalidRequest, "stands twice"),
        (ChangeRequest(items=(facts("i1"),), deleted_ids=("i1",)), InvalidRequest, "stand twice"),
        (ChangeRequest(items=(ItemFacts(""),)), InvalidRequest, "an item_id"),
        (ChangeRequest(items=(ItemFacts("a", numbers={"year": "1990"}),)), InvalidRequest, "year"),  # type: ignore[dict-item]
        (ChangeRequest(items=(ItemFacts("a", numbers={"size": 1.0}),)), InvalidRequest, "no numbers .*size"),
        (ChangeRequest(items=(ItemFacts("a", texts={"title": 5}),)), InvalidRequest, "title"),  # type: ignore[dict-item]
        (ChangeRequest(items=tuple(facts(f"n{n}") for n in range(257))), InvalidRequest, "at most 256"),
        (ChangeRequest(deleted_ids=tuple(f"i{n}" for n in range(10_001))), InvalidRequest, "at most 10000"),
    ],
)
def test_what_cannot_be_made_is_said_and_nothing_is_changed(
    servers: list[TritonServer],
    query: QueryFeatures,
    spec_hash: str,
    request_: ChangeRequest,
    error: type[ServingError],
    message: str,
) -> None:
    before = ask_often(servers[0], query, spec_hash=spec_hash, num=1)[0]
    with pytest.raises(error, match=message):
        change(servers[0], request_, spec_hash=spec_hash)
    with pytest.raises(SpecMismatch):
        change(servers[0], request_, spec_hash="another")
    after = ask_often(servers[0], query, spec_hash=spec_hash, num=1)[0]
    assert (after.changes, after.candidates) == (before.changes, before.candidates)


def test_json_that_is_none_is_refused(servers: list[TritonServer], spec_hash: str) -> None:
    encode = item_wire.encode_changes
    with ItemsClient(address=servers[0].grpc_address, deadline_s=60.0) as client, pytest.MonkeyPatch.context() as patch:
        for content in (b"{", b"[1]", b'{"item_id": "a"}', b"[" * 100_000, b"\xff"):

            def broken(request: ChangeRequest, *, spec_hash: str, content: bytes = content) -> Tensors:
                tensors = encode(request, spec_hash=spec_hash)
                return {**tensors, "items": np.array([content], dtype=object)}

            patch.setattr(item_wire, "encode_changes", broken)
            with pytest.raises(InvalidRequest, match="items"):
                client.change(ChangeRequest(), spec_hash=spec_hash)


def test_a_server_that_is_killed_loses_no_acknowledged_change_and_the_other_goes_on(
    servers: list[TritonServer], query: QueryFeatures, spec_hash: str
) -> None:
    acknowledged: list[str] = []
    stop = threading.Event()

    def add_forever() -> None:
        with ItemsClient(address=servers[0].grpc_address, deadline_s=60.0) as client:
            while not stop.is_set():
                item_id = f"added {len(acknowledged)}"
                try:
                    client.change(ChangeRequest(items=(facts(item_id),)), spec_hash=spec_hash)
                except ServingError:
                    return
                acknowledged.append(item_id)

    writer = threading.Thread(target=add_forever)
    writer.start()
    seen = -1
    while len(acknowledged) < 8:
        changes = [answer.changes for answer in ask_often(servers[1], query, spec_hash=spec_hash, num=4)]
        assert min(changes) >= seen
        seen = max(changes)
    pid = servers[0].pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    writer.join(timeout=90)
    stop.set()
    assert not writer.is_alive()
    for answer in ask_often(servers[1], query, spec_hash=spec_hash):
        assert set(acknowledged) <= there(answer)
    servers[0].stop()
    servers[0].start()
    for server in servers:
        for answer in ask_often(server, query, spec_hash=spec_hash):
            assert set(acknowledged) <= there(answer)
    number = change(servers[0], ChangeRequest(deleted_ids=tuple(acknowledged)), spec_hash=spec_hash)
    for answer in ask_often(servers[1], query, spec_hash=spec_hash):
        assert answer.changes == number
        assert not set(acknowledged) & there(answer)


def test_servers_of_a_release_that_another_one_follows_answer_and_refuse_changes_until_they_are_started_again(
    servers: list[TritonServer], release_dir: Path, query: QueryFeatures, spec_hash: str, tmp_path: Path
) -> None:
    number = change(servers[0], ChangeRequest(items=(facts("late"),), deleted_ids=("i20",)), spec_hash=spec_hash)
    before = there(ask_often(servers[1], query, spec_hash=spec_hash, num=1)[0])
    exported_anew(Path(shutil.copytree(release_dir, tmp_path / "next")))
    release_dir.rename(tmp_path / "former")
    (tmp_path / "next").rename(release_dir)
    carry_changes(release_dir)
    for server in servers:
        with pytest.raises(ServerUnavailable, match=r"takes no more changes, for \w+ follows it: start this server"):
            change(server, ChangeRequest(deleted_ids=("i21",)), spec_hash=spec_hash)
        for answer in ask_often(server, query, spec_hash=spec_hash):
            assert (answer.changes, there(answer)) == (number + 1, before)
    servers[0].stop()
    servers[0].start()
    change(servers[0], ChangeRequest(deleted_ids=("i21",)), spec_hash=spec_hash)
    for answer in ask_often(servers[0], query, spec_hash=spec_hash):
        assert there(answer) == before - {"i21"}
