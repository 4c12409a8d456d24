from collections.abc import Callable

import numpy as np
import pytest

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.transforms import ItemInputs
from lifecycle.cold_items import METRICS, ColdItems, Measured, category_popularity, cold_table, matched, pooled

# Forty items: item n was had by n + 1 of 40 queries in training; each query tries two more in the test.
ITEM_IDS = [f"i{n:02}" for n in range(40)]
EVENTS = [
    *[(f"q{query:02}", ITEM_IDS[n], 1 + n / 100, "train") for n in range(40) for query in range(n + 1)],
    *[(f"q{query:02}", ITEM_IDS[(7 * query) % 40], 9, "test") for query in range(40)],
]


@pytest.fixture(scope="module")
def dataset(build_dataset: Callable[..., Dataset]) -> Dataset:
    return build_dataset(EVENTS, item_ids=ITEM_IDS)


def draw(dataset: Dataset, protocol: RequestProtocol, seed: int = 1, *, share: float = 0.25) -> ColdItems:
    return ColdItems.draw(dataset, protocol, share=share, min_queries=5, generator=np.random.default_rng(seed))


def test_a_share_of_every_decile_is_held_out_where_enough_queries_had_an_item(
    dataset: Dataset, leave_one_out: RequestProtocol
) -> None:
    items = draw(dataset, leave_one_out)
    # Four items a decile, of which one is held out; those of the first decile were had by one to four queries.
    assert np.bincount(items.deciles[items.is_held], minlength=11).tolist() == [0, 0, *[1] * 9]
    assert (draw(dataset, leave_one_out).is_held == items.is_held).all()
    assert (draw(dataset, leave_one_out, seed=2).is_held != items.is_held).any()


def test_training_knows_nothing_of_what_is_held_out(dataset: Dataset, leave_one_out: RequestProtocol) -> None:
    items = draw(dataset, leave_one_out)
    held = {ITEM_IDS[row - 2] for row in np.flatnonzero(items.is_held)}
    known = items.known
    assert set(known.events.item_ids) == set(ITEM_IDS) - held
    assert not held & set(known.item_days["item_id"].to_pylist())
    assert known.events.query_ids == dataset.events.query_ids
    # Only these events are gone, and their content stays.
    assert len(known.events.item_ids) == sum(item_id not in held for item_id in dataset.events.item_ids)
    assert known.items is dataset.items
    assert not leave_one_out.recommendable(known, ["train"])[items.is_held].any()


def test_nothing_to_hold_out_is_refused(dataset: Dataset, leave_one_out: RequestProtocol) -> None:
    with pytest.raises(ValueError, match="no item is held out: too few had 5 queries to take"):
        draw(dataset, leave_one_out, share=0.01)


def test_popularity_of_categories_is_the_mean_over_what_is_known_of_each_value() -> None:
    # Rows 2 to 6; column 0 has values 2 and 3, column 1 value 2 or nothing.
    categories = np.zeros((7, 2, 2), dtype=np.int64)
    categories[2:, 0, 0] = [2, 2, 3, 2, 1]
    categories[4:, 0, 1] = [0, 3, 0]
    categories[2, 1, 0] = categories[5, 1, 0] = 2
    tokens = np.zeros((7, 1), dtype=np.int32)
    items = ItemInputs(
        item_id=np.arange(7),
        categories=categories,
        numbers=np.zeros((7, 0), dtype=np.float32),
        title_tokens=tokens,
        text_tokens=tokens,
    )
    known = np.array([False, False, True, True, True, False, False])
    found = category_popularity(np.array([0.0, 0, 10, 20, 60, 500, 500]), items=items, known=known)
    # Value 2 of column 0: (10 + 20) / 2; value 3: 60; value 2 of column 1: 10. Row 5 has all three.
    # Row 6 has an unknown value alone: the mean of what is known.
    assert found[2:].tolist() == [(15 + 10) / 2, 15, 60, (15 + 60 + 10) / 3, 30]


def strata(**deciles: list[float]) -> dict[int, dict[str, np.ndarray]]:
    return {int(name[1:]): {metric: np.array(values) for metric in METRICS} for name, values in deciles.items()}


def test_known_items_weigh_as_what_is_held_out_of_their_decile() -> None:
    measured = Measured(held=strata(d1=[0.1, 0.3], d2=[0.2] * 6), known=strata(d1=[0.8, 0.0], d2=[0.2] * 100))
    known, share = matched(measured, "ndcg@10", generator=np.random.default_rng(0))
    # Held out 0.2 in both; known 0.4 in the first decile, which holds 2 of the 8 requests, and 0.2 in the second.
    assert known.value == pytest.approx(0.25 * 0.4 + 0.75 * 0.2)
    assert share.value == pytest.approx(0.2 / 0.25)
    assert (known.low, known.high) == pytest.approx((0.15, 0.35))
    assert share.low < share.value < share.high


def test_a_decile_without_requests_on_either_side_compares_nothing() -> None:
    measured = Measured(held=strata(d1=[0.1, 0.1], d2=[], d3=[1.0]), known=strata(d1=[0.2], d2=[0.9], d3=[]))
    known, share = matched(measured, "recall@100", generator=np.random.default_rng(0))
    assert (known.value, share.value) == pytest.approx((0.2, 0.5))


def test_draws_are_one_sample_together_and_stand_in_one_table() -> None:
    first = Measured(held=strata(d1=[0.1]), known=strata(d1=[0.2, 0.4]))
    second = Measured(held=strata(d1=[0.3], d2=[0.2, 0.2]), known=strata(d1=[0.3], d2=[0.4]))
    both = pooled([first, second])
    assert both.held[1]["ndcg@10"].tolist() == [0.1, 0.3]
    assert both.known[1]["ndcg@10"].tolist() == [0.2, 0.4, 0.3]
    assert both.held[2]["ndcg@10"].tolist() == [0.2, 0.2]
    head, row, *_, held, known = cold_table({"towers": both}, seed=1).splitlines()
    assert head.split() == ["ndcg@10", "held", "out", "known,", "as", "popular", "share"]
    # 0.2 of (0.3 + 0.4) / 2
    assert [row.split()[place] for place in (1, 3, 5)] == ["0.200", "0.350", "0.571"]
    assert held == "requests for items held out, by decile of popularity: {1: 2, 2: 2}, in all 4"
    assert known.endswith("{1: 3, 2: 1}, in all 4")
