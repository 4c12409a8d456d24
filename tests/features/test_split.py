from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import FeaturesError, SplitLeak
from features.split import SPLITS, LeaveOneOut, TimeSplit, check_split


def log(histories: dict[str, list[int]]) -> pa.Table:
    """Events of each query at these times, in order, positions as the ETL gives them; each of an item of its own."""
    rows = sorted(
        (at_ms, place, query) for query, times in histories.items() for place, at_ms in enumerate(sorted(times))
    )
    positions: Counter[str] = Counter()
    events = []
    for source_row, (at_ms, _, query) in enumerate(rows):
        events.append((query, f"i{source_row}", "rating", at_ms, source_row, positions[query]))
        positions[query] += 1
    names = ["query_id", "item_id", "event", "occurred_at_ms", "source_row", "position"]
    types = [pa.string(), pa.string(), pa.string(), pa.int64(), pa.int64(), pa.int32()]
    columns = list(zip(*events, strict=True)) if events else [[] for _ in names]
    return pa.table([pa.array(list(column), kind) for column, kind in zip(columns, types, strict=True)], names=names)


def splits_of(events: pa.Table, query: str) -> list[str]:
    rows = [row for row in events.sort_by("source_row").to_pylist() if row["query_id"] == query]
    return [row["split"] for row in rows]


def with_splits(events: pa.Table, splits: list[str]) -> pa.Table:
    return events.append_column("split", pa.array(splits, pa.string()))


def test_the_last_events_are_ranking_validation_and_test():
    events = LeaveOneOut(ranking_events=3).assign(log({"q": [1, 2, 3, 4, 5, 6, 7]}))
    assert splits_of(events, "q") == ["train", "train", "ranking", "ranking", "ranking", "validation", "test"]


@pytest.mark.parametrize(
    ("num_events", "expected"),
    [
        (1, ["train"]),
        (2, ["train", "train"]),
        (3, ["train", "validation", "test"]),
        (4, ["train", "train", "validation", "test"]),
        # ranking_events + 3 = 5 is the first length that gives ranking events, and one to train on
        (5, ["train", "ranking", "ranking", "validation", "test"]),
    ],
)
def test_short_histories_give_up_ranking_first_and_then_the_rest(num_events, expected):
    events = LeaveOneOut(ranking_events=2).assign(log({"q": list(range(num_events)), "other": [1, 2, 3, 4, 5, 6]}))
    assert splits_of(events, "q") == expected


def test_without_ranking_events_all_but_two_are_train():
    assert splits_of(LeaveOneOut(ranking_events=0).assign(log({"q": [1, 2, 3]})), "q") == [
        "train",
        "validation",
        "test",
    ]


def test_ties_in_time_are_split_in_order_of_the_raw_log():
    events = LeaveOneOut(ranking_events=0).assign(log({"q": [5, 5, 5]}))
    LeaveOneOut().check(events)
    assert splits_of(events, "q") == ["train", "validation", "test"]


def test_the_time_split_cuts_at_shares_of_the_events():
    events = TimeSplit(train=0.8, ranking=0.0, validation=0.1).assign(
        log({"q": list(range(10)), "p": list(range(10, 20))})
    )
    # 20 events: 16 train, 2 validation, 2 test; p's first 6 are train
    assert Counter(events["split"].to_pylist()) == {"train": 16, "validation": 2, "test": 2}
    assert splits_of(events, "p") == ["train"] * 6 + ["validation"] * 2 + ["test"] * 2


def test_the_time_split_can_hold_back_ranking_events_before_validation():
    events = TimeSplit(train=0.6, ranking=0.2, validation=0.1).assign(log({"q": list(range(10))}))
    assert splits_of(events, "q") == ["train"] * 6 + ["ranking"] * 2 + ["validation", "test"]


def test_an_instant_is_never_in_two_splits():
    # The cut after 8 of 10 events falls into the three events of instant 7: all three go after it.
    events = TimeSplit().assign(log({"q": [0, 1, 2, 3, 4, 5, 7, 7, 7, 9]}))
    assert splits_of(events, "q") == ["train"] * 6 + ["validation"] * 3 + ["test"]


@pytest.mark.parametrize("split", [LeaveOneOut(), TimeSplit()])
def test_an_empty_log_can_be_split(split):
    events = split.assign(log({}))
    split.check(events)
    assert events.num_rows == 0


def test_a_test_event_before_a_train_event_of_its_query_is_refused_by_row():
    events = with_splits(log({"q": [1, 2, 3], "p": [1, 2]}), ["train", "train", "train", "test", "train"])
    # rows: p and q at 1 ms, p and q at 2 ms, q at 3 ms; so row 3 is q's second event and row 4 its third
    with pytest.raises(SplitLeak, match=r"row 3 \(query q, item i3, 2 ms, test\)") as error:
        check_split(events, across_queries=False)
    assert error.value.source_rows == [3]


def test_only_a_time_split_compares_queries_with_each_other():
    events = with_splits(log({"q": [1, 2], "p": [3, 4]}), ["train", "test", "train", "test"])
    check_split(events, across_queries=False)
    with pytest.raises(SplitLeak, match=r"at or before the time of .* row 1 \(query q, item i1, 2 ms, test\)"):
        check_split(events, across_queries=True)


def test_a_time_split_through_an_instant_is_refused():
    events = with_splits(log({"q": [1], "p": [1]}), ["train", "test"])
    with pytest.raises(SplitLeak, match="at or before the time"):
        check_split(events, across_queries=True)


def test_an_action_that_stands_in_two_splits_is_refused_with_both_rows():
    once = log({"q": [1, 2]})
    copy = once.slice(0, 1).set_column(4, "source_row", pa.array([9], pa.int64()))
    events = with_splits(pa.concat_tables([once, copy]), ["train", "test", "test"])
    with pytest.raises(SplitLeak, match="the same action stands in two splits") as error:
        check_split(events, across_queries=False)
    assert error.value.source_rows == [0, 9]


def test_an_unknown_or_missing_split_is_refused():
    events = log({"q": [1, 2]})
    for name in ("tset", None):
        with pytest.raises(SplitLeak, match="split must be one of"):
            check_split(with_splits(events, ["train", name]), across_queries=False)


def test_an_error_names_the_first_rows_and_counts_the_others():
    events = with_splits(log({"q": list(range(8))}), ["test"] * 7 + ["train"])
    with pytest.raises(SplitLeak, match=r"\(query q, item i4, 4 ms, test\) and 2 more") as error:
        check_split(events, across_queries=True)
    assert error.value.source_rows == list(range(7))


@pytest.mark.parametrize("shares", [(1.0, 0.0, 0.0), (0.8, 0.1, 0.1), (-0.1, 0.2, 0.2), (0.0, 0.0, 0.0)])
def test_shares_that_leave_nothing_to_test_or_are_negative_are_refused(shares):
    train, ranking, validation = shares
    with pytest.raises(FeaturesError, match="leave some to test"):
        TimeSplit(train=train, ranking=ranking, validation=validation)


def test_a_negative_number_of_ranking_events_is_refused():
    with pytest.raises(FeaturesError, match="ranking_events must be 0 or more, got -1"):
        LeaveOneOut(ranking_events=-1)


histories = st.dictionaries(st.sampled_from("pqr"), st.lists(st.integers(0, 6), min_size=1, max_size=10))


@given(histories, st.integers(0, 4))
def test_leave_one_out_never_leaks_and_gives_each_query_at_most_one_test_event(histories, ranking_events):
    split = LeaveOneOut(ranking_events=ranking_events)
    events = split.assign(log(histories))
    split.check(events)
    for query, times in histories.items():
        counts = Counter(splits_of(events, query))
        assert counts["test"] == counts["validation"] == (1 if len(times) >= 3 else 0)
        assert counts["ranking"] == (ranking_events if len(times) >= ranking_events + 3 else 0)
        assert counts["train"] >= 1


@given(histories, st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.3, 0.5, 0.6]))
def test_a_time_split_never_leaks_whatever_the_ties(histories, ranking, train):
    split = TimeSplit(train=train, ranking=ranking, validation=0.09)
    events = split.assign(log(histories))
    split.check(events)
    in_time = events.sort_by([("occurred_at_ms", "ascending"), ("source_row", "ascending")])["split"].to_pylist()
    assert in_time == sorted(in_time, key=SPLITS.index)
