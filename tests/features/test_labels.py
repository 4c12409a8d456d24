import pyarrow as pa
import pytest

from features.errors import LabelError
from features.labels import ActionLabels, RatingLabels, labels_needed


def events(values: list[float], kinds: list[str] | None = None) -> pa.Table:
    return pa.table(
        {"event": pa.array(kinds or ["rating"] * len(values), pa.string()), "value": pa.array(values, pa.float64())}
    )


def labelled(table: pa.Table) -> list[tuple[float, str]]:
    return list(zip(table["relevance"].to_pylist(), table["label_source"].to_pylist(), strict=True))


def test_without_a_threshold_every_rating_is_a_positive_because_it_happened():
    assert labelled(RatingLabels().label(events([1.0, 5.0]))) == [(1.0, "implicit"), (1.0, "implicit")]


def test_with_a_threshold_lower_ratings_have_no_relevance():
    table = RatingLabels(threshold=4.0).label(events([3.5, 4.0, 5.0]))
    assert labelled(table) == [(0.0, "explicit"), (1.0, "explicit"), (1.0, "explicit")]


def test_graded_relevance_is_one_at_the_threshold_and_one_more_each_step_above():
    # threshold 3: 2 -> 0, 3 -> 1, 4 -> 2, 5 -> 3
    table = RatingLabels(threshold=3.0, graded=True).label(events([2.0, 3.0, 4.0, 5.0]))
    assert table["relevance"].to_pylist() == [0.0, 1.0, 2.0, 3.0]
    assert table["relevance"].type == pa.float32()


def test_graded_labels_without_a_threshold_are_refused():
    with pytest.raises(LabelError, match=r"labels\.threshold, which is null; set it"):
        RatingLabels(graded=True)


def test_actions_have_the_relevance_of_their_kind_and_others_an_assumed_one():
    table = events([1.0, 1.0, 1.0], ["view", "purchase", "hover"])
    rule = ActionLabels(relevance={"view": 1, "purchase": 2}, otherwise=0)
    assert labelled(rule.label(table)) == [(1.0, "implicit"), (2.0, "implicit"), (0.0, "assumed")]


def test_an_action_without_relevance_is_refused_by_name():
    with pytest.raises(LabelError, match=r"no relevance for events \['hover'\], only for \['view'\]; name them"):
        ActionLabels(relevance={"view": 1.0}).label(events([1.0], ["hover"]))


def test_negative_relevance_is_refused():
    with pytest.raises(LabelError, match=r"negative for \['return'\]"):
        ActionLabels(relevance={"return": -1.0})
    with pytest.raises(LabelError, match=r"labels\.otherwise must be 0 or more, got -1"):
        ActionLabels(relevance={}, otherwise=-1.0)


@pytest.mark.parametrize("rule", [RatingLabels(), RatingLabels(threshold=4.0), ActionLabels(relevance={"rating": 1.0})])
def test_an_empty_log_gets_the_columns(rule):
    assert rule.label(events([])).column_names == ["event", "value", "relevance", "label_source"]


def test_the_labels_that_an_interval_asks_for_are_those_of_the_textbook():
    # 95 %: z = 1.959964. A share of one half to within 5 points on either side: 1.96^2 * 0.25 / 0.05^2 = 384.15
    assert labels_needed(width=0.1) == 385
    # to within 1 point on either side: 1.96^2 * 0.25 / 0.01^2 = 9603.6
    assert labels_needed(width=0.02) == 9604
    # 99 %: z = 2.575829; a share of a tenth: 2.5758^2 * 0.09 / 0.05^2 = 238.86
    assert labels_needed(width=0.1, proportion=0.1, confidence=0.99) == 239


def test_half_the_width_takes_four_times_the_labels():
    assert labels_needed(width=0.005) == pytest.approx(4 * labels_needed(width=0.01), abs=4)


@pytest.mark.parametrize("name", ["width", "proportion", "confidence"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan")])
def test_labels_for_an_interval_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(LabelError, match=f"expected {name} between 0 and 1; got {value}"):
        labels_needed(**{"width": 0.1, name: value})
