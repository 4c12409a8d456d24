import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from features.dataset import Dataset
from lifecycle.build_index import build_indexes, embedding_space_hash
from lifecycle.cuts import CUTS
from serving.retrieval import RECOMMENDABLE_FILE
from towers.index.build import FlatBuilder
from towers.index.search import ItemIndex

# Padding, unknown, then five items, of which the third and the last cannot be recommended.
RECOMMENDABLE = np.array([False, False, True, True, False, True, False])


@pytest.fixture
def towers_dir(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for cut in CUTS:
        arrays = tmp_path / "towers" / cut.name / "arrays"
        arrays.mkdir(parents=True)
        np.save(arrays.parent / RECOMMENDABLE_FILE, RECOMMENDABLE)
        np.save(arrays / "item_embeddings.npy", generator.normal(size=(len(RECOMMENDABLE), 3)).astype(np.float32))
        (arrays.parent / "query_tower.onnx").write_bytes(b"tower of " + cut.name.encode())
    return tmp_path / "towers"


@pytest.fixture
def index_dir(towers_dir: Path, tmp_path: Path) -> Path:
    (tmp_path / "index").mkdir()
    build_indexes(towers_dir=towers_dir, builder=FlatBuilder(), out_dir=tmp_path / "index")
    return tmp_path / "index"


def embeddings_of(directory: Path) -> NDArray[np.float32]:
    embeddings: NDArray[np.float32] = np.load(directory / "arrays" / "item_embeddings.npy")
    return embeddings


def test_items_that_cannot_be_recommended_are_not_found(index_dir: Path) -> None:
    for cut in CUTS:
        found = ItemIndex.read(index_dir / f"{cut.name}.faiss").search(np.ones((1, 3), np.float32), k=5)
        assert sorted(found.rows[0].tolist()) == [0, 0, 2, 3, 5]  # rows of the others; 0 fills up


def test_a_cut_is_searched_by_its_own_embeddings(towers_dir: Path, index_dir: Path) -> None:
    for cut in CUTS:
        embeddings = embeddings_of(towers_dir / cut.name)
        found = ItemIndex.read(index_dir / f"{cut.name}.faiss").search(embeddings[5:6], k=3)
        wanted = embeddings[found.rows[0]] @ embeddings[5]
        np.testing.assert_allclose(found.scores[0], wanted, rtol=1e-6)
        assert (np.diff(found.scores[0]) <= 0).all()


def test_the_facts_name_items_width_and_the_embedding_space(towers_dir: Path, index_dir: Path) -> None:
    facts = json.loads((index_dir / "index.json").read_text())
    assert list(facts) == ["fold", "refit"]
    for name, own in facts.items():
        assert own == {"items": 3, "width": 3, "embedding_space_hash": embedding_space_hash(towers_dir / name)}


def test_another_tower_or_another_item_embedding_is_another_space(towers_dir: Path) -> None:
    directory = towers_dir / "fold"
    first = embedding_space_hash(directory)
    assert first == embedding_space_hash(directory)
    embeddings = embeddings_of(directory)
    embeddings[2, 0] += 1.0
    np.save(directory / "arrays" / "item_embeddings.npy", embeddings)
    second = embedding_space_hash(directory)
    (directory / "query_tower.onnx").write_bytes(b"another tower")
    assert len({first, second, embedding_space_hash(directory), embedding_space_hash(towers_dir / "refit")}) == 4


def test_a_run_indexes_all_items_with_events_in_the_cut(smoke_run: Path, smoke_dataset: Dataset) -> None:
    for cut in CUTS:
        index = ItemIndex.read(smoke_run / "demo" / "index" / f"{cut.name}.faiss")
        known = {smoke_dataset.events.item_ids[place] for place in smoke_dataset.events.places(cut.splits)}
        assert len(index) == len(known)
