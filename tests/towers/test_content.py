"""The map from content to embeddings."""

import numpy as np
import pytest

from features.transforms import ItemInputs
from features.vocab import FIRST
from towers.retrievers.content import REGULARISATION, ContentFeatures, ContentMap, ItemContent


def items(*, categories, numbers):
    categories, numbers = np.array(categories), np.array(numbers, np.float32)
    tokens = np.zeros((len(numbers), 1), np.int32)
    return ItemInputs(
        item_id=np.arange(len(numbers)), categories=categories, numbers=numbers, title_tokens=tokens, text_tokens=tokens
    )


def test_features_match_hand_computation():
    # Rows 2 to 5 are known; one category column of two values at most, one number, texts of two coordinates.
    categories = [[[0, 0]], [[0, 0]], [[2, 3]], [[2, 0]], [[3, 0]], [[4, 0]], [[3, 4]]]
    table = items(categories=categories, numbers=[[0], [0], [1], [2], [3], [4], [9]])
    texts = np.array([[0, 0], [0, 0], [1, 1], [1, 3], [3, 1], [3, 3], [2, 2]], np.float32)
    content = ItemContent.of(table, texts=texts)
    found = ContentFeatures.fit(content.take(slice(2, 6))).of(content.take(np.array([2, 6])))
    # Texts less their mean (2, 2), over the mean length of what is left, the root of 2.
    np.testing.assert_allclose(found[:, :2], [[-(2**-0.5)] * 2, [0, 0]], rtol=1e-6)
    # Value 4 is one known item's alone and says nothing; two values share a length of 1.
    np.testing.assert_allclose(found[:, 2:4], [[2**-0.5] * 2, [0, 1]], rtol=1e-6)
    # The nine limits of the tenths of 1, 2, 3, 4 lie above 1 and below 9.
    assert found[:, 4:].tolist() == [[1.0] + [0.0] * 9, [0.0] * 9 + [1.0]]


@pytest.mark.parametrize("num_known", [1, 3, 40])
def test_the_map_is_the_weighted_ridge_regression_with_a_free_mean(num_known):
    generator = np.random.default_rng(num_known)
    num_rows = FIRST + 50
    table = items(
        categories=generator.integers(0, FIRST + 4, size=(num_rows, 2, 2)), numbers=generator.normal(size=(num_rows, 1))
    )
    known = FIRST + generator.permutation(50)[:num_known]
    content = ItemContent.of(table, texts=generator.normal(size=(num_rows, 5)).astype(np.float32))
    features = ContentFeatures.fit(content.take(known))
    weights, embeddings = generator.integers(1, 30, num_known).astype(float), generator.normal(size=(num_known, 3))
    found = ContentMap.fit(features, table=content, known=known, weights=weights, embeddings=embeddings)

    # By least squares: rows weighed by their root, a row for each coefficient, and a mean that costs nothing.
    root = np.sqrt(weights / weights.mean())[:, None]
    inputs = np.c_[features.of(content.take(known)), np.ones(num_known)]
    penalty = np.sqrt(REGULARISATION) * np.eye(inputs.shape[1])[:-1]
    stacked = np.r_[root * inputs, penalty], np.r_[root * embeddings, np.zeros((len(penalty), 3))]
    solution = np.linalg.lstsq(*stacked, rcond=None)[0]
    items_alone = content.take(slice(FIRST, None))
    expected = np.c_[features.of(items_alone), np.ones(len(items_alone))] @ solution
    np.testing.assert_allclose(found.of(items_alone), expected, rtol=1e-4, atol=1e-5)


def test_items_without_any_content_get_the_mean_of_known_ones():
    table = items(categories=np.zeros((6, 0, 1), int), numbers=np.zeros((6, 0)))
    known = np.array([2, 3])
    content = ItemContent.of(table, texts=np.zeros((6, 0), np.float32))
    found = ContentMap.fit(
        ContentFeatures.fit(content.take(known)),
        table=content,
        known=known,
        weights=np.array([1.0, 3.0]),
        embeddings=np.array([[0.0], [4.0]]),
    )
    np.testing.assert_allclose(found.of(content.take(slice(4, 6))), [[3.0], [3.0]])  # (1 * 0 + 3 * 4) / 4
    assert found.of(content.take(slice(0, 0))).shape == (0, 1)


def test_a_map_that_was_written_reads_as_it_was(tmp_path):
    # Twelve columns: by their names as text, the tenth would come before the second.
    generator, num_rows = np.random.default_rng(3), 40
    table = items(
        categories=generator.integers(0, FIRST + 3, size=(num_rows, 12, 2)),
        numbers=generator.normal(size=(num_rows, 12)),
    )
    content = ItemContent.of(table, texts=generator.normal(size=(num_rows, 4)).astype(np.float32))
    known = np.arange(FIRST, 30)
    written = ContentMap.fit(
        ContentFeatures.fit(content.take(known)),
        table=content,
        known=known,
        weights=np.ones(len(known)),
        embeddings=generator.normal(size=(len(known), 3)),
    )
    written.write(tmp_path / "index.content.npz")
    read = ContentMap.read(tmp_path / "index.content.npz")
    np.testing.assert_array_equal(read.of(content), written.of(content))
