import numpy as np

from towers.retrievers.index_hits import IndexHits


def test_what_was_found_is_brought_in_its_order_and_any_item_scores_its_inner_product() -> None:
    embeddings = np.array([[0, 0], [0, 0], [1, 0], [0, 2], [3, 3]], dtype=np.float32)
    hits = IndexHits(np.array([4, 3, 2, 0, 0]), embeddings.__getitem__, np.array([2.0, 1.0], dtype=np.float32))
    allowed = np.array([False, False, True, True, True])
    assert hits.best(k=2, allowed=allowed).tolist() == [4, 3]
    allowed[4] = False
    assert hits.best(k=5, allowed=allowed).tolist() == [3, 2]
    # (2, 1) with (1, 0), (0, 2) and (3, 3)
    assert hits.of(np.array([2, 3, 4])).tolist() == [2.0, 2.0, 9.0]
