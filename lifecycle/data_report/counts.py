"""How events spread over items and queries, who is cold, and what the labels are.

Owns the definitions that the report's numbers follow. Draws nothing.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.labels import EXPLICIT, labels_needed
from features.split import SPLITS
from lifecycle.cuts import CUTS, FOLD, Cut
from lifecycle.data_report.log import Log

TOP_SHARES = (0.01, 0.1, 0.2)
CURVE_POINTS = 200
MEASURED = ("validation", "test")
INTERVAL_WIDTHS = (0.2, 0.1, 0.05, 0.02, 0.01)
PROPORTIONS = (0.5, 0.1)


@dataclass(frozen=True)
class Spread:
    """How unevenly events fall on items, or on queries.

    Attributes:
        counts: [I] events of each that has any, the most first.
        num_without: known to the tables and without an event.
    """

    counts: NDArray[np.int64]
    num_without: int

    @property
    def num_events(self) -> int:
        """All events."""
        return int(self.counts.sum())

    def num_top(self, share: float) -> int:
        """How many make up the top share of those with events, rounded up."""
        return int(np.ceil(round(share * len(self.counts), 9)))

    def top(self, share: float) -> float:
        """The share of the events that falls on the top share."""
        return float(self.counts[: self.num_top(share)].sum() / max(self.num_events, 1))

    @property
    def gini(self) -> float:
        """Gini coefficient among those with events: 0 if all have the same number, near 1 if one has all."""
        num = len(self.counts)
        if num == 0:
            return 0.0
        ascending = self.counts[::-1]
        weighted = float((np.arange(1, num + 1) * ascending).sum())
        return 2 * weighted / (num * self.num_events) - (num + 1) / num

    def at_most(self, num: int) -> float:
        """The share of those with events that have at most `num`."""
        return float((self.counts <= num).mean()) if len(self.counts) else 0.0

    def quantile(self, share: float) -> int:
        """The number of events that `share` of those with events do not exceed."""
        return int(np.quantile(self.counts, share, method="inverted_cdf")) if len(self.counts) else 0


def spread(codes: NDArray[np.int32], *, num_known: int) -> Spread:
    """Events by code, of `num_known` items or queries in the tables."""
    counts = np.bincount(codes)
    some = np.sort(counts[counts > 0])[::-1].astype(np.int64)
    return Spread(counts=some, num_without=num_known - len(some))


def by_rank(items: Spread) -> pd.DataFrame:
    """At most CURVE_POINTS rows: rank, events of the item of that rank."""
    num = len(items.counts)
    ranks = np.unique(np.round(np.geomspace(1, num, CURVE_POINTS)).astype(np.int64)) if num else np.zeros(0, np.int64)
    return pd.DataFrame({"rank": ranks, "events": items.counts[ranks - 1]})


def concentration(items: Spread) -> pd.DataFrame:
    """At most CURVE_POINTS rows: the share of items, the most popular first, and the share of events they have."""
    num = len(items.counts)
    places = np.unique(np.round(np.linspace(0, num, CURVE_POINTS)).astype(np.int64))
    events = np.r_[0, np.cumsum(items.counts)][places]
    return pd.DataFrame({"items": places / max(num, 1), "events": events / max(items.num_events, 1)})


def histogram(lengths: Spread) -> pd.DataFrame:
    """How many have how many events, in bars that double in width: low and high (both included), number."""
    longest = int(lengths.counts.max(initial=1))
    edges = 2 ** np.arange(int(np.log2(longest)) + 2)
    numbers = np.histogram(lengths.counts, bins=edges.astype(np.float64) - 0.5)[0]
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:] - 1, "number": numbers})


def cold(log: Log) -> pd.DataFrame:
    """One row a measured split and a state of knowledge: who and what is cold among the split's targets.

    Targets are events with relevance above 0. `known` is the name of the cut; num_cold_queries are queries with a
    target and no event that the cut knows; num_unseen are targets on items without such an event.
    """
    is_target = log.relevance > 0
    rows = []
    for split in MEASURED:
        targets = np.flatnonzero(is_target & log.of_split(split))
        queries = np.unique(log.queries.codes[targets])
        for cut in CUTS:
            if cut.name != FOLD.name and split in cut.splits:
                continue  # what is known cannot be measured
            seen_queries, seen_items = _seen(log, cut)
            row = {
                "split": split,
                "known": cut.name,
                "num_targets": len(targets),
                "num_queries": len(queries),
                "num_cold_queries": int((~seen_queries[queries]).sum()),
                "num_unseen": int((~seen_items[log.items.codes[targets]]).sum()),
            }
            rows.append(row)
    columns = ["split", "known", "num_targets", "num_queries", "num_cold_queries", "num_unseen"]
    return pd.DataFrame(rows, columns=columns)


def repeats(log: Log) -> pd.DataFrame:
    """One row a split: its num_targets, of these num_repeats (of the query's own past) and num_first (of a query)."""
    pairs = log.queries.codes.astype(np.int64) * max(len(log.items), 1) + log.items.codes
    is_repeat = np.ones(len(log), dtype=np.bool_)
    is_repeat[np.unique(pairs, return_index=True)[1]] = False  # the first of each pair: a history is in order
    is_first = log.starts == np.arange(len(log))
    rows = []
    for code, name in enumerate(SPLITS):
        of_split = (log.splits == code) & (log.relevance > 0)
        rows.append((name, int(of_split.sum()), int((of_split & is_repeat).sum()), int((of_split & is_first).sum())))
    return pd.DataFrame(rows, columns=["split", "num_targets", "num_repeats", "num_first"])


def label_sources(log: Log) -> pd.DataFrame:
    """Events by split, source of the label and what it says: split, source, says, number.

    What it says is `positive`, or where relevance is 0 `negative` for an explicit label and `skipped` for another.
    """
    positive = (log.relevance > 0).astype(np.int64)
    num_sources = len(log.label_sources)
    codes = (log.splits.astype(np.int64) * num_sources + log.label_sources.codes) * 2 + positive
    numbers = np.bincount(codes, minlength=len(SPLITS) * num_sources * 2)
    rows = []
    for code in np.flatnonzero(numbers).tolist():
        split, source = divmod(code // 2, num_sources)
        name = log.label_sources.values[source]
        says = "positive" if code % 2 else "negative" if name == EXPLICIT else "skipped"
        rows.append((SPLITS[split], name, says, int(numbers[code])))
    return pd.DataFrame(rows, columns=["split", "source", "says", "number"])


def cost_of_labels() -> pd.DataFrame:
    """Explicit labels for an interval of a given width around a share: width, and one column a share."""
    rows = [
        (width, *(labels_needed(width=width, proportion=proportion) for proportion in PROPORTIONS))
        for width in INTERVAL_WIDTHS
    ]
    return pd.DataFrame(rows, columns=["width", *(f"share_{proportion}" for proportion in PROPORTIONS)])


def _seen(log: Log, cut: Cut) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which queries and which items have an event that a cut knows."""
    known = log.of_split(*cut.splits)
    seen_queries, seen_items = np.zeros(len(log.queries), dtype=np.bool_), np.zeros(len(log.items), dtype=np.bool_)
    seen_queries[log.queries.codes[known]] = True
    seen_items[log.items.codes[known]] = True
    return seen_queries, seen_items
