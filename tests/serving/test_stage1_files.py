"""Stage 1 as files, read as it was written."""

from pathlib import Path

import numpy as np
import pytest

from serving.retrieval import (
    ITEM_ARRAYS,
    TOKENIZER_FILE,
    Stage1,
    write_index,
)
from tests.serving.stage1_files import write_again

NUM_ITEMS = 300


@pytest.fixture(scope="module")
def stage1(tiny_release: Path) -> Stage1:
    return Stage1.read(tiny_release)


def test_large_arrays_are_mapped_and_not_copied(stage1: Stage1) -> None:
    arrays = [
        stage1.item_embeddings,
        stage1.linear_embeddings,
        stage1.statistics.values,
        stage1.items.text_tokens,
        stage1.items.categories,
    ]
    assert all(isinstance(array.base, np.memmap) for array in arrays)


def test_tables_that_were_written_are_read_back(stage1: Stage1, tiny_release: Path, tmp_path: Path) -> None:
    write_again(stage1, tmp_path, tokenizer_json=tiny_release / TOKENIZER_FILE)
    elsewhere = tmp_path / "index"
    elsewhere.mkdir()
    write_index(
        elsewhere / "refit.faiss",
        index=stage1.index,
        linear_embeddings=stage1.linear_embeddings,
        blend=stage1.blend,
        new_items=stage1.new_items,
        fusion=stage1.fusion,
    )

    read = Stage1.read(tmp_path, index_path=elsewhere / "refit.faiss")

    assert read.spec == stage1.spec
    assert read.spec.hash == stage1.spec.hash
    assert (read.vocabularies, read.catalogue) == (stage1.vocabularies, stage1.catalogue)
    assert (read.fusion, read.blend) == (stage1.fusion, stage1.blend)
    np.testing.assert_array_equal(read.linear_embeddings, stage1.linear_embeddings)
    np.testing.assert_array_equal(read.recommendable, stage1.recommendable)
    assert read.special_tokens == stage1.special_tokens == (1, 2)
    assert len(read.index) == NUM_ITEMS
    for name in ITEM_ARRAYS:
        np.testing.assert_array_equal(getattr(read.items, name), getattr(stage1.items, name))
    np.testing.assert_array_equal(read.item_embeddings, stage1.item_embeddings)
    np.testing.assert_array_equal(read.statistics.values, stage1.statistics.values)
    np.testing.assert_array_equal(read.neighbours["ease"].values, stage1.neighbours["ease"].values)
