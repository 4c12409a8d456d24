"""Leaks: does anything that answers a past request change when all that the request could not know is deleted?

Owns which events a request may know, and the comparison of what was evaluated with what is rebuilt from a log that
ends there. How requests are made of a log is features/requests.py's, the comparison of arrays evaluation/tally.py's.

The answers are deleted too: a system that reads what was chosen is found out like one that counts it.
"""

# Shapes: N requests, C candidates of each, E events of the log.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.parity import ParityReport
from evaluation.tally import ParityTally
from features.dataset import Dataset
from features.engines import DUCKDB
from features.etl import item_days
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.split import SPLITS
from features.vocab import PADDING
from lifecycle.baselines import Baselines
from lifecycle.candidates import StageOne
from lifecycle.parity import feature_columns
from lifecycle.training_tables import item_counts
from towers.data import training_windows

LIST_LENGTH = 20  # candidates and places of a baseline's list that are compared
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class LeakCheck:
    """What is checked.

    Attributes:
        dataset: the whole log.
        protocol: says whether one instant divides it, or each query by itself.
        stage_one: whose cut says which events were learnt from.
        baselines: fitted on the whole log; they are fitted again on what is left of it. None for a split that has a
            say in their settings.
    """

    dataset: Dataset
    protocol: RequestProtocol
    stage_one: StageOne
    baselines: Baselines | None

    def run(self, asked: PastRequests, *, split: str) -> ParityReport:
        """Compare for some requests of a split; what is not the same to the last bit has known what came later."""
        tally = ParityTally(
            columns=feature_columns(self.stage_one.stage1.spec),
            offline_name="evaluated",
            serving_name="without what came later",
        )
        for places in self._together(asked):
            group = asked.take(places)
            then, asked_then = past_of(self.dataset, group, kept=self._known(group, split=split))
            again = self.baselines and type(self.baselines).fit(then, self.protocol, self.stage_one.cut)
            names = [f"query {self.dataset.events.query_ids[query]}" for query in group.queries]
            tally.add(
                offline=self._answers(self.dataset, group, self.baselines),
                serving=self._answers(then, asked_then, again),
                keys=names,
            )
            tally.add(offline=self._learnt(self.dataset), serving=self._learnt(then), keys=["the log"])
        return tally.report

    def _together(self, asked: PastRequests) -> Iterator[NDArray[np.int64]]:
        """Requests that one log serves: of one instant, or one of each query."""
        if self.protocol.split.across_queries:
            keys = asked.requested_at_ms
        else:
            order = np.lexsort((asked.stops, asked.queries))
            begins = np.flatnonzero(np.diff(asked.queries[order], prepend=-1))
            keys = np.empty(len(asked), dtype=np.int64)
            keys[order] = np.arange(len(asked)) - np.repeat(begins, np.diff(np.r_[begins, len(asked)]))
        for key in np.unique(keys):
            yield np.flatnonzero(keys == key)

    def _known(self, group: PastRequests, *, split: str) -> NDArray[np.bool_]:
        """[E] what may be known of the log: what came before, or earlier splits and each query's own past.

        Neither what the requests take for known nor what a cut names is asked: either may be what is wrong.
        """
        log = self.dataset.events
        if self.protocol.split.across_queries:
            return np.asarray(log.at_ms < group.requested_at_ms[0])
        known = np.isin(log.splits, SPLITS[: SPLITS.index(split)])
        places, rows = log.positives([split])[::-1], self.dataset.event_rows()
        chosen = zip(log.query_of(places), rows[places], log.at_ms[places], strict=True)
        place_of = dict(zip(((int(q), int(row), int(at)) for q, row, at in chosen), places.tolist(), strict=True))
        for query, row, at_ms in zip(group.queries, group.relevant[:, 0], group.requested_at_ms, strict=True):
            known[log.offsets[query] : place_of[int(query), int(row), int(at_ms)]] = True
        return known

    def _answers(self, dataset: Dataset, asked: PastRequests, baselines: Baselines | None) -> Arrays:
        """What the requests get, and all that is read for them: [N, ...] by name."""
        days = self.protocol.item_days(dataset, self.stage_one.cut.splits)
        requests = self.stage_one.ask(dataset, asked, days=days, num_candidates=LIST_LENGTH)
        lists = self.stage_one.lists(requests, days=days, num_ranked=LIST_LENGTH)
        arrays: Arrays = {field.name: getattr(requests.inputs, field.name) for field in fields(requests.inputs)}
        arrays |= {
            "everything seen": asked.seen_rows(dataset),
            "ranker_dense": lists.dense,
            "ranker_tokens": lists.tokens,
        }
        arrays |= {"candidates": requests.candidates.rows, "retriever scores": requests.candidates.scores}
        if baselines is None:
            return arrays
        excluding = not self.protocol.repeats
        found = baselines.lists(asked, requests.inputs, exclude_seen=(excluding,), k=LIST_LENGTH)[excluding]
        for name, own in found.items():
            arrays |= {f"{name}, list": own.rows, f"{name}, scores": own.scores}
        return arrays

    def _learnt(self, dataset: Dataset) -> Mapping[str, NDArray[Any]]:
        """What the towers learn from: [1, ...] by name."""
        stage1, splits = self.stage_one.stage1, self.stage_one.cut.splits
        # Without what queries say, which is of no time and needs an encoder.
        spec = replace(stage1.spec, text=replace(stage1.spec.text, query_tokens=0))
        windows = training_windows(dataset, splits, spec=spec, vocabularies=stage1.vocabularies)
        arrays = {field.name: getattr(windows.inputs, field.name) for field in fields(windows.inputs)}
        arrays |= {"targets": windows.targets, "queries": windows.queries}
        learnt = {f"training windows, {name}": array[None] for name, array in arrays.items()}
        learnt["training counts"] = item_counts(dataset, self.stage_one.cut)[None]
        learnt["recommendable"] = self.protocol.recommendable(dataset, splits)[None]
        return learnt


def sampled(asked: PastRequests, *, num: int, generator: np.random.Generator) -> PastRequests:
    """`num` of the requests in their order, all if there are fewer."""
    return asked.take(np.sort(generator.permutation(len(asked))[:num]))


def past_of(dataset: Dataset, asked: PastRequests, *, kept: NDArray[np.bool_]) -> tuple[Dataset, PastRequests]:
    """The dataset with some of its events alone, and requests to it that hold no answers.

    Queries stay, also those that have no event left.

    Args:
        dataset: the log.
        asked: requests to it.
        kept: [E] events that stay.
    """
    log, places = dataset.events, np.flatnonzero(kept)
    # How many are kept before each place of the log, its end too.
    before = np.r_[0, np.cumsum(kept)]
    events = replace(
        log,
        offsets=before[log.offsets],
        item_ids=tuple(log.item_ids[place] for place in places),
        events=tuple(log.events[place] for place in places),
        values=log.values[places],
        at_ms=log.at_ms[places],
        relevance=log.relevance[places],
        splits=log.splits[places],
    )
    table = pa.table(
        {
            "item_id": pa.array(events.item_ids, pa.string()),
            "occurred_at_ms": events.at_ms,
            "split": pa.array(events.splits.tolist(), pa.string()),
            "relevance": events.relevance,
            "value": events.values,
        }
    )
    with DUCKDB.started() as run:
        days = run(item_days, table)
    unanswered = replace(
        asked,
        stops=before[asked.stops],
        relevant=np.full_like(asked.relevant, PADDING),
        grades=np.zeros_like(asked.grades),
        had=np.zeros_like(asked.had),
    )
    return replace(dataset, events=events, item_days=days), unanswered
