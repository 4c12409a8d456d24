"""ScaNN behind the same index. What needs the library is skipped where the extra is absent."""

import importlib.util
import json
import logging
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.towers.test_index_filters import filter_of, recall_under
from tests.towers.test_index_tune import NO_LIMIT, some
from tests.towers.test_index_types import items_of, recall
from towers.errors import ScannMissing, UnfitPieces, UnreadableIndex
from towers.index.band import HeaviestApart
from towers.index.build import FlatBuilder
from towers.index.builder_file import builder_of
from towers.index.changes import Changes
from towers.index.effort import Effort
from towers.index.gpu_build import _moved
from towers.index.operate import Efforts
from towers.index.recipes import Recipe, recipes
from towers.index.scann_build import ScannBuilder
from towers.index.search import NO_RESULT, ItemIndex
from towers.index.snapshot import Snapshot
from towers.index.tune import tuned

HAS_SCANN = importlib.util.find_spec("scann") is not None
needs_scann = pytest.mark.skipif(not HAS_SCANN, reason="ScaNN is not installed: make setup EXTRAS=scann")
ROOT = Path(__file__).parents[2]
BUILDER = ScannBuilder(lists=4, probes=2, coordinates_a_code=2, refine=4)
ALL_READ = Effort(lists=10**6, refine=10**6)


def built(num: int, *, tail: float = 0.3, lists: int = 4) -> ItemIndex:
    """Items `items_of(num)`, ItemRows are places + 2."""
    builder = ScannBuilder(lists=lists, probes=2, coordinates_a_code=2, refine=4)
    return builder.build(items_of(num, tail=tail), np.arange(num) + 2)


@pytest.mark.skipif(HAS_SCANN, reason="ScaNN is installed")
def test_without_scann_it_is_said_how_to_have_it() -> None:
    with pytest.raises(ScannMissing, match=r"make setup EXTRAS=scann .* in process .* index=ivf_flat$"):
        BUILDER.build(items_of(50), np.arange(50) + 2)


@needs_scann
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 200), k=st.integers(1, 220), tail=st.floats(0, 2))
def test_what_is_found_are_distinct_items_with_their_true_products_best_first(
    seed: int, num: int, k: int, tail: float
) -> None:
    items, queries = items_of(num, seed=seed, tail=tail), items_of(3, seed=seed + 1)
    items[0] = 0.0
    rows = np.random.default_rng(seed).permutation(1000)[:num] + 2
    found = BUILDER.build(items, rows).search(queries, k=k)
    assert found.rows.shape == found.scores.shape == (3, k)
    place = {row: at for at, row in enumerate(rows.tolist())}
    for query, own, scores in zip(queries, found.rows, found.scores, strict=True):
        real = own != NO_RESULT
        assert len(set(own[real].tolist())) == real.sum() == min(k, num)
        assert (scores[~real] == -np.inf).all()
        places = [place[row] for row in own[real].tolist()]
        bound = np.abs(items[places]) @ np.abs(query) * 1e-6
        assert (np.abs(scores[real] - items[places].astype(np.float64) @ query) <= bound + 1e-30).all()
        assert (np.diff(scores[real]) <= 0).all()


@needs_scann
@pytest.mark.parametrize("num", [1, 5, 15, 16, 40, 700])
def test_with_nothing_left_out_search_is_exact(num: int) -> None:
    # Below 16 items codebooks are learned of items that are shown several times.
    items, queries = items_of(num), items_of(20, seed=1)
    index = BUILDER.build(items, np.arange(num) + 2).with_effort(ALL_READ)
    exact = FlatBuilder().build(items, np.arange(num) + 2).search(queries, k=10)
    np.testing.assert_array_equal(index.search(queries, k=10).rows, exact.rows)


@needs_scann
def test_items_of_zeros_and_items_all_alike_are_found() -> None:
    for items in (np.zeros((100, 6), np.float32), np.ones((100, 6), np.float32)):
        found = BUILDER.build(items, np.arange(100) + 2).search(items_of(2, width=6), k=100)
        assert [sorted(own) for own in found.rows.tolist()] == [list(range(2, 102))] * 2


@needs_scann
def test_no_queries_have_no_results() -> None:
    assert built(50).search(np.zeros((0, 9), np.float32), k=3).rows.shape == (0, 3)


@needs_scann
def test_effort_is_set_without_building_again_and_more_of_it_finds_more() -> None:
    items, queries = items_of(3000, tail=0.3), items_of(100, seed=1)
    index = built(3000, lists=60)
    recalls = [recall(index.with_effort(Effort(lists=n, refine=n)), items, queries) for n in (1, 4, 16, 60)]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.5
    assert recalls[-1] == 1.0
    assert index.num_lists == 60


@needs_scann
def test_building_again_gives_the_same_searcher() -> None:
    queries = items_of(50, seed=1)
    one, other = (built(2000, lists=30).search(queries, k=20) for _ in range(2))
    np.testing.assert_array_equal(one.rows, other.rows)


@needs_scann
@pytest.mark.parametrize("num", [3, 2000])
def test_a_file_gives_the_same_index(num: int, tmp_path: Path) -> None:
    index, queries = built(num), items_of(20, seed=1)
    index.write(tmp_path / "index.faiss")
    read = ItemIndex.read(tmp_path / "index.faiss")
    assert (read.effort, read.num_lists, read.num_bytes) == (index.effort, index.num_lists, index.num_bytes)
    expected, found = (own.search(queries, k=10) for own in (index, read))
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)
    # Embeddings once, and nothing that ScaNN pickles.
    with np.load(tmp_path / "index.faiss") as arrays:
        assert set(arrays.files) == {"settings", "0.rows", "0.stored", CODEBOOK, TREE, LEAVES, CODES}


@needs_scann
def test_beside_the_heaviest_apart_it_is_written_and_read(tmp_path: Path) -> None:
    items, queries = items_of(1500, tail=1.5), items_of(50, seed=1)
    index = HeaviestApart(share=0.02, builder=BUILDER).build(items, np.arange(1500) + 2)
    index.write(tmp_path / "index.faiss")
    assert recall(ItemIndex.read(tmp_path / "index.faiss").with_effort(ALL_READ), items, queries) == 1.0


def with_members(path: Path, **changes: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Path:
    """A copy of an index's file, with whole checksums, in which members are others."""
    with np.load(path) as arrays:
        members = {name: arrays[name] for name in arrays.files}
    changed = path.with_name("changed")
    with changed.open("wb") as file:
        np.savez(file, **{name: changes[name](own) if name in changes else own for name, own in members.items()})
    return changed


def settings_with(**own: object) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
    def change(settings: NDArray[np.generic]) -> NDArray[np.generic]:
        document = json.loads(str(settings))
        document["parts"][0]["scann"].update(own)
        return np.array(json.dumps(document))

    return change


CODEBOOK, TREE, LEAVES, CODES = (
    f"0.{name}"
    for name in ("ah_codebook.pb", "serialized_partitioner.pb", "datapoint_to_token.npy", "hashed_dataset.npy")
)
FOREIGN: dict[str, dict[str, Callable[[NDArray[np.generic]], NDArray[np.generic]]]] = {
    "a codebook cut short": {CODEBOOK: lambda own: own[: len(own) // 2]},
    "no codebook": {CODEBOOK: lambda own: own[:0]},
    "a tree that is none": {TREE: lambda own: np.arange(len(own), dtype=np.uint8)},
    "no tree": {TREE: lambda own: own[:0]},
    "a leaf that is not there": {LEAVES: lambda own: own + np.int32(10**6)},
    "fewer leaves than items": {LEAVES: lambda own: own[:100]},
    "leaves of another type": {LEAVES: lambda own: own.astype(np.int64)},
    "fewer items": {LEAVES: lambda own: own[:100], CODES: lambda own: own[:100]},
    "codes of 8 bits": {CODES: lambda own: own + np.uint8(100)},
    "narrower codes": {CODES: lambda own: own[:, :2]},
    "another width": {"settings": settings_with(width=4), CODES: lambda own: own[:, :2]},
    "no coordinates": {"settings": settings_with(coordinates_a_code=0)},
    "settings that go on as ScaNN's own": {"settings": settings_with(leaves='4 } input_output { database_name: "x"')},
    "no number": {"settings": settings_with(threshold="as the other")},
}


@needs_scann
@pytest.mark.parametrize("changes", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(
    changes: dict[str, Callable[[NDArray[np.generic]], NDArray[np.generic]]], tmp_path: Path
) -> None:
    built(700).write(tmp_path / "index.faiss")
    assert len(ItemIndex.read(with_members(tmp_path / "index.faiss"))) == 700
    with pytest.raises(UnreadableIndex, match="build it again"):
        ItemIndex.read(with_members(tmp_path / "index.faiss", **changes))


@needs_scann
def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    built(300).write(path)
    content = path.read_bytes()
    for length in (len(content) // 3, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UnreadableIndex):
            ItemIndex.read(path)


@needs_scann
@pytest.mark.skipif(not (ROOT / ".venv-triton").exists(), reason=".venv-triton is missing: make setup")
def test_triton_s_environment_says_that_it_cannot_read_it(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    built(300).write(path)
    program = f"import pathlib, towers.index.search as own; own.ItemIndex.read(pathlib.Path({str(path)!r}))"
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [str(ROOT / ".venv-triton" / "bin" / "python"), "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=own,
    )
    assert "ScannMissing: this index is searched by ScaNN, which cannot be imported here" in answer.stderr
    assert "serving.mode=inprocess" in answer.stderr


@needs_scann
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 300), k=st.integers(1, 170), share=st.floats(0, 1))
def test_nothing_is_found_that_the_filter_leaves_out_and_all_else_where_all_is_read(
    seed: int, num: int, k: int, share: float
) -> None:
    rows = np.random.default_rng(seed).permutation(1000)[:num] + 2
    index = BUILDER.build(items_of(num, seed=seed, tail=0.3), rows)
    if index.effort.names:
        index = index.with_effort(ALL_READ)
    allowed = filter_of(share, size=1002, seed=seed)
    found = index.search(items_of(3, seed=seed + 1), k=k, allowed=allowed)
    passing = rows[allowed[rows]]
    for own, scores in zip(found.rows, found.scores, strict=True):
        real = own != NO_RESULT
        assert len(set(own[real].tolist())) == real.sum() == min(k, len(passing))
        assert np.isin(own[real], passing).all()
        assert (np.diff(scores[real]) <= 0).all()


@needs_scann
@pytest.mark.parametrize("share", [1.0, 0.9, 0.6, 0.3, 0.1, 0.01])
def test_recall_is_held_under_a_filter(share: float) -> None:
    items, queries = items_of(6000, tail=0.3), items_of(100, seed=1)
    index = built(6000, lists=80).with_effort(Effort(lists=10, refine=8))
    own = recall_under(index, items, queries, filter_of(share, size=6002))
    assert own >= recall(index, items, queries) - 0.02
    assert share > 0.5 or own == 1.0


@needs_scann
def test_another_tick_is_encoded_by_what_was_learned() -> None:
    items, queries = items_of(2000, tail=0.3), items_of(50, seed=1)
    index = built(2000, lists=30)
    values = np.random.default_rng(2).normal(size=2002).astype(np.float32)
    changed = np.column_stack([items[:, :-1], values[2:]])
    other = index.with_last(values)
    assert recall(other.with_effort(ALL_READ), changed, queries) == 1.0
    found = other.search(queries, k=10)
    np.testing.assert_allclose(
        found.scores, np.einsum("nkd,nd->nk", changed[found.rows - 2], queries), rtol=1e-4, atol=1e-4
    )
    before, after = (own.parts[0].structure.arrays() for own in (index, other))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(before["ah_codebook.pb"], after["ah_codebook.pb"])
    assert (before["hashed_dataset.npy"] != after["hashed_dataset.npy"]).any()
    # The same values give the same codes.
    same = index.with_last(np.append([0, 0], items[:, -1]).astype(np.float32))
    np.testing.assert_array_equal(same.search(queries, k=10).rows, index.search(queries, k=10).rows)


@needs_scann
def test_deleted_items_are_not_found_updated_ones_are_where_they_went_and_a_merge_keeps_both() -> None:
    items, queries = items_of(1000, tail=0.3), items_of(20, seed=1)
    snapshot = Snapshot(built(1000).with_effort(ALL_READ))
    gone, new = np.arange(2, 302), items_of(50, seed=5)
    moved = np.arange(302, 352)
    changed = snapshot.with_changes(Changes.of(moved, new, deleted=gone))
    present = np.concatenate([new, items[350:]])
    rows = np.concatenate([moved, np.arange(352, 1002)])
    exact = FlatBuilder().build(present, rows).search(queries, k=20)
    for own in (changed, changed.merged(BUILDER)):
        np.testing.assert_array_equal(own.search(queries, k=20).rows, exact.rows)


@needs_scann
def test_it_does_not_move_to_a_gpu() -> None:
    with pytest.raises(UnfitPieces, match="leave OnGpu out"):
        _moved(built(50).parts[0].structure)


def test_a_tuner_considers_it_only_if_asked_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tuned(some(300), NO_LIMIT, seed=0)
    assert "ScaNN is not considered, for Triton cannot serve it" in caplog.text
    assert "scann (" not in caplog.text
    assert {own.type for own in recipes(300, scann=True)} - {own.type for own in recipes(300)} == {"scann"}


@pytest.mark.skipif(HAS_SCANN, reason="ScaNN is installed")
def test_a_tuner_that_is_asked_for_it_goes_on_without_where_it_is_absent(caplog: pytest.LogCaptureFixture) -> None:
    assert tuned(some(300), replace(NO_LIMIT, scann=True), seed=0).chosen.recipe.type != "scann"
    assert "ScaNN is not considered, for it is not installed: make setup EXTRAS=scann" in caplog.text


@needs_scann
def test_a_tuner_that_is_asked_for_it_measures_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tuned(some(3000, 30), replace(NO_LIMIT, scann=True), seed=0)
    assert "scann (0% apart; lists 76, probes" in caplog.text  # 3,000 / 39 leaves at most
    assert "ScaNN is not considered" not in caplog.text


@needs_scann
@pytest.mark.parametrize("apart", [0.0, 0.01])
def test_a_choice_stands_in_a_config_that_builds_what_was_measured(apart: float) -> None:
    known, recipe = some(2000), Recipe(type="scann", apart=apart, size=1)
    (least, *_), _ = Efforts(recipe.builder(2000).build(known.items, known.rows), known, target=0.9).least()
    index = builder_of(recipe.config(2000, least.effort)).build(known.items, known.rows)
    assert index.effort == least.effort
    assert known.recalls(index).mean() == least.recall >= 0.9
