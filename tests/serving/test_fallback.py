import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.fallback import PopularityFallback

IDS = st.lists(st.text(min_size=1, max_size=3), unique=True, max_size=20)


def test_popular_items_come_best_first_without_those_already_had() -> None:
    fallback = PopularityFallback(item_ids=["a", "b", "c", "d"])

    assert fallback.recommend(k=2, exclude=["b"]) == ["a", "c"]


def test_a_list_is_shorter_when_popular_items_run_out() -> None:
    assert PopularityFallback(item_ids=["a", "b"]).recommend(k=10, exclude=["a"]) == ["b"]


@pytest.mark.parametrize("k", [0, -1])
def test_no_places_is_no_items(k: int) -> None:
    assert PopularityFallback(item_ids=["a"]).recommend(k=k) == []


@given(item_ids=IDS, exclude=IDS, k=st.integers(0, 30))
def test_every_answer_is_bounded_distinct_and_without_the_excluded(
    item_ids: list[str], exclude: list[str], k: int
) -> None:
    answer = PopularityFallback(item_ids=item_ids).recommend(k=k, exclude=exclude)

    assert len(answer) == min(k, len(set(item_ids) - set(exclude)))
    assert len(set(answer)) == len(answer)
    assert not set(answer) & set(exclude)
