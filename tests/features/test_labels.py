import pyarrow as pa
import pytest

from features.errors import LabelError
from features.labels import ActionLabels, RatingLabels


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
