"""Which events each part of the project may know: train, ranking, validation, test.

Owns the column `split` and the refusal of leakage. Splits read events as `etl.ordered_events` leaves them, each with
its position in its query's history.
"""

from dataclasses import dataclass
from typing import Protocol

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
    """A rule that says which split an event belongs to."""

    def assign(self, events: pa.Table) -> pa.Table:
        """The same rows with `split` appended."""
        ...

    def check(self, events: pa.Table) -> None:
        """Raise SplitLeak when the splits of `events` break the rule's promise."""
        ...


@dataclass(frozen=True)
class LeaveOneOut:
    """Each query's last event is test, the one before validation, the `ranking_events` before it ranking, others train.

    The ranker learns from lists made for the ranking events by towers that have not seen them. A query with fewer than
    `ranking_events` + 3 events gives none; one with fewer than 3 is all train.
    """

    ranking_events: int = 3

    def __post_init__(self) -> None:
        if self.ranking_events < 0:
            raise FeaturesError(f"split.ranking_events must be 0 or more, got {self.ranking_events}")

    def assign(self, events: pa.Table) -> pa.Table:
        """Append `split`."""
        query = _query_codes(events)
        num_events = np.bincount(query, minlength=1)[query]
        from_end = num_events - 1 - events["position"].to_numpy()
        codes = np.full(events.num_rows, TRAIN, dtype=np.int8)
        codes[(from_end < self.ranking_events + 2) & (num_events >= self.ranking_events + 3)] = RANKING
        codes[(from_end == 1) & (num_events >= 3)] = VALIDATION
        codes[(from_end == 0) & (num_events >= 3)] = TEST
        return _with_split(events, codes)

    def check(self, events: pa.Table) -> None:
        """Each query's splits follow one another in its history."""
        check_split(events, across_queries=False)


@dataclass(frozen=True)
class TimeSplit:
    """Cuts in time for all queries: the first share of events is train, then ranking, then validation, the rest test.

    Events of the instant at a cut all fall after it, so no instant is in two splits.
    """

    train: float = 0.8
    ranking: float = 0.0
    validation: float = 0.1

    def __post_init__(self) -> None:
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
            cut = round(share * events.num_rows)  # 0.8 + 0.1 is 0.9 less one bit: a floor would take a row from train
            if cut < events.num_rows:
                codes[at_ms >= in_order[cut]] = after
        return _with_split(events, codes)

    def check(self, events: pa.Table) -> None:
        """No event of a later split happened before or at the time of one of an earlier split, whoever asked."""
        check_split(events, across_queries=True)


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
    _refuse(events, _in_two_splits(events), "the same action stands in two splits; remove its copies before splitting")
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


def _in_two_splits(events: pa.Table) -> Mask:
    keys = ["query_id", "item_id", "event", "occurred_at_ms"]
    splits = events.group_by(keys).aggregate([("split", "count_distinct")])
    shared = splits.filter(pc.greater(splits["split_count_distinct"], 1)).select(keys)
    rows = events.select([*keys, "source_row"]).join(shared, keys=keys, join_type="inner")["source_row"]
    mask: Mask = np.isin(events["source_row"].to_numpy(), rows.to_numpy())
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
    query = _query_codes(events)
    order = np.lexsort((events["source_row"].to_numpy(), events["occurred_at_ms"].to_numpy(), query))
    goes_back = (query[order][1:] == query[order][:-1]) & (codes[order][1:] < codes[order][:-1])
    early = np.zeros(events.num_rows, dtype=np.bool_)
    early[order[:-1][goes_back]] = True
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
