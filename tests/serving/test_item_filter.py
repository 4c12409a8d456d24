"""Requests that want some items alone: what passes, what a request gets, and what is kept for the next one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from features.transforms import QueryFeatures
from features.vocab import FIRST
from serving.errors import InvalidRequest
from serving.fallback import PopularityFallback
from serving.follower import ReleaseFollower
from serving.item_changes import ItemChanges
from serving.item_filter import MAX_BYTES, ItemFilter
from serving.models import OnnxModels
from serving.pipeline import Pipeline
from serving.ready_filters import ReadyFilters
from serving.release import Release
from serving.settings import PipelineSettings
from tests.serving.changed_items import items_for

COMEDY = ItemFilter(categories=(("genres", ("Comedy",)),))  # the items of even number
FEW = ItemFilter(allowed_ids=tuple(f"i{number}" for number in range(40, 60)), denied_ids=("i50", "nobody"))


@pytest.fixture
def release_dir(tiny_release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_release, tmp_path / "release"))


@pytest.fixture
def query(build_queries: Callable[[list[list[str]]], QueryFeatures]) -> QueryFeatures:
    return build_queries([["i1", "i2", "i3"], []])


def opened(release_dir: Path) -> tuple[Pipeline, ReleaseFollower]:
    release = Release.open(release_dir)
    follower = ReleaseFollower(release)
    models = OnnxModels(query_tower=release_dir / "query_tower.onnx", ranker=release.ranker_path)
    settings = PipelineSettings(num_candidates=300)
    return Pipeline(release=release, models=models, settings=settings, follower=follower), follower


@pytest.mark.parametrize(
    ("only", "passing"),
    [
        (ItemFilter(), {f"i{n}" for n in range(300)}),
        (COMEDY, {f"i{n}" for n in range(0, 300, 2)}),
        (ItemFilter(categories=(("genres", ("Drama",)),)), {f"i{n}" for n in range(300)}),
        (
            ItemFilter(categories=(("genres", ("Comedy", "Western")),), denied_ids=("i0",)),
            {f"i{n}" for n in range(2, 300, 2)},
        ),
        (ItemFilter(categories=(("genres", ("Western",)),)), set()),
        (ItemFilter(categories=(("genres", ()),)), set()),
        (FEW, {f"i{n}" for n in range(40, 60)} - {"i50"}),
        (ItemFilter(allowed_ids=()), set()),
        (ItemFilter(allowed_ids=("nobody",)), set()),
    ],
)
def test_candidates_and_answers_are_of_what_passes(
    release_dir: Path, query: QueryFeatures, only: ItemFilter, passing: set[str]
) -> None:
    pipeline, _ = opened(release_dir)
    release = pipeline.release
    rows = np.flatnonzero(only.passing(release.stage1, np.arange(302)))
    assert {release.stage1.catalogue.item_id(row) for row in rows.tolist()} == passing
    found = pipeline.recommend(query, k=20, with_candidates=True, only=only)
    for n, history in enumerate(query.history_item_ids):
        assert set(found.candidate_ids[n]) == passing - set(history)
        assert len(found.item_ids[n]) == min(20, len(passing - set(history)))
        assert set(found.item_ids[n]) <= passing - set(history)
    without = pipeline.recommend(query, k=20, with_candidates=True)
    scores = dict(zip(without.candidate_ids[1], without.candidate_scores[1].tolist(), strict=True))
    for item_id, score in zip(found.candidate_ids[1], found.candidate_scores[1].tolist(), strict=True):
        assert score == pytest.approx(scores[item_id], abs=1e-5)


def test_a_filter_follows_changes_of_items(release_dir: Path, query: QueryFeatures) -> None:
    pipeline, follower = opened(release_dir)
    expected = {f"i{n}" for n in range(0, 300, 2)}

    def found(only: ItemFilter = COMEDY) -> set[str]:
        return set(pipeline.recommend(query, k=20, with_candidates=True, only=only).candidate_ids[1])

    assert found() == expected
    follower.change(ItemChanges(deleted_ids=("i0", "i1")))
    assert found() == expected - {"i0"}
    items = items_for(pipeline.release, "new", "i2", "i3")
    comedy = pipeline.release.stage1.vocabularies.categories["genres"].encode(["Comedy"])[0]
    items.inputs.categories[:] = 0
    items.inputs.categories[[0, 2], 0, 0] = comedy
    follower.change(ItemChanges(items=items, restored_ids=("i0",)))
    assert found() == expected - {"i2"} | {"new", "i3"}
    follower._items._live.merge()  # type: ignore[union-attr]
    assert found() == expected - {"i2"} | {"new", "i3"}
    assert found(ItemFilter(allowed_ids=("new", "i1", "i9"))) == {"new", "i9"}


def test_what_is_kept_is_used_again_and_is_bounded(tiny_release: Path) -> None:
    stage1, filters = Release.open(tiny_release).stage1, ReadyFilters()
    first = filters.of(stage1, FEW)
    assert filters.of(stage1, ItemFilter(allowed_ids=FEW.allowed_ids, denied_ids=FEW.denied_ids)) is first
    for start in range(300):
        filters.of(stage1, ItemFilter(allowed_ids=tuple(f"i{number}" for number in range(start, start + 50))))
    assert sum(own.num_copied for own in filters._kept.values()) <= 300
    assert filters.of(stage1, FEW) is not first
    for number in range(100):
        filters.of(stage1, ItemFilter(denied_ids=(f"i{number}",)))
    assert len(filters._kept) == 64


def test_the_fallback_keeps_to_the_filter_and_to_what_is_there(release_dir: Path) -> None:
    pipeline, follower = opened(release_dir)
    follower.change(ItemChanges(deleted_ids=("i42",)))
    release = pipeline.release
    fallback = PopularityFallback(item_ids=[f"i{n}" for n in range(300)], recommends=release.recommends)
    assert fallback.recommend(k=5) == ["i0", "i1", "i2", "i3", "i4"]
    assert fallback.recommend(k=5, exclude=["i40"], only=FEW) == ["i41", "i43", "i44", "i45", "i46"]
    assert fallback.recommend(k=5, only=ItemFilter(allowed_ids=())) == []


@pytest.mark.parametrize("only", [ItemFilter(), COMEDY, FEW, ItemFilter(allowed_ids=())])
def test_a_filter_is_read_from_json_as_it_was_written(only: ItemFilter) -> None:
    assert ItemFilter.from_json(json.dumps(only.to_json()).encode()) == only


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"3",
        b"[" * 100_000,
        b'{"genres": ["Drama"]}',
        b'{"categories": ["Drama"]}',
        b'{"categories": {"genres": "Drama"}}',
        b'{"categories": {"genres": [1]}}',
        b'{"allowed_ids": "i1"}',
        b'{"denied_ids": {"i1": 1}}',
        b" " * (MAX_BYTES + 1),
        b"\xff",
    ],
)
def test_another_form_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^only: expected"):
        ItemFilter.from_json(content)


def test_a_category_that_items_do_not_have_is_refused(tiny_release: Path, query: QueryFeatures) -> None:
    pipeline, _ = opened(tiny_release)
    with pytest.raises(InvalidRequest, match=r"items have the categories genres; got \['size'\]"):
        pipeline.recommend(query, k=5, only=ItemFilter(categories=(("size", ("XL",)),)))
    assert not ItemFilter().passing(pipeline.release.stage1, np.arange(FIRST)).any()
