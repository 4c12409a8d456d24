from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.errors import ParityFailed
from evaluation.parity import ParityReport
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.requests import PastRequests
from features.split import SPLITS, LeaveOneOut, TimeSplit
from features.statistics import ItemDays
from features.transforms import QueryInputs, RankerInputs
from lifecycle.baselines import Baselines
from lifecycle.candidates import StageOne
from lifecycle.cuts import FOLD, REFIT, Cut
from lifecycle.leaks import LeakCheck, past_of, sampled
from serving.models import TowerArrays
from serving.retrieval import Stage1

LEAVE_ONE_OUT = RequestProtocol(split=LeaveOneOut(ranking_events=2), repeats=False)
BY_TIME = RequestProtocol(split=TimeSplit(), repeats=True)


class MeanOfHistory:
    """A query tower that sees every part of a history."""

    def query_tower(self, inputs: TowerArrays) -> NDArray[np.float32]:
        weights = inputs.history_mask * (1.0 + inputs.history_values + inputs.history_gap_days)
        embeddings: NDArray[np.float32] = (inputs.history_embeddings * weights[:, :, None]).sum(axis=1)
        return embeddings.astype(np.float32)

    def ranker(self, inputs: RankerInputs) -> NDArray[np.float32]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def stage1(shop: Any) -> Stage1:
    release_dir: Path = shop.release_dir
    return Stage1.read(release_dir)


def check(
    dataset: Dataset,
    stage1: Stage1,
    *,
    protocol: RequestProtocol = LEAVE_ONE_OUT,
    cut: Cut = REFIT,
    split: str = "test",
    asked: PastRequests | None = None,
    baselines: type[Baselines] | None = Baselines,
) -> ParityReport:
    leaks = LeakCheck(
        dataset=dataset,
        protocol=protocol,
        stage_one=StageOne(cut=cut, stage1=stage1, models=MeanOfHistory()),
        baselines=baselines and baselines.fit(dataset, protocol, cut),
    )
    return leaks.run(protocol.asked(dataset, split) if asked is None else asked, split=split)


def found(report: ParityReport) -> set[str]:
    return {field.name for field in report.fields if field.num_different}


@pytest.fixture(scope="module")
def by_time(shop: Any) -> Dataset:
    """The same log, divided at the same instants for all queries."""
    dataset: Dataset = shop.dataset
    at_ms = dataset.events.at_ms
    edges = np.quantile(at_ms, [0.6, 0.7, 0.8], method="nearest")
    divided = replace(
        dataset, events=replace(dataset.events, splits=np.array(SPLITS)[np.searchsorted(edges, at_ms, side="right")])
    )
    return past_of(divided, BY_TIME.asked(divided, "test"), kept=np.ones(len(at_ms), dtype=np.bool_))[0]


@pytest.mark.parametrize(("cut", "split"), [(REFIT, "test"), (FOLD, "validation"), (FOLD, "ranking")])
def test_nothing_changes_without_the_future_where_each_query_is_divided(
    shop: Any, stage1: Stage1, cut: Cut, split: str
) -> None:
    # The validation split has a say in the baselines' settings.
    report = check(shop.dataset, stage1, cut=cut, split=split, baselines=Baselines if cut is REFIT else None)
    report.check(float_tolerance=0.0)
    num_requests = len(LEAVE_ONE_OUT.asked(shop.dataset, split))
    compared = {field.name: field.num_compared for field in report.fields}
    for name in ("history_rows", "context.idle_days", "ranker_dense.item_count_7d", "candidates"):
        assert compared[name] == num_requests > 15, name
    assert compared["training windows, targets"] >= 1
    assert ("ease, list" in compared) == (cut is REFIT)


def test_nothing_changes_without_the_future_where_one_instant_divides_the_log(by_time: Dataset, stage1: Stage1) -> None:
    report = check(by_time, stage1, protocol=BY_TIME)
    report.check(float_tolerance=0.0)
    assert {field.num_compared for field in report.fields if field.name == "decayed_repeats, scores"} == {
        len(BY_TIME.asked(by_time, "test"))
    }


def test_a_request_that_knows_the_event_it_asks_for_is_found(shop: Any, stage1: Stage1) -> None:
    asked = LEAVE_ONE_OUT.asked(shop.dataset, "test")
    # Of a short history and a new item, so that nothing hides it.
    lengths = asked.stops - shop.dataset.events.offsets[asked.queries]
    leaking = int(np.flatnonzero((lengths < 8) & ~asked.had[:, 0])[0])
    late = replace(asked, stops=asked.stops + (np.arange(len(asked)) == leaking))
    report = check(shop.dataset, stage1, asked=late)
    assert {"history_rows", "context.history_count", "candidates", "everything seen"} <= found(report)
    assert {field.num_different for field in report.fields if field.name == "history_rows"} == {1}
    query = shop.dataset.events.query_ids[asked.queries[leaking]]
    with pytest.raises(ParityFailed, match=rf"history_rows: 1 of {len(asked)} events differ\n    query {query} at"):
        report.check(float_tolerance=0.0)


def test_a_stretch_whose_requests_know_a_later_event_is_found(by_time: Dataset, stage1: Stage1) -> None:
    asked = BY_TIME.asked(by_time, "test")
    report = check(by_time, stage1, protocol=BY_TIME, asked=replace(asked, stops=asked.stops + 1))
    assert {"history_rows", "decayed_repeats, scores", "everything seen"} <= found(report)


def test_learning_from_the_test_split_is_found(shop: Any, stage1: Stage1) -> None:
    leaking = Cut(name="refit", splits=SPLITS, validation=None)
    report = check(shop.dataset, stage1, cut=leaking)
    assert {"training windows, targets", "training counts", "popularity, scores", "ease, scores"} <= found(report)
    # What a query knows of itself is as it was.
    assert not found(report) & {"history_rows", "everything seen", "context.history_count"}


@dataclass(frozen=True)
class CountsEverything(RequestProtocol):
    """Item aggregates of all splits, where each query is divided by itself: they hold later answers of others."""

    def item_days(self, dataset: Dataset, splits: Any) -> ItemDays:
        return dataset.days(SPLITS)


def test_item_aggregates_of_the_test_split_are_found(shop: Any, stage1: Stage1) -> None:
    report = check(shop.dataset, stage1, protocol=CountsEverything(split=LeaveOneOut(), repeats=False))
    changed = found(report)
    # One retriever brings what is popular.
    assert {"ranker_dense.item_count_all", "retriever scores"} <= changed
    assert not any(name.startswith(("history", "training", "context", "popularity, ")) for name in changed)


class ReadsTheAnswer(Baselines):
    """Puts what was chosen first."""

    def _scores(
        self, asked: PastRequests, inputs: QueryInputs, seen: NDArray[np.int64]
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        yield from super()._scores(asked, inputs, seen)
        yield "oracle", (asked.relevant[:, :1] == np.arange(len(self.recommendable))).astype(np.float32)


def test_a_system_that_reads_what_was_chosen_is_found(shop: Any, stage1: Stage1) -> None:
    assert found(check(shop.dataset, stage1, baselines=ReadsTheAnswer)) == {"oracle, list", "oracle, scores"}


def test_the_past_of_a_log_has_its_own_item_days_and_keeps_queries_without_events(shop: Any) -> None:
    dataset, asked = shop.dataset, LEAVE_ONE_OUT.asked(shop.dataset, "test")
    log = dataset.events
    whole, _ = past_of(dataset, asked, kept=np.ones(len(log.at_ms), dtype=np.bool_))
    assert whole.item_days.select(dataset.item_days.column_names).equals(dataset.item_days)
    kept = (log.query_of(np.arange(len(log.at_ms))) != 3) & (log.splits != "test")
    past, requests = past_of(dataset, asked, kept=kept)
    assert past.events.query_ids == log.query_ids
    assert np.diff(past.events.offsets)[3] == 0
    assert past.events.item_ids == tuple(np.array(log.item_ids)[kept])
    assert sum(past.item_days["num_events"].to_pylist()) == kept.sum()
    some = asked.queries != 3
    before = requests.stops - past.events.offsets[requests.queries]
    earlier = [(kept[log.offsets[q] : stop]).sum() for q, stop in zip(asked.queries, asked.stops, strict=True)]
    assert before.tolist() == earlier
    assert before[some].min() > 0
    assert not requests.relevant.any()


def test_a_sample_of_requests_keeps_their_order(shop: Any) -> None:
    asked = LEAVE_ONE_OUT.asked(shop.dataset, "test")
    some = sampled(asked, num=7, generator=np.random.default_rng(1))
    assert len(some) == 7
    assert (np.diff(some.queries) > 0).all()
    assert len(sampled(asked, num=10_000, generator=np.random.default_rng(1))) == len(asked)
