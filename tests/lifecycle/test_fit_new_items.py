import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from features.dataset import Dataset
from features.protocol import RequestProtocol
from lifecycle.build_index import IndexStep, embedding_space_hash
from lifecycle.candidates import StageOne
from lifecycle.cold_items import ColdItems
from lifecycle.cuts import CUTS, FOLD
from lifecycle.fit_blend import BlendFit
from lifecycle.fit_fusion import FusionFit
from lifecycle.fit_new_items import _Contest
from lifecycle.train_towers import TEXT_EMBEDDINGS_FILE
from serving.retrieval import BLEND_FILE, CONTENT_SUFFIX, FUSION_FILE, RETRIEVERS, Stage1
from towers.index.build import FlatBuilder
from towers.index.search import ItemIndex
from towers.retrievers.content import ContentMap, ItemContent


def test_the_share_matches_hand_computation() -> None:
    contest = _Contest(
        own=np.array([1.0, -3.0]),
        place=np.array([0, 3]),  # as known: 1 and 1/log2(5)
        newer=np.array([1, 12]),
        others=np.r_[[np.arange(10, 0, -1.0)], [np.arange(10, 0, -1.0)]],
    )
    known = 1 + 1 / np.log2(5)
    # With a bias of 7.5 the first has 9 and 10 before it and another new one, the second twelve new ones.
    assert contest.share(7.5) == pytest.approx((1 / np.log2(2 + 3)) / known)
    assert contest.share(-1.0) == 0.0
    assert contest.share(np.inf) == pytest.approx((1 / np.log2(2 + 1)) / known)
    low, high = contest.bounds
    assert (contest.share(low), contest.share(high)) == (0.0, contest.share(np.inf))


@pytest.fixture(scope="module")
def cold(smoke_dataset: Dataset, leave_one_out: RequestProtocol) -> ColdItems:
    generator = np.random.default_rng(1)
    return ColdItems.draw(smoke_dataset, leave_one_out, share=0.1, min_queries=5, generator=generator)


def indexed(smoke_run: Path, cold: ColdItems, out_dir: Path, *, new_items: float) -> StageOne:
    """The smoke run's towers, indexed without the events of what is held out; towers of two epochs know few of them."""
    towers_dir = out_dir / "towers"
    towers_dir.mkdir(parents=True)
    fold = smoke_run / "demo" / "towers" / FOLD.name
    (towers_dir / FOLD.name).mkdir()
    for own in fold.iterdir():
        if own.name != "recommendable.npy":
            (towers_dir / FOLD.name / own.name).symlink_to(own)
    cold.recommend_all(towers_dir)
    IndexStep(
        dataset=cold.known,
        protocol=cold.protocol,
        towers_dir=towers_dir,
        builder=FlatBuilder(),
        blend_fit=BlendFit(width=16, popularity=True, learned_width=None, new_items=new_items, seed=1),
        fusion_fit=FusionFit(quotas=dict.fromkeys(RETRIEVERS, 50), max_requests=200),
        cuts=(FOLD,),
    ).run(out_dir)
    return StageOne.open(FOLD, towers_dir=towers_dir, index_dir=out_dir)


def test_new_items_are_indexed_by_their_content_with_a_bias_and_known_ones_as_without(
    smoke_run: Path, cold: ColdItems, tmp_path: Path
) -> None:
    found, without = (indexed(smoke_run, cold, tmp_path / str(share), new_items=share).stage1 for share in (0.5, 0.0))
    new, rows = np.flatnonzero(cold.is_held), np.flatnonzero(cold.deciles > 0)
    assert found.new_items.rows.tolist() == new.tolist()
    assert without.new_items.rows.tolist() == []
    known = rows[~cold.is_held[rows]]
    np.testing.assert_array_equal(found.indexed(known), without.indexed(known))
    assert not without.linear_embeddings[new].any()
    assert (np.abs(found.linear_embeddings[new]).sum(axis=1) > 0).all()
    # The smoke run's statistics know of events that the log has no more: they come on top.
    expected = without.indexed(new)[:, -1] + np.float32(found.new_items.bias)
    np.testing.assert_array_equal(found.indexed(new)[:, -1], expected)
    assert found.new_items.bias != 0.0
    # Served as of its own tick and of another one: the index says what `indexed` says.
    query = np.random.default_rng(0).normal(size=(1, found.index.width)).astype(np.float32)
    for stage1 in (found, found.as_of(found.statistics)):
        answer = stage1.index.search(query, k=len(rows))
        np.testing.assert_allclose(answer.scores[0], stage1.indexed(answer.rows[0]) @ query[0], rtol=1e-4, atol=1e-4)
    # By the map that lies beside the index, for items that come later.
    by = ContentMap.read(tmp_path / "0.5" / f"{FOLD.name}{CONTENT_SUFFIX}")
    texts = np.load(smoke_run / "demo" / "towers" / FOLD.name / TEXT_EMBEDDINGS_FILE)
    again = by.of(ItemContent.of(found.items, texts=texts).take(new))
    np.testing.assert_array_equal(again, np.c_[found.new_items.learned, found.linear_embeddings[new]])
    assert not (tmp_path / "0.0" / f"{FOLD.name}{CONTENT_SUFFIX}").exists()


def test_a_greater_share_is_a_greater_bias(smoke_run: Path, cold: ColdItems, tmp_path: Path) -> None:
    biases = [
        indexed(smoke_run, cold, tmp_path / str(share), new_items=share).stage1.new_items.bias for share in (0.2, 0.6)
    ]
    assert biases[0] < biases[1]


def test_where_every_item_is_known_there_are_a_map_and_a_bias_for_those_that_come_later(smoke_run: Path) -> None:
    biases = set()
    for cut in CUTS:
        index = smoke_run / "demo" / "index" / f"{cut.name}.faiss"
        stage1 = Stage1.read(smoke_run / "demo" / "towers" / cut.name, index_path=index)
        assert stage1.new_items.rows.tolist() == []
        biases.add(stage1.new_items.bias)
        by, known = ContentMap.read(index.with_suffix(CONTENT_SUFFIX)), np.flatnonzero(stage1.recommendable)
        texts = np.load(smoke_run / "demo" / "towers" / cut.name / TEXT_EMBEDDINGS_FILE)
        found = by.of(ItemContent.of(stage1.items, texts=texts).take(known))
        expected = np.c_[stage1.item_embeddings[known], stage1.linear_embeddings[known]]
        assert found.shape == expected.shape
        # Content says more of an item than the mean of all does.
        assert ((found - expected) ** 2).mean() < 0.9 * ((expected - expected.mean(axis=0)) ** 2).mean()
    assert len(biases) == 1  # the fold's, taken over
    assert biases != {0.0}


def test_where_every_item_is_known_the_index_is_as_without_a_share(
    smoke_run: Path, smoke_dataset: Dataset, leave_one_out: RequestProtocol, tmp_path: Path
) -> None:
    for share in (0.5, 0.0):
        (tmp_path / str(share)).mkdir()
        IndexStep(
            dataset=smoke_dataset,
            protocol=leave_one_out,
            towers_dir=smoke_run / "demo" / "towers",
            builder=FlatBuilder(),
            blend_fit=BlendFit(width=16, popularity=True, learned_width=None, new_items=share, seed=1),
            fusion_fit=FusionFit(quotas=dict.fromkeys(RETRIEVERS, 50), max_requests=100),
            cuts=(FOLD,),
        ).run(tmp_path / str(share))
    for name in (f"{FOLD.name}.linear.npy", BLEND_FILE, FUSION_FILE):
        assert (tmp_path / "0.5" / name).read_bytes() == (tmp_path / "0.0" / name).read_bytes()
    query = np.random.default_rng(0).normal(size=(1, ItemIndex.read(tmp_path / "0.0" / "fold.faiss").width))
    found, without = (
        ItemIndex.read(tmp_path / share / "fold.faiss").search(query.astype(np.float32), k=1000)
        for share in ("0.5", "0.0")
    )
    np.testing.assert_array_equal(found.rows, without.rows)
    np.testing.assert_array_equal(found.scores, without.scores)
    # What queries and items are embedded by names the bias, too.
    facts = json.loads((tmp_path / "0.5" / "index.json").read_text())[FOLD.name]
    assert facts["embedding_space_hash"] == embedding_space_hash(
        smoke_run / "demo" / "towers" / FOLD.name, tmp_path / "0.5", FOLD
    )


def test_where_nobody_chose_anything_new_items_get_no_bias(
    smoke_run: Path, cold: ColdItems, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = cold.dataset.events
    silent = np.where(events.splits == "validation", 0.0, events.relevance)
    dataset = dataclasses.replace(cold.dataset, events=dataclasses.replace(events, relevance=silent))
    with caplog.at_level(logging.WARNING):
        found = indexed(smoke_run, dataclasses.replace(cold, dataset=dataset), tmp_path, new_items=0.5)
    assert found.stage1.new_items.bias == 0.0
    assert "new items get no bias: validation chose no known item" in caplog.text


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"must lie between 0 and 1, a share of what known items get; got {share}"):
        BlendFit(width=4, popularity=True, learned_width=None, new_items=share, seed=1)
