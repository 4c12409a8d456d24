from collections import Counter
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import FeaturesError, SplitLeak
from features.split import SPLITS, InstantSplit, LeaveOneOut, TimeSplit, check_split


def log(histories: dict[str, list[int]], *, refused: Collection[int] = ()) -> pa.Table:
    """Events of each query at these times, in order, positions as the ETL gives them; each of an item of its own.

    Args:
        histories: times by query.
        refused: source rows of the events that have no relevance.
    """
    rows = sorted(
        (at_ms, place, query) for query, times in histories.items() for place, at_ms in enumerate(sorted(times))
    )
    positions: Counter[str] = Counter()
    events = []
    for source_row, (at_ms, _, query) in enumerate(rows):
        relevance = 0.0 if source_row in refused else 1.0
        events.append((query, f"i{source_row}", "rating", at_ms, source_row, positions[query], relevance))
        positions[query] += 1
    names = ["query_id", "item_id", "event", "occurred_at_ms", "source_row", "position", "relevance"]
    types = [pa.string(), pa.string(), pa.string(), pa.int64(), pa.int64(), pa.int32(), pa.float32()]
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


def test_what_was_refused_is_no_target_and_goes_with_the_next_positive_event():
    # of 9 events those at 2, 6 and 9 were refused; the 6 positive ones alone would be 1 train, 3 ranking, 1, 1
    events = LeaveOneOut(ranking_events=3).assign(log({"q": list(range(1, 10))}, refused={1, 5, 8}))
    assert splits_of(events, "q") == [
        "train",
        "ranking",  # 2, refused, goes with 3
        *["ranking"] * 3,
        "validation",  # 6, refused, goes with 7
        "validation",
        "test",
        "test",  # 9, refused after the last positive one
    ]
    LeaveOneOut().check(events)


@pytest.mark.parametrize("refused", [{0, 1, 2, 3, 4}, {1, 2, 3}])
def test_a_query_with_fewer_than_three_positive_events_is_all_train(refused):
    events = LeaveOneOut(ranking_events=0).assign(log({"q": [1, 2, 3, 4, 5]}, refused=refused))
    assert splits_of(events, "q") == ["train"] * 5


def test_refused_events_of_another_query_move_no_cut():
    histories = {"p": [1, 3, 5, 7], "q": [2, 4, 6, 8]}  # p has the even source rows
    all_positive = LeaveOneOut(ranking_events=1).assign(log(histories))
    some_refused = LeaveOneOut(ranking_events=1).assign(log(histories, refused={0, 4}))
    assert splits_of(some_refused, "q") == splits_of(all_positive, "q")
    assert splits_of(some_refused, "p") == ["train"] * 4


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


def test_the_time_split_can_cut_at_shares_of_the_time_instead():
    # From 0 to 100 ms, whatever happened in between: the cuts are at 80 and 90, and what is there goes after them.
    events = TimeSplit(shares_of="time").assign(log({"q": [0, 1, 2, 79, 80, 89, 90, 100]}))
    assert splits_of(events, "q") == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2


def test_shares_of_anything_else_are_refused():
    with pytest.raises(FeaturesError, match="shares_of must be events or time, got 'queries'"):
        TimeSplit(shares_of="queries")


def test_an_instant_is_never_in_two_splits():
    # The cut after 8 of 10 events falls into the three events of instant 7: all three go after it.
    events = TimeSplit().assign(log({"q": [0, 1, 2, 3, 4, 5, 7, 7, 7, 9]}))
    assert splits_of(events, "q") == ["train"] * 6 + ["validation"] * 3 + ["test"]


@pytest.mark.parametrize("split", [LeaveOneOut(), TimeSplit(shares_of="time"), TimeSplit()])
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


@pytest.mark.parametrize(
    ("splits", "offending"),
    [
        (["ranking", "train"], [0]),
        (["validation", "ranking"], [0]),
        (["test", "validation"], [0]),
        (["test", "train"], [0]),
        # every event that a later one of an earlier split follows, not the last of them alone
        (["train", "test", "test", "validation", "train", "test"], [1, 2, 3]),
        (["validation", "test", "ranking", "test"], [0, 1]),
    ],
)
@pytest.mark.parametrize("across_queries", [True, False])
def test_whatever_split_comes_before_an_earlier_one_is_refused_with_all_its_rows(splits, offending, across_queries):
    events = with_splits(log({"q": list(range(len(splits)))}), splits)
    with pytest.raises(SplitLeak, match="earlier split") as error:
        check_split(events, across_queries=across_queries)
    assert error.value.source_rows == offending
    for row in offending:
        assert f"row {row} (query q, item i{row}, {row} ms, {splits[row]})" in str(error.value)


def test_rows_are_named_in_the_order_of_the_raw_log_whatever_order_they_come_in():
    events = with_splits(log({"q": [1, 2, 3], "p": [1, 2, 3]}), ["test", "train", "train", "test", "train", "train"])
    shuffled = events.take([5, 3, 0, 4, 2, 1])
    with pytest.raises(SplitLeak, match=r"row 0 \(query p.*; row 3 \(query q") as error:
        check_split(shuffled, across_queries=False)
    assert error.value.source_rows == [0, 3]


def test_a_tie_in_time_is_ordered_by_the_raw_log_within_a_query_alone():
    ties = with_splits(log({"q": [5, 5, 5]}), ["train", "validation", "test"])
    check_split(ties, across_queries=False)
    with pytest.raises(SplitLeak, match="at or before the time") as error:
        check_split(ties, across_queries=True)
    assert error.value.source_rows == [1, 2]
    with pytest.raises(SplitLeak, match="same query") as error:
        check_split(with_splits(log({"q": [5, 5]}), ["test", "train"]), across_queries=False)
    assert error.value.source_rows == [0]


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


def test_actions_at_one_instant_in_two_splits_are_no_copies_unless_they_agree_in_all():
    # q's two events at 1 ms are of other items (rows 1 and 2): leave-one-out may divide an instant.
    events = with_splits(log({"q": [1, 1], "p": [1]}), ["test", "train", "test"])
    check_split(events, across_queries=False)


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


def test_two_actions_of_one_instant_may_be_of_two_splits_of_a_query_unless_they_are_one():
    events = with_splits(log({"q": [1, 1]}), ["train", "test"])
    same_item = events.set_column(1, "item_id", pa.array(["i0", "i0"]))
    check_split(events, across_queries=False)
    check_split(same_item.set_column(2, "event", pa.array(["view", "purchase"])), across_queries=False)
    with pytest.raises(SplitLeak, match="the same action stands in two splits"):
        check_split(same_item, across_queries=False)


histories = st.dictionaries(st.sampled_from("pqr"), st.lists(st.integers(0, 6), min_size=1, max_size=10))


@given(histories, st.integers(0, 4), st.sets(st.integers(0, 29)))
def test_leave_one_out_never_leaks_and_gives_each_query_at_most_one_test_target(histories, ranking_events, refused):
    split = LeaveOneOut(ranking_events=ranking_events)
    events = split.assign(log(histories, refused=refused))
    split.check(events)
    for query in histories:
        rows = [row for row in events.to_pylist() if row["query_id"] == query]
        counts = Counter(row["split"] for row in rows if row["relevance"] > 0)
        num = counts.total()
        assert counts["test"] == counts["validation"] == (1 if num >= 3 else 0)
        assert counts["ranking"] == (ranking_events if num >= ranking_events + 3 else 0)
        assert counts["train"] >= min(num, 1)


@given(histories, st.lists(st.sampled_from(SPLITS), min_size=30, max_size=30), st.booleans())
def test_a_check_names_exactly_the_rows_that_a_slow_comparison_of_all_pairs_finds(histories, splits, across_queries):
    events = with_splits(log(histories), splits[: sum(map(len, histories.values()))])
    rows = events.to_pylist()

    def order(row: dict[str, Any]) -> tuple[int, ...]:
        return (row["occurred_at_ms"],) if across_queries else (row["occurred_at_ms"], row["source_row"])

    offending = [
        one["source_row"]
        for one in rows
        if any(
            (across_queries or one["query_id"] == other["query_id"])
            and SPLITS.index(one["split"]) > SPLITS.index(other["split"])
            and order(one) <= order(other)
            for other in rows
        )
    ]
    if not offending:
        check_split(events, across_queries=across_queries)
        return
    with pytest.raises(SplitLeak) as error:
        check_split(events, across_queries=across_queries)
    assert error.value.source_rows == offending


@given(
    histories, st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.3, 0.5, 0.6]), st.sampled_from(["events", "time"])
)
def test_a_time_split_never_leaks_whatever_the_ties(histories, ranking, train, shares_of):
    split = TimeSplit(train=train, ranking=ranking, validation=0.09, shares_of=shares_of)
    events = split.assign(log(histories))
    split.check(events)
    in_time = events.sort_by([("occurred_at_ms", "ascending"), ("source_row", "ascending")])["split"].to_pylist()
    assert in_time == sorted(in_time, key=SPLITS.index)


def test_given_instants_cut_all_queries_alike():
    day = 86_400_000
    events = InstantSplit(ranking="1970-01-02", validation="1970-01-03", test="1970-01-04T00:00:00+00:00").assign(
        log({"q": [0, day - 1, day, 2 * day], "other": [2 * day - 1, 3 * day - 1, 3 * day, 9 * day]})
    )
    assert splits_of(events, "q") == ["train", "train", "ranking", "validation"]
    assert splits_of(events, "other") == ["ranking", "validation", "test", "test"]
    check_split(events, across_queries=True)


def test_instants_out_of_order_or_unreadable_are_refused():
    with pytest.raises(FeaturesError, match="to follow one another"):
        InstantSplit(ranking="2000-01-02", validation="2000-01-01", test="2000-01-03")
    with pytest.raises(FeaturesError, match=r"split.test: expected a date .* got 'soon'"):
        InstantSplit(ranking="2000-01-01", validation="2000-01-01", test="soon")
