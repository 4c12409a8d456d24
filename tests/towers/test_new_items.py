"""New items: what the index holds for items without events."""

import numpy as np
import pytest

from towers.retrievers.new_items import NewItems

NEW = NewItems(rows=np.array([3, 5]), learned=np.array([[1, 2], [3, 4]], np.float32), bias=0.5)


def test_only_new_items_are_otherwise_in_the_index():
    embeddings = np.zeros((4, 4), np.float32)
    embeddings[:, 2], embeddings[:, 3] = 7.0, 0.25  # linear, and what their events are worth
    found = NEW.placed(embeddings, np.array([5, 2, 3, 6]))
    expected = [[3, 4, 7, 0.75], [0, 0, 7, 0.25], [1, 2, 7, 0.75], [0, 0, 7, 0.25]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert embeddings[0].tolist() == [0, 0, 7, 0.25]


def test_at_a_tick_the_bias_stands_beside_what_events_are_worth():
    bias = np.arange(7, dtype=np.float32)
    assert NEW.biased(bias).tolist() == [0, 1, 2, 3.5, 4, 5.5, 6]
    assert bias.tolist() == list(range(7))


def test_without_new_items_every_bit_stays():
    embeddings = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(NewItems.none().placed(embeddings, np.arange(5)), embeddings)
    np.testing.assert_array_equal(NewItems.none().biased(embeddings[:, 0]), embeddings[:, 0])


@pytest.mark.parametrize("new_items", [NEW, NewItems.none()])
def test_new_items_come_back_from_their_file(new_items, tmp_path):
    new_items.write(tmp_path / "new.npz")
    read = NewItems.read(tmp_path / "new.npz")
    np.testing.assert_array_equal(read.rows, new_items.rows)
    np.testing.assert_array_equal(read.learned, new_items.learned)
    assert read.bias == new_items.bias
