"""Which events each part of the project may know: train, ranking, validation, test.

Owns the column `split` and the refusal of leakage. Splits read events as `etl.ordered_events` leaves them, each with
its position in its query's history.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import FeaturesError, SplitLeak

SPLITS = ("train", "ranking", "validation", "test")  # in order of time
TRAIN, RANKING, VALIDATION, TEST = range(len(SPLITS))
NUM_SHOWN = 5  # offending rows that an error names

Codes = npt.NDArray[np.int8]  # places in SPLITS
Mask = npt.NDArray[np.bool_]


class Split(Protocol):
    """A rule that says which split an event belongs to.

    Attributes:
        across_queries: whether one instant divides the events of all queries, or each query is divided by itself.
    """

    across_queries: ClassVar[bool]

    @property
    def description(self) -> str:
        """The rule in the words of a report."""
        ...

    def assign(self, events: pa.Table) -> pa.Table:
        """The same rows with `split` appended."""
        ...

    def check(self, events: pa.Table) -> None:
        """Raise SplitLeak when the splits of `events` break the rule's promise."""
        ...


@dataclass(frozen=True)
class LeaveOneOut:
    """Each query's last event is test, the one before validation, the `ranking_events` before it ranking, others train.

    Positive events count; one with relevance 0 is of the split of the next positive one of its query, or of the last.
    The ranker learns from lists made for the ranking events by towers that have not seen them. A query with fewer than
    `ranking_events` + 3 events gives none; one with fewer than 3 is all train.
    """

    ranking_events: int = 3
    across_queries: ClassVar[bool] = False

    @property
    def description(self) -> str:
        """The rule in the words of a report."""
        return "leave-one-out"

    def __post_init__(self) -> None:
        if self.ranking_events < 0:
            raise FeaturesError(f"split.ranking_events must be 0 or more, got {self.ranking_events}")

    def assign(self, events: pa.Table) -> pa.Table:
        """Append `split`."""
        query = _query_codes(events)
        positive = events["relevance"].to_numpy() > 0
        num_events = np.bincount(query[positive], minlength=int(query.max(initial=0)) + 1)[query]
        # Positive events of its query before each event: those of the log up to there, less those before the query.
        order = np.lexsort((events["position"].to_numpy(), query))
        earlier = np.cumsum(positive[order]) - positive[order]
        begins = np.flatnonzero(np.r_[True, query[order][1:] != query[order][:-1]])[: len(order)]
        num_before = np.empty(len(order), dtype=np.int64)
        num_before[order] = earlier - np.repeat(earlier[begins], np.diff(np.r_[begins, len(order)]))
        from_end = np.maximum(num_events - 1 - num_before, 0)
        codes = np.full(events.num_rows, TRAIN, dtype=np.int8)
        codes[(from_end < self.ranking_events + 2) & (num_events >= self.ranking_events + 3)] = RANKING
        codes[(from_end == 1) & (num_events >= 3)] = VALIDATION
        codes[(from_end == 0) & (num_events >= 3)] = TEST
        return _with_split(events, codes)

    def check(self, events: pa.Table) -> None:
        """Each query's splits follow one another in its history."""
        check_split(events, across_queries=self.across_queries)


@dataclass(frozen=True)
class TimeSplit:
    """Cuts in time for all queries: the first share is train, then ranking, then validation, the rest test.

    `shares_of` is what is shared out: the events, or the time from the first of them to the last. Events of the instant
    at a cut all fall after it, so no instant is in two splits.
    """

    train: float = 0.8
    ranking: float = 0.0
    validation: float = 0.1
    shares_of: Literal["events", "time"] = "events"
    across_queries: ClassVar[bool] = True

    @property
    def description(self) -> str:
        """The rule in the words of a report."""
        shares = (self.train, self.ranking, self.validation)
        parts = "/".join(f"{100 * share:g}" for share in (*shares, round(1 - sum(shares), 9)))
        return f"time split {parts} by {self.shares_of}"

    def __post_init__(self) -> None:
        if self.shares_of not in ("events", "time"):
            raise FeaturesError(f"split.shares_of must be events or time, got {self.shares_of!r}")
        shares = (self.train, self.ranking, self.validation)
        if min(shares) < 0 or not 0 < sum(shares) < 1:
            raise FeaturesError(
                f"shares (train, ranking, validation) must be >= 0 and leave some to test, got {shares}"
            )

    def assign(self, events: pa.Table) -> pa.Table:
        """Append `split`."""
        at_ms = events["occurred_at_ms"].to_numpy()
        codes = np.full(events.num_rows, TRAIN, dtype=np.int8)
        in_order = np.sort(at_ms)
        share = 0.0
        for before, after in ((self.train, RANKING), (self.ranking, VALIDATION), (self.validation, TEST)):
            share += before
            codes[at_ms >= self._cut(in_order, share)] = after
        return _with_split(events, codes)

    def _cut(self, in_order: npt.NDArray[np.int64], share: float) -> float:
        """The first instant, in ms, after a share of times in ascending order."""
        # Rounded, as 0.8 + 0.1 is 0.9 less one bit: a floor would take a row, or a millisecond, from the earlier split.
        if self.shares_of == "time" and in_order.size:
            return int(in_order[0]) + round(share * int(in_order[-1] - in_order[0]))
        place = round(share * in_order.size)
        return int(in_order[place]) if place < in_order.size else np.inf

    def check(self, events: pa.Table) -> None:
        """No event of a later split happened before or at the time of one of an earlier split, whoever asked."""
        check_split(events, across_queries=self.across_queries)


@dataclass(frozen=True)
class InstantSplit:
    """Cuts in time for all queries, at instants that are given: each is the first of its split.

    Args:
        ranking: ISO 8601, a date or an instant; without a zone it is UTC. Equal to `validation` for no ranking events.
        validation: like ranking.
        test: like ranking.
    """

    ranking: str
    validation: str
    test: str
    across_queries: ClassVar[bool] = True

    @property
    def description(self) -> str:
        """The rule in the words of a report."""
        return f"split at {self.ranking}, {self.validation} and {self.test}"

    def __post_init__(self) -> None:
        cuts = [self._cut_at_ms(name) for name in ("ranking", "validation", "test")]
        if cuts != sorted(cuts):
            raise FeaturesError(
                "split: expected ranking, validation and test to follow one another; "
                f"got {self.ranking}, {self.validation}, {self.test}"
            )

    def assign(self, events: pa.Table) -> pa.Table:
        """Append `split`."""
        at_ms = events["occurred_at_ms"].to_numpy()
        codes = np.full(events.num_rows, TRAIN, dtype=np.int8)
        for name, code in (("ranking", RANKING), ("validation", VALIDATION), ("test", TEST)):
            codes[at_ms >= self._cut_at_ms(name)] = code
        return _with_split(events, codes)

    def check(self, events: pa.Table) -> None:
        """No event of a later split happened before or at the time of one of an earlier split, whoever asked."""
        check_split(events, across_queries=self.across_queries)

    def _cut_at_ms(self, name: str) -> int:
        text: str = getattr(self, name)
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            raise FeaturesError(f"split.{name}: expected a date such as 2024-03-31; got {text!r}") from None
        return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)


def check_split(events: pa.Table, *, across_queries: bool) -> None:
    """Refuse splits that leak.

    Args:
        events: with query_id, item_id, event, occurred_at_ms, source_row and split.
        across_queries: compare times between all queries (a time split), or only within each query's own history, where
            equal times are ordered by source_row (leave-one-out).

    Raises:
        SplitLeak: an unknown split name, one action in two splits, or an event of a later split that happened before
            one of an earlier split; names the first offending rows.
    """
    codes = pc.fill_null(pc.index_in(events["split"], value_set=pa.array(SPLITS)), -1).to_numpy()
    _refuse(events, codes < 0, f"split must be one of {SPLITS}")
    shared = _in_two_splits(events, codes)
    _refuse(events, shared, "the same action stands in two splits; remove its copies before splitting")
    if across_queries:
        early = _before_an_earlier_split_ends(events, codes)
        _refuse(events, early, "at or before the time of an event of an earlier split; assign the splits again")
    else:
        early = _before_an_earlier_split_of_its_query(events, codes)
        _refuse(events, early, "before an event of an earlier split of the same query; assign the splits again")


def _query_codes(events: pa.Table) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = events["query_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    return codes


def _with_split(events: pa.Table, codes: Codes) -> pa.Table:
    return events.append_column("split", pa.array(SPLITS).take(pa.array(codes)))


def _in_two_splits(events: pa.Table, codes: Codes) -> Mask:
    mask = _at_an_instant_of_two_splits(events["occurred_at_ms"].to_numpy(), codes)
    few = events.filter(pa.array(mask))  # none at all of a time split
    keys = ["query_id", "item_id", "event", "occurred_at_ms"]
    splits = few.group_by(keys).aggregate([("split", "count_distinct")])
    shared = splits.filter(pc.greater(splits["split_count_distinct"], 1)).select(keys)
    rows = few.select([*keys, "source_row"]).join(shared, keys=keys, join_type="inner")["source_row"]
    mask[mask] = np.isin(few["source_row"].to_numpy(), rows.to_numpy())
    return mask


def _at_an_instant_of_two_splits(at_ms: npt.NDArray[np.int64], codes: Codes) -> Mask:
    order = np.argsort(at_ms, kind="stable")  # a log in order of time, as the ETL leaves it, costs one pass
    begins = np.flatnonzero(np.diff(at_ms[order], prepend=at_ms[order[:1]] - 1))
    mask = np.zeros(len(at_ms), dtype=np.bool_)
    if begins.size:
        of_instant = codes[order]
        mixed = np.maximum.reduceat(of_instant, begins) > np.minimum.reduceat(of_instant, begins)
        mask[order] = np.repeat(mixed, np.diff(np.r_[begins, len(at_ms)]))
    return mask


def _before_an_earlier_split_ends(events: pa.Table, codes: Codes) -> Mask:
    at_ms = events["occurred_at_ms"].to_numpy()
    early = np.zeros(events.num_rows, dtype=np.bool_)
    for code in range(1, len(SPLITS)):
        of_earlier_splits = at_ms[codes < code]
        if of_earlier_splits.size:
            early |= (codes == code) & (at_ms <= of_earlier_splits.max())
    return early


def _before_an_earlier_split_of_its_query(events: pa.Table, codes: Codes) -> Mask:
    query = _query_codes(events).astype(np.int64)
    order = np.lexsort((events["source_row"].to_numpy(), events["occurred_at_ms"].to_numpy(), query))
    # Of a query and of all after it in this order the lowest is the query's own, for those after it are higher.
    place = (query * len(SPLITS) + codes)[order]
    lowest_from_here = np.minimum.accumulate(place[::-1])[::-1]
    early = np.zeros(events.num_rows, dtype=np.bool_)
    early[order] = place > lowest_from_here
    return early


def _refuse(events: pa.Table, offending: Mask, why: str) -> None:
    """Raise SplitLeak with the first offending rows, if there are any."""
    if not offending.any():
        return
    rows = events.filter(pa.array(offending)).sort_by("source_row")
    shown = "; ".join(
        f"row {row['source_row']} (query {row['query_id']}, item {row['item_id']}, "
        f"{row['occurred_at_ms']} ms, {row['split']})"
        for row in rows.slice(0, NUM_SHOWN).to_pylist()
    )
    more = f" and {rows.num_rows - NUM_SHOWN} more" if rows.num_rows > NUM_SHOWN else ""
    raise SplitLeak(f"{why}: {shown}{more}", source_rows=rows["source_row"].to_pylist())
