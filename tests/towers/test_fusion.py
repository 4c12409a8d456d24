import numpy as np

from towers.retrievers.fusion import sum_standardised


def test_standardised_scores_weigh_alike_whatever_their_scale():
    # -1, 0, 1 and 0, 30, 0 standardised over items 1..3: (-1.22, 0, 1.22) and (-0.71, 1.41, -0.71)
    allowed = np.array([False, True, True, True])
    small, large = np.array([[9.0, -1, 0, 1]]), np.array([[9.0, 0, 30, 0]])
    summed = sum_standardised([small.astype(np.float32), large.astype(np.float32)], allowed=allowed)
    expected = [0, -(1.5**0.5) - 0.5**0.5, 2**0.5, 1.5**0.5 - 0.5**0.5]
    np.testing.assert_allclose(summed, [expected], rtol=1e-5)


def test_a_retriever_without_an_opinion_adds_nothing_to_a_sum():
    allowed = np.array([False, True, True])
    opinion, none = np.array([[0, 1, 2]], dtype=np.float32), np.full((1, 3), 0.1, dtype=np.float32)
    np.testing.assert_array_equal(
        sum_standardised([opinion, none], allowed=allowed), sum_standardised([opinion], allowed=allowed)
    )
