import numpy as np
import pytest
from scipy.sparse import csr_array

from towers.retrievers.ials import fit_ials, solve_rows


def test_a_row_solves_its_own_dense_least_squares():
    generator = np.random.default_rng(1)
    had = (generator.random((7, 12)) < 0.3).astype(np.float64)
    had[3] = 0.0  # a row without any pair
    others = generator.normal(size=(12, 4)).astype(np.float32)
    solved = solve_rows(csr_array(had), others, weight=0.2, regularisation=0.05, num_columns=12)
    # Minimise sum of (1 - f.o)^2 over what was had, 0.2 * (f.o)^2 over all twelve, 0.05 * (had + 0.2 * 12) * |f|^2: as
    # one least-squares problem, a line a term.
    for row, factor in zip(had, solved, strict=True):
        own = others[row > 0]
        lines = np.concatenate([own, 0.2**0.5 * others, (0.05 * (len(own) + 2.4)) ** 0.5 * np.eye(4)])
        wanted = np.r_[np.ones(len(own)), np.zeros(12 + 4)]
        best = np.linalg.lstsq(lines, wanted, rcond=None)[0]
        np.testing.assert_allclose(factor, best, atol=1e-5)


# Queries 0 to 9 have items 2 to 6, queries 10 to 19 items 7 to 11, each one of its own missing; nobody had 12.
PAIRS = [
    (query, item) for query in range(20) for item in (range(2, 7), range(7, 12))[query // 10] if item % 5 != query % 5
]


def fitted(**settings: float):
    queries, items = np.array(PAIRS).T
    given = {"num_factors": 4, "regularisation": 0.01, **settings}
    return fit_ials(query_rows=queries, item_rows=items, num_rows=13, generator=np.random.default_rng(0), **given)


def test_a_history_finds_the_rest_of_its_group_though_the_fit_never_saw_it():
    scores = fitted().score_all(seen_rows=np.array([[2, 3, 4, 0], [9, 8, 0, 0]]))
    assert scores.shape == (2, 13)
    for history, group, others in ((0, [5, 6], range(7, 12)), (1, [7, 10, 11], range(2, 7))):
        assert scores[history, group].min() > scores[history, list(others)].max() + 0.2
    # Padding, unknown and what nobody had score nothing; a history of nothing likes nothing.
    assert not scores[:, [0, 1, 12]].any()
    assert not fitted().score_all(seen_rows=np.zeros((1, 2), dtype=np.int64)).any()


def test_more_sweeps_lower_the_loss():
    matrix = np.zeros((20, 10))
    for query, item in PAIRS:
        matrix[query, item - 2] = 1.0

    def loss(num_sweeps: int) -> float:
        ials = fitted(num_sweeps=num_sweeps)
        items = ials.item_factors[2:12]
        queries = solve_rows(csr_array(matrix), items, weight=0.1, regularisation=0.01, num_columns=10)
        found = queries @ items.T
        own = ((1 - found) ** 2)[matrix > 0].sum() + 0.1 * (found**2).sum()
        sizes = ((queries**2).sum(axis=1), matrix.sum(axis=1) + 1.0), ((items**2).sum(axis=1), matrix.sum(axis=0) + 2.0)
        return float(own + sum(0.01 * (norms * counts).sum() for norms, counts in sizes))

    losses = [loss(num_sweeps) for num_sweeps in (1, 2, 4, 12)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    whole = fitted().item_factors
    monkeypatch.setattr("towers.retrievers.ials.BLOCK", 3)
    np.testing.assert_allclose(fitted().item_factors, whole, atol=1e-5)


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"regularisation": 0.0}])
def test_settings_without_a_minimum_are_refused(settings):
    with pytest.raises(ValueError, match="weight and regularisation must be above 0"):
        fitted(**settings)
