"""Items that are added, updated, deleted and restored while a release is served, by one process and several."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.statistics import STATISTICS, ItemStatistics
from features.transforms import QueryFeatures
from features.vocab import FIRST
from serving.errors import InvalidRequest, ReleaseDamaged
from serving.follower import ReleaseFollower
from serving.item_changes import ItemChanges
from serving.live_items import LiveItems, log_path
from serving.models import OnnxModels
from serving.pipeline import Pipeline
from serving.release import Release
from serving.retrieval import BUILDER_FILE
from serving.settings import PipelineSettings
from tests.serving.changed_items import adding, items_for

Build = Callable[[list[list[str]]], QueryFeatures]


@pytest.fixture
def release_dir(tiny_release: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "release"
    shutil.copytree(tiny_release, directory)
    return directory


@pytest.fixture
def query(build_queries: Build) -> QueryFeatures:
    return build_queries([["i1", "i2", "i3"]])


def opened(release_dir: Path) -> tuple[Pipeline, ReleaseFollower]:
    release = Release.open(release_dir)
    follower = ReleaseFollower(release)
    models = OnnxModels(query_tower=release_dir / "query_tower.onnx", ranker=release.ranker_path)
    settings = PipelineSettings()
    return Pipeline(release=release, models=models, settings=settings, follower=follower), follower


def liked(pipeline: Pipeline, query: QueryFeatures) -> np.ndarray:
    """[1, D] where an item must lie to be the first that the towers bring."""
    stage1 = pipeline.release.stage1
    own = stage1.embed(stage1.query_inputs(query), models=pipeline.models)[:, : stage1.item_embeddings.shape[1]]
    return np.asarray(100.0 * own / np.linalg.norm(own))


def candidates(pipeline: Pipeline, query: QueryFeatures) -> list[str]:
    return pipeline.recommend(query, k=20, with_candidates=True).candidate_ids[0]


def test_an_added_item_is_recommended_by_the_next_request_of_every_process(
    release_dir: Path, query: QueryFeatures
) -> None:
    (pipeline, follower), (other, _) = opened(release_dir), opened(release_dir)
    before = candidates(pipeline, query)
    assert follower.change(adding(pipeline.release, "new ü", as_new=liked(pipeline, query))) == 1
    for own in (pipeline, other, opened(release_dir)[0]):
        found = own.recommend(query, k=20, with_candidates=True)
        assert found.changes == 1
        assert found.candidate_ids[0][0] == "new ü"
        assert [item_id for item_id in found.candidate_ids[0] if item_id != "new ü"] == before[:-1]
        assert own.release.titles["new ü"] == "Added new ü"
        assert own.release.titles["i7"] == "Film i7"


def test_what_is_deleted_never_comes_back_and_what_is_restored_does(release_dir: Path, query: QueryFeatures) -> None:
    (pipeline, follower), (other, _) = opened(release_dir), opened(release_dir)
    before = candidates(pipeline, query)
    gone = tuple(before[:50])
    follower.change(ItemChanges(deleted_ids=gone))
    for own in (pipeline, other, opened(release_dir)[0]):
        assert not set(candidates(own, query)) & set(gone)
        assert not own.release.recommends(gone).any()
    follower.change(ItemChanges(restored_ids=gone[:49]))
    for own in (pipeline, other, opened(release_dir)[0]):
        # One place less is taken, and the next one behind the last moves up.
        assert candidates(own, query)[:-1] == [item_id for item_id in before if item_id != gone[49]]
        assert gone[49] not in candidates(own, query)


def test_an_update_changes_what_an_item_is_like_and_keeps_what_its_events_made_of_it(
    release_dir: Path, query: QueryFeatures
) -> None:
    pipeline, follower = opened(release_dir)
    before = pipeline.release.stage1
    items = items_for(pipeline.release, "i9", "i8")
    follower.change(ItemChanges(items=items))
    stage1, rows = pipeline.release.stage1, before.catalogue.rows(["i9", "i8"])
    assert stage1.catalogue.item_ids == before.catalogue.item_ids
    np.testing.assert_array_equal(stage1.items.numbers[rows], items.inputs.numbers)
    np.testing.assert_array_equal(stage1.item_embeddings[rows], items.learned)
    np.testing.assert_array_equal(stage1.linear_embeddings[rows], before.linear_embeddings[rows])
    others = np.setdiff1d(np.arange(FIRST, len(before.catalogue)), rows)
    np.testing.assert_array_equal(stage1.indexed(others), before.indexed(others))
    assert (stage1.indexed(rows)[:, -1] == before.indexed(rows)[:, -1]).all()


def assert_index_is_of_tables(release: Release, queries: np.ndarray) -> None:
    """What the index finds, and its scores, are those of the tables at the same tick."""
    stage1 = release.stage1
    rows = np.flatnonzero(stage1.recommendable)
    found = stage1.index.search(queries, k=len(rows))
    assert sorted(found.rows[0].tolist()) == rows.tolist()
    for own_rows, scores, query in zip(found.rows, found.scores, queries, strict=True):
        np.testing.assert_allclose(scores, stage1.indexed(own_rows) @ query, rtol=1e-5, atol=1e-4)


def test_index_and_tables_agree_after_any_order_of_changes_ticks_and_merges(release_dir: Path) -> None:
    generator = np.random.default_rng(0)
    (pipeline, follower), (other, following) = opened(release_dir), opened(release_dir)
    deltas, queries = pipeline.release.deltas, generator.normal(size=(3, pipeline.release.stage1.index.width))
    queries = queries.astype(np.float32)
    there, number = set(pipeline.release.item_ids), 0
    for round_ in range(12):
        if round_ % 3 == 2:
            values = generator.random((1, deltas.num_rows, len(STATISTICS)), dtype=np.float32)
            deltas.write(ItemStatistics(ticks_at_ms=np.array([(10 + round_) * 86_400_000]), values=values))
            # Both take it, so that changes are of one tick; while a merge runs it has to wait.
            while {pipeline.release.delta, other.release.delta} != {deltas.newest}:
                time.sleep(0.01)
        writer = (follower, following)[round_ % 2]
        gone = tuple(generator.permutation(sorted(there))[:9].tolist())
        added = tuple(f"new {number + n}" for n in range(7))
        there, number = there - set(gone) | set(added), number + 7
        items = items_for(writer.release, *added, seed=round_)
        assert writer.change(ItemChanges(items=items, deleted_ids=gone)) == round_ + 1
        for own in (pipeline, other):
            release = own.release
            assert release.changes == round_ + 1
            rows = np.flatnonzero(release.stage1.recommendable)
            assert {release.stage1.catalogue.item_id(row) for row in rows.tolist()} == there
            assert_index_is_of_tables(release, queries)
    assert pipeline.release.stage1.catalogue.item_ids == other.release.stage1.catalogue.item_ids
    for own in (follower, following):
        own.close()


def test_an_added_item_counts_in_histories(release_dir: Path, build_queries: Build) -> None:
    pipeline, follower = opened(release_dir)
    follower.change(adding(pipeline.release, "new"))
    with_it, without = (pipeline.recommend(build_queries([["i1", own]]), k=5) for own in ("new", "unknown"))
    assert with_it.retrieval_scores[0].tolist() != without.retrieval_scores[0].tolist()
    assert "new" not in candidates(pipeline, build_queries([["new"]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (ItemChanges(deleted_ids=("i1", "nobody")), r"deleted_ids: \['nobody'\] are not recommended"),
        (ItemChanges(deleted_ids=("i1", "i1")), "stand twice"),
        (ItemChanges(restored_ids=("i1",)), r"restored_ids: \['i1'\] are recommended, or unknown"),
        (ItemChanges(restored_ids=("nobody",)), "are recommended, or unknown"),
        (ItemChanges(deleted_ids=("",)), "are not recommended"),
    ],
)
def test_changes_that_do_not_fit_are_refused_whole(release_dir: Path, changes: ItemChanges, message: str) -> None:
    pipeline, follower = opened(release_dir)
    with pytest.raises(InvalidRequest, match=message):
        follower.change(changes)
    assert pipeline.release.changes == 0
    assert pipeline.release.recommends(["i1"]).all()
    assert follower.change(ItemChanges(deleted_ids=("i1",))) == 1


@pytest.mark.parametrize("name", ["learned", "linear", "as_new"])
def test_facts_of_another_width_are_refused(release_dir: Path, name: str) -> None:
    pipeline, follower = opened(release_dir)
    items = items_for(pipeline.release, "new")
    with pytest.raises(InvalidRequest, match="items"):
        follower.change(ItemChanges(items=replace(items, **{name: np.zeros((1, 99), np.float32)})))
    broken = np.full_like(getattr(items, name), np.nan)
    with pytest.raises(InvalidRequest, match="NaN"):
        follower.change(ItemChanges(items=replace(items, **{name: broken})))
    assert (pipeline.release.changes, pipeline.release.recommends(["new"]).tolist()) == (0, [False])


def test_a_file_of_settings_that_names_no_builder_of_ours_stops_whoever_opens(release_dir: Path) -> None:
    (release_dir / BUILDER_FILE).write_text('{"_target_": "os.system", "command": "true"}')
    with pytest.raises(ReleaseDamaged, match="expected _target_ to be one of"):
        LiveItems(Release.open(release_dir, delta=0))


def test_all_items_may_be_deleted(release_dir: Path, query: QueryFeatures) -> None:
    pipeline, follower = opened(release_dir)
    follower.change(ItemChanges(deleted_ids=pipeline.release.item_ids))
    assert pipeline.recommend(query, k=5).item_ids == [[]]
    follower.change(adding(pipeline.release, "new"))
    assert pipeline.recommend(query, k=5).item_ids == [["new"]]


def test_a_damaged_log_stops_whoever_opens_and_whoever_serves_goes_on(
    release_dir: Path, query: QueryFeatures, caplog: pytest.LogCaptureFixture
) -> None:
    (pipeline, follower), (other, _) = opened(release_dir), opened(release_dir)
    for item_id in ("i1", "i2"):
        follower.change(ItemChanges(deleted_ids=(item_id,)))
    assert other.release.changes == 2
    path = log_path(pipeline.release)
    content = bytearray(path.read_bytes())
    content[60] ^= 1  # in the first change
    path.write_bytes(content)
    assert len(candidates(other, query)) == 200
    with pytest.raises(ReleaseDamaged, match=r"changes\.log is damaged at byte"):
        opened(release_dir)
    path.write_bytes(b"another file")
    assert len(candidates(other, query)) == 200
    assert "items stay as change 2 has them" not in caplog.text  # nothing that it has not read was damaged


def test_a_change_that_is_damaged_before_it_is_followed_leaves_the_last_good_one_serving(
    release_dir: Path, query: QueryFeatures, caplog: pytest.LogCaptureFixture
) -> None:
    (pipeline, follower), (other, _) = opened(release_dir), opened(release_dir)
    follower.change(ItemChanges(deleted_ids=("i1",)))
    assert other.release.changes == 1
    path = log_path(pipeline.release)
    whole = path.stat().st_size
    for item_id in ("i2", "i3"):
        follower.change(ItemChanges(deleted_ids=(item_id,)))
    content = bytearray(path.read_bytes())
    content[whole + 30] ^= 1
    path.write_bytes(content)
    for _ in range(3):
        assert len(candidates(other, query)) == 200
        assert other.release.changes == 1
    assert caplog.text.count("items stay as change 1 has them") == 1
