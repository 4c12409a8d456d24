import dataclasses
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.spec import DAY_MS
from features.statistics import STATISTICS, ItemStatistics
from features.transforms import QueryFeatures
from serving.deltas import STATISTICS_FILE, Deltas
from serving.follower import ReleaseFollower
from serving.models import OnnxModels, TowerArrays
from serving.pipeline import Pipeline
from serving.release import Release
from serving.retrieval import QUERY_TOWER_FILE
from serving.settings import PipelineSettings

SETTINGS = PipelineSettings(num_candidates=80, num_ranked=50)


@pytest.fixture
def release_dir(tiny_release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_release, tmp_path / "release"))


@pytest.fixture
def deltas(release_dir: Path) -> Deltas:
    return Release.open(release_dir).deltas


def write(deltas: Deltas, day: int) -> int:
    values = np.full((1, deltas.num_rows, len(STATISTICS)), float(day), dtype=np.float32)
    return deltas.write(ItemStatistics(ticks_at_ms=np.array([day * DAY_MS]), values=values))


def day_of(release: Release) -> float:
    return float(release.stage1.statistics.values[0, 0, 0])


def test_a_new_delta_is_taken_and_what_was_handed_out_stays_as_it_was(release_dir: Path, deltas: Deltas) -> None:
    follower = ReleaseFollower(Release.open(release_dir))
    built = follower.release
    assert follower.release is built
    write(deltas, 10)
    first = follower.release
    write(deltas, 11)
    assert [built.delta, first.delta, follower.release.delta] == [0, 1, 2]
    assert [day_of(first), day_of(follower.release)] == [10.0, 11.0]
    assert follower.release is follower.release


def test_what_was_published_while_the_release_was_opened_is_found(release_dir: Path, deltas: Deltas) -> None:
    opened = Release.open(release_dir)
    write(deltas, 10)
    assert ReleaseFollower(opened).release.delta == 1


def test_a_refused_delta_is_told_once_and_the_last_good_one_serves_until_the_next(
    release_dir: Path, deltas: Deltas, caplog: pytest.LogCaptureFixture
) -> None:
    follower = ReleaseFollower(Release.open(release_dir))
    write(deltas, 10)
    assert follower.release.delta == 1
    write(deltas, 11)
    whole = (deltas.path(2) / STATISTICS_FILE).read_bytes()
    (deltas.path(2) / STATISTICS_FILE).write_bytes(whole[:-8])
    assert [follower.release.delta for _ in range(5)] == [1] * 5
    assert caplog.text.count("delta 1 goes on serving") == 1
    # Mended in place it is looked at again when `current` is replaced.
    (deltas.path(2) / STATISTICS_FILE).write_bytes(whole)
    assert follower.release.delta == 1
    deltas.point_to(2)
    assert follower.release.delta == 2
    write(deltas, 12)
    assert follower.release.delta == 3


def test_a_running_server_never_goes_back(release_dir: Path, deltas: Deltas, caplog: pytest.LogCaptureFixture) -> None:
    follower = ReleaseFollower(Release.open(release_dir))
    for day in (10, 11):
        write(deltas, day)
    assert follower.release.delta == 2
    deltas.point_to(1)
    assert follower.release.delta == 2
    assert "expected a delta after 2" in caplog.text
    shutil.rmtree(deltas.directory)
    assert (follower.release.delta, day_of(follower.release)) == (2, 11.0)


def test_threads_see_whole_deltas_in_order_while_they_are_written(release_dir: Path, deltas: Deltas) -> None:
    follower, done = ReleaseFollower(Release.open(release_dir)), threading.Event()
    seen: list[list[tuple[int, float]]] = [[], [], []]

    def follow(own: list[tuple[int, float]]) -> None:
        while not done.is_set():
            release = follower.release
            own.append((release.delta, day_of(release)))

    threads = [threading.Thread(target=follow, args=(own,)) for own in seen]
    for thread in threads:
        thread.start()
    for day in range(10, 60):
        write(deltas, day)
    done.set()
    for thread in threads:
        thread.join()
    for own in seen:
        assert own == sorted(own)
        # The n-th delta is of day 9 + n.
        assert all(day == 9 + number for number, day in own if number)
    assert follower.release.delta == 50


@pytest.fixture
def queries(build_queries: Callable[[list[list[str]]], QueryFeatures]) -> QueryFeatures:
    return build_queries([["i1", "i2"], []])


def test_a_pipeline_follows_and_one_at_a_stated_delta_does_not(
    release_dir: Path, deltas: Deltas, queries: QueryFeatures
) -> None:
    following = Pipeline.open(release_dir, settings=SETTINGS)
    before = following.recommend(queries, k=10)
    write(deltas, 10)
    staying = Pipeline.open(release_dir, settings=SETTINGS, delta=1)
    first = following.recommend(queries, k=10)
    write(deltas, 11)
    assert [found.delta for found in (before, first, following.recommend(queries, k=10))] == [0, 1, 2]
    again = staying.recommend(queries, k=10)
    assert again.delta == 1
    for own, others in zip(again.scores, first.scores, strict=True):
        np.testing.assert_array_equal(own, others)
    assert any((own != others).any() for own, others in zip(before.scores, first.scores, strict=True))


class PublishingModels(OnnxModels):
    """Real models; a delta is published while the query tower runs."""

    publish: Callable[[], Any]

    def query_tower(self, inputs: TowerArrays) -> Any:
        self.publish()
        return super().query_tower(inputs)


def test_a_request_in_flight_ends_on_the_delta_that_it_began_with(
    release_dir: Path, deltas: Deltas, queries: QueryFeatures
) -> None:
    models = PublishingModels(query_tower=release_dir / QUERY_TOWER_FILE, ranker=release_dir / "ranker.onnx")
    days = iter((10, 11))
    models.publish = lambda: write(deltas, next(days))
    pipeline = Pipeline.open(release_dir, settings=SETTINGS, models=models)
    found = [pipeline.recommend(queries, k=10) for _ in range(2)]
    assert [one.delta for one in found] == [0, 1]
    for one in found:
        wanted = Pipeline.open(release_dir, settings=SETTINGS, delta=one.delta).recommend(queries, k=10)
        assert dataclasses.replace(one, stage_ms={}).item_ids == wanted.item_ids
        for own, others in zip(one.scores, wanted.scores, strict=True):
            np.testing.assert_array_equal(own, others)
