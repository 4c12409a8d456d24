import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from features.dataset import Dataset
from features.protocol import RequestProtocol
from lifecycle.build_index import IndexStep, embedding_space_hash
from lifecycle.candidates import StageOne
from lifecycle.cuts import CUTS, FOLD, REFIT, Cut
from lifecycle.fit_blend import BlendFit
from lifecycle.fit_fusion import FusionFit
from serving.retrieval import BLEND_FILE, QUERY_TOWER_FILE, RETRIEVERS, Stage1
from towers.errors import RecallTooLow
from towers.index.build import HnswBuilder, IndexBuilder
from towers.index.recall import RecallGate
from towers.index.search import ItemIndex
from towers.retrievers.blend import Blend


@pytest.fixture
def demo(smoke_run: Path) -> Path:
    return smoke_run / "demo"


@pytest.mark.parametrize("cut", CUTS)
def test_a_run_indexes_all_items_with_events_in_the_cut(demo: Path, smoke_dataset: Dataset, cut: Cut) -> None:
    index = ItemIndex.read(demo / "index" / f"{cut.name}.faiss")
    known = {smoke_dataset.events.item_ids[place] for place in smoke_dataset.events.places(cut.splits)}
    assert len(index) == len(known)


@pytest.mark.parametrize("cut", CUTS)
def test_the_index_holds_the_blend_of_its_own_cut(demo: Path, cut: Cut) -> None:
    stage1 = Stage1.read(demo / "towers" / cut.name, index_path=demo / "index" / f"{cut.name}.faiss")
    queries = np.random.default_rng(0).normal(size=(3, stage1.index.width)).astype(np.float32)
    found = stage1.index.search(queries, k=len(stage1.index))
    assert set(found.rows[0].tolist()) == set(np.flatnonzero(stage1.recommendable).tolist())
    for n, query in enumerate(queries):
        np.testing.assert_allclose(found.scores[n], stage1.indexed(found.rows[n]) @ query, rtol=1e-4, atol=1e-4)


def test_both_cuts_have_the_blend_of_the_fold_and_linear_embeddings_of_their_own(demo: Path) -> None:
    fold, refit = (
        Stage1.read(demo / "towers" / cut.name, index_path=demo / "index" / f"{cut.name}.faiss") for cut in CUTS
    )
    assert fold.blend == refit.blend != Blend()
    assert fold.linear_embeddings.shape == refit.linear_embeddings.shape
    assert not np.array_equal(fold.linear_embeddings, refit.linear_embeddings)


def test_the_facts_name_items_width_and_the_embedding_space(demo: Path) -> None:
    facts = json.loads((demo / "index" / "index.json").read_text())
    assert list(facts) == ["fold", "refit"]
    for cut in CUTS:
        index = ItemIndex.read(demo / "index" / f"{cut.name}.faiss")
        space = embedding_space_hash(demo / "towers" / cut.name, demo / "index", cut)
        assert facts[cut.name] == {
            "items": len(index),
            "width": index.width,
            "embedding_space_hash": space,
            "recall": 1.0,
        }


def test_another_tower_other_embeddings_and_another_blend_are_another_space(tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    files = [
        tmp_path / name
        for name in (
            QUERY_TOWER_FILE,
            "arrays/item_embeddings.npy",
            f"{FOLD.name}.linear.npy",
            f"{FOLD.name}.new_items.npz",
            BLEND_FILE,
        )
    ]
    for file in files:
        file.write_bytes(b"one")
    spaces = {embedding_space_hash(tmp_path, tmp_path, FOLD)}
    for number, file in enumerate(files, start=2):
        file.write_bytes(b"another")
        spaces.add(embedding_space_hash(tmp_path, tmp_path, FOLD))
        assert len(spaces) == number


def some_recall(
    stage_one: StageOne, blend: Blend, dataset: Dataset, protocol: RequestProtocol, *, num_candidates: int
) -> float:
    """Of requests that neither the towers nor the blend have seen, by the towers alone."""
    asked = protocol.asked(dataset, "ranking").take(slice(0, 3000, 10))
    alone = stage_one.stage1.fusion.alone("towers", quota=200)
    days = protocol.item_days(dataset, FOLD.splits)
    found = stage_one.blended_by(blend).fused_by(alone).ask(dataset, asked, days=days, num_candidates=num_candidates)
    return float((asked.grades_of(found.candidates.rows) > 0).any(axis=1).mean())


def test_the_fitted_blend_finds_more_than_the_learned_embeddings_alone(
    demo: Path, smoke_dataset: Dataset, leave_one_out: RequestProtocol
) -> None:
    stage_one = StageOne.open(FOLD, towers_dir=demo / "towers", index_dir=demo / "index")
    recall = [
        some_recall(stage_one, blend, smoke_dataset, leave_one_out, num_candidates=50)
        for blend in (stage_one.stage1.blend, Blend())
    ]
    assert recall[0] > recall[1] + 0.05  # towers of two epochs know little


def test_parts_that_are_not_wanted_weigh_nothing(
    demo: Path, smoke_dataset: Dataset, leave_one_out: RequestProtocol
) -> None:
    stage_one = StageOne.open(FOLD, towers_dir=demo / "towers", index_dir=demo / "index")

    def fitted(width: int, popularity: bool) -> Blend:
        fit = BlendFit(width=width, popularity=popularity, learned_width=None, new_items=0, seed=1)
        linear = fit.linear(smoke_dataset, leave_one_out, FOLD)
        return fit.fit(stage_one, linear, dataset=smoke_dataset, protocol=leave_one_out)[0]

    assert fitted(0, False) == Blend()
    without_linear, without_popularity = fitted(0, True), fitted(8, False)
    assert not any(without_linear.bags)
    assert any(without_linear.popularity)
    assert any(without_popularity.bags)
    assert not any(without_popularity.popularity)


def test_a_cut_without_validation_has_nothing_to_fit_on(
    demo: Path, smoke_dataset: Dataset, leave_one_out: RequestProtocol
) -> None:
    stage_one = StageOne.open(REFIT, towers_dir=demo / "towers", index_dir=demo / "index")
    fit = BlendFit(width=4, popularity=True, learned_width=None, new_items=0, seed=1)
    linear = fit.linear(smoke_dataset, leave_one_out, REFIT)
    with pytest.raises(ValueError, match="fitted on validation requests, and cut refit has none"):
        fit.fit(stage_one, linear, dataset=smoke_dataset, protocol=leave_one_out)


def test_without_a_new_choice_the_learned_embeddings_stand_alone(
    demo: Path, smoke_dataset: Dataset, leave_one_out: RequestProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    stage_one = StageOne.open(FOLD, towers_dir=demo / "towers", index_dir=demo / "index")
    events = smoke_dataset.events
    nothing = np.where(events.splits == "validation", 0.0, events.relevance)
    silent = dataclasses.replace(smoke_dataset, events=dataclasses.replace(events, relevance=nothing))
    fit = BlendFit(width=4, popularity=True, learned_width=2, new_items=0, seed=1)
    blend, _ = fit.fit(stage_one, fit.linear(silent, leave_one_out, FOLD), dataset=silent, protocol=leave_one_out)
    assert blend == Blend(learned_width=2)
    assert "no validation request chose anything new" in caplog.text


def test_a_width_that_the_learned_embeddings_do_not_have_is_refused(
    demo: Path, smoke_dataset: Dataset, leave_one_out: RequestProtocol
) -> None:
    stage_one = StageOne.open(FOLD, towers_dir=demo / "towers", index_dir=demo / "index")
    fit = BlendFit(width=0, popularity=False, learned_width=17, new_items=0, seed=1)
    linear = fit.linear(smoke_dataset, leave_one_out, FOLD)
    with pytest.raises(ValueError, match=r"learned_width must lie between 1 and 16, .* got 17"):
        fit.fit(stage_one, linear, dataset=smoke_dataset, protocol=leave_one_out)


def step_of(demo: Path, dataset: Dataset, protocol: RequestProtocol, builder: IndexBuilder) -> IndexStep:
    return IndexStep(
        dataset=dataset,
        protocol=protocol,
        towers_dir=demo / "towers",
        builder=builder,
        blend_fit=BlendFit(width=0, popularity=False, learned_width=None, new_items=0, seed=1),
        fusion_fit=FusionFit(quotas=dict.fromkeys(RETRIEVERS, 50), max_requests=50),
        recall_gate=RecallGate(k=20, target=0.9, max_queries=100),
        cuts=(FOLD,),
    )


def test_an_index_that_finds_too_little_fails_the_step(
    demo: Path, smoke_dataset: Dataset, leave_one_out: RequestProtocol, tmp_path: Path
) -> None:
    step = step_of(demo, smoke_dataset, leave_one_out, HnswBuilder(links=2, build_beam=1, search_beam=1))
    with pytest.raises(RecallTooLow, match=r"of the true first 20 of \d+ held-out queries; expected 0\.9 at least"):
        step.run(tmp_path)
    assert not (tmp_path / "index.json").exists()


def test_an_approximate_index_has_its_recall_among_the_facts(
    demo: Path, smoke_dataset: Dataset, leave_one_out: RequestProtocol, tmp_path: Path
) -> None:
    step_of(demo, smoke_dataset, leave_one_out, HnswBuilder(links=16, build_beam=100, search_beam=200)).run(tmp_path)
    recall = json.loads((tmp_path / "index.json").read_text())["fold"]["recall"]
    assert 0.9 <= recall <= 1
