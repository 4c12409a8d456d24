"""Deltas that are published while a real Triton with two instances and a real gateway serve the release."""

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from features.spec import DAY_MS
from features.statistics import STATISTICS, ItemStatistics
from features.transforms import QueryFeatures
from serving.answers import Answer
from serving.client import RecommendClient
from serving.deltas import MANIFEST_FILE, STATISTICS_FILE, Deltas
from serving.model_repository import build_model_repository
from serving.pipeline import Pipeline
from serving.release import Release
from serving.settings import Instances, TritonSettings
from serving.triton import TritonServer

pytestmark = pytest.mark.timeout(300)

Ask = Callable[[], Answer]


@pytest.fixture(scope="module")
def release_dir(tiny_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_release, tmp_path_factory.mktemp("deltas") / "release"))


@pytest.fixture(scope="module")
def server(
    release_dir: Path, triton_settings: TritonSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    work_dir = tmp_path_factory.mktemp("triton")
    settings = dataclasses.replace(triton_settings, instances=Instances(recommend=2))
    build_model_repository(release_dir=release_dir, repository_dir=work_dir / "models", settings=settings)
    with TritonServer(settings=settings, repository_dir=work_dir / "models", work_dir=work_dir) as server:
        yield server


@pytest.fixture(scope="module")
def query(build_queries: Callable[[list[list[str]]], QueryFeatures]) -> QueryFeatures:
    return build_queries([["i1", "i2", "i3"]])


@pytest.fixture(scope="module")
def ask(server: TritonServer, release_dir: Path, query: QueryFeatures) -> Iterator[Ask]:
    spec_hash = Release.open(release_dir, delta=0).spec.hash
    with RecommendClient(address=server.grpc_address, deadline_s=60.0) as client:
        yield lambda: client.recommend(query, k=20, spec_hash=spec_hash)[0]


def write(deltas: Deltas, day: int) -> int:
    values = np.random.default_rng(day).random((1, deltas.num_rows, len(STATISTICS)), dtype=np.float32)
    return deltas.write(ItemStatistics(ticks_at_ms=np.array([day * DAY_MS]), values=values))


def ask_often(ask: Ask, num: int) -> list[Answer]:
    """From four threads at a time, so that both instances are busy."""
    with ThreadPoolExecutor(max_workers=4) as threads:
        return list(threads.map(lambda _: ask(), range(num)))


def assert_from(answer: Answer, *, release_dir: Path, query: QueryFeatures, settings: TritonSettings) -> None:
    """An answer is exactly what the release gives at the delta that the answer names."""
    pipeline = Pipeline.open(release_dir, settings=settings.pipeline, delta=answer.delta)
    wanted = pipeline.recommend(query, k=20)
    assert [item.item_id for item in answer.items] == wanted.item_ids[0]
    assert [item.score for item in answer.items] == wanted.scores[0].tolist()


def test_both_instances_take_up_new_deltas_without_a_restart(
    ask: Ask, server: TritonServer, release_dir: Path, query: QueryFeatures, triton_settings: TritonSettings
) -> None:
    deltas, pid = Release.open(release_dir, delta=0).deltas, server.pid
    for number, day in ((0, None), (1, 10), (2, 11)):
        assert day is None or write(deltas, day) == number
        answers = ask_often(ask, 30)
        assert Counter(answer.delta for answer in answers) == {number: 30}
        for answer in answers[:5]:
            assert_from(answer, release_dir=release_dir, query=query, settings=triton_settings)
    assert server.pid == pid


def of_another_release(path: Path) -> None:
    manifest = json.loads((path / MANIFEST_FILE).read_text())
    (path / MANIFEST_FILE).write_text(json.dumps({**manifest, "release_id": "0123456789abcdef"}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: os.truncate(path / STATISTICS_FILE, 100), "statistics.npy is damaged"),
        (of_another_release, "expected release_id"),
        (lambda path: path.joinpath(MANIFEST_FILE).unlink(), "is no whole delta"),
    ],
    ids=["truncated", "foreign", "half"],
)
def test_a_bad_delta_leaves_the_last_good_one_serving_and_the_next_one_is_taken_up(
    ask: Ask, server: TritonServer, release_dir: Path, damage: Callable[[Path], None], said: str
) -> None:
    deltas = Release.open(release_dir, delta=0).deltas
    day = 1000 + deltas.newest
    good = write(deltas, day)
    assert {answer.delta for answer in ask_often(ask, 20)} == {good}

    damage(deltas.path(write(deltas, day + 1)))  # nobody asks meanwhile, so nobody saw it whole
    assert {answer.delta for answer in ask_often(ask, 20)} == {good}
    deltas.point_to(good - 1)
    assert {answer.delta for answer in ask_often(ask, 20)} == {good}
    log = server.log_path.read_text(errors="replace")
    assert said in log
    assert f"delta {good} goes on serving" in log

    deltas.point_to(good + 1)
    assert write(deltas, day + 2) == good + 2
    assert {answer.delta for answer in ask_often(ask, 20)} == {good + 2}


def test_no_request_fails_and_every_answer_is_of_one_delta_while_deltas_are_published(
    ask: Ask, release_dir: Path, query: QueryFeatures, triton_settings: TritonSettings
) -> None:
    deltas = Release.open(release_dir, delta=0).deltas
    first = deltas.newest
    with ThreadPoolExecutor(max_workers=1) as publisher:
        published = publisher.submit(lambda: [write(deltas, 2000 + number) for number in range(8)])
        answers = []
        while not published.done():
            answers += ask_often(ask, 20)
    answers += ask_often(ask, 20)
    numbers = [answer.delta for answer in answers]
    assert set(numbers) <= set(range(first, first + 9))
    assert set(numbers[-20:]) == {first + 8}
    for delta in sorted(set(numbers)):
        for answer in [answer for answer in answers if answer.delta == delta][:3]:
            assert_from(answer, release_dir=release_dir, query=query, settings=triton_settings)
