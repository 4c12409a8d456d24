import asyncio
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.errors import ParityFailed
from features.dataset import Dataset
from features.spec import DAY_MS
from features.stores.online_store import OnlineStore
from lifecycle.ask import held_out_asks
from lifecycle.serve import ServeSettings
from lifecycle.served_parity import ServedParity, check_served_log
from serving.engine import InProcessEngine
from serving.errors import DeltaRefused
from serving.fallback import PopularityFallback
from serving.pipeline import Pipeline
from serving.request_flow import RequestFlow
from serving.served_log import ServedLog, read_served_log
from serving.settings import ServedLogSettings

pytestmark = pytest.mark.timeout(600)

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def served(
    smoke_pipeline: Pipeline, smoke_store: OnlineStore, smoke_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Records:
    """Eight queries at the time of their test event, the first two again a day later, and one that nobody knows."""
    log_path = tmp_path_factory.mktemp("served") / "served.jsonl"
    asks = held_out_asks(smoke_dataset)[::110][:8]
    wanted = [(ask.query_id, ask.requested_at_ms) for ask in asks]
    wanted += [(ask.query_id, ask.requested_at_ms + DAY_MS) for ask in asks[:2]] + [("nobody", 0)]

    async def serve() -> None:
        flow = RequestFlow(
            features=smoke_store,
            engine=InProcessEngine(pipeline=smoke_pipeline),
            fallback=PopularityFallback(item_ids=smoke_pipeline.release.popular_item_ids),
            release_id=smoke_pipeline.release.release_id,
            deadline_s=60.0,
            served_log=ServedLog(settings=ServedLogSettings(path=log_path)),
        )
        for number, (query_id, at_ms) in enumerate(wanted):
            await flow.reply(
                query_id=query_id, k=5, requested_at_ms=at_ms, with_candidates=False, request_id=str(number)
            )
        await flow.close()

    asyncio.run(serve())
    return list(read_served_log(log_path))


@pytest.fixture
def check(smoke_run: Path, smoke_serving: ServeSettings, smoke_dataset: Dataset) -> Any:
    def check(records: Records, **changes: Any) -> ServedParity:
        return check_served_log(
            records,
            release_dir=smoke_run / "demo" / "release",
            settings=smoke_serving.triton.pipeline,
            dataset=smoke_dataset,
            **changes,
        )

    return check


def test_what_was_served_is_made_again_to_the_last_bit(served: Records, check: Any) -> None:
    found = check(served)
    found.check()
    assert {field.num_compared for field in found.lists.fields} == {10}
    assert {field.num_compared for field in found.features.fields} == {10}
    assert found.left_out == {"answered by the fallback": 1}
    # The store holds each query's state before its test event, which a day later is behind by that event.
    assert (found.num_behind, found.num_ahead) == (2, 0)
    assert "features behind their request: 2 records" in str(found)


def test_a_store_that_is_newer_than_a_request_is_ahead_of_it(served: Records, check: Any) -> None:
    earlier = copy.deepcopy(served[:3])
    for record in earlier:
        (instant,) = record["features"]["requested_at_ms"]
        record["features"]["requested_at_ms"] = [instant - 1000 * DAY_MS]
    assert check(earlier).num_ahead == 3


def swap_histories(records: Records) -> None:
    records[2]["features"], records[3]["features"] = records[3]["features"], records[2]["features"]


def lose_the_newest(records: Records) -> None:
    """A log whose features lack an event in their middle, not at their end."""
    for name in ("history_item_ids", "history_events", "history_values", "history_at_ms"):
        del records[1]["features"][name][0][-2]


def change_a_number(records: Records) -> None:
    records[4]["features"]["numbers"][0][0] += 1.0


@pytest.mark.parametrize(
    ("change", "features"),
    [
        (swap_histories, {"history_rows", "seen_rows"}),
        (lose_the_newest, {"history_rows", "seen_rows", "context.history_count"}),
        (change_a_number, {"numbers.age"}),
    ],
)
def test_features_that_the_log_does_not_know_are_named(
    served: Records, check: Any, change: Any, features: set[str]
) -> None:
    records = copy.deepcopy(served)
    change(records)
    found = check(records)
    different = {field.name for field in found.features.fields if field.num_different}
    assert different >= features
    with pytest.raises(ParityFailed, match=r"differ between prepared and served:\n[\s\S]*    request \d of query"):
        found.check()


def test_a_score_may_differ_by_the_stated_tolerance_and_an_id_never(served: Records, check: Any) -> None:
    records = copy.deepcopy(served)
    items = records[0]["answer"]["items"]
    items[0]["score"] += 0.01
    with pytest.raises(ParityFailed, match="  scores: 1 of 10 events differ"):
        check(records).check()
    check(records, score_tolerance=0.02).check()
    items[1]["item_id"] = "another"
    with pytest.raises(ParityFailed, match=r"  item_ids: 1 of 10[\s\S]*request 0 of query \d+ at \[1\].*'another'"):
        check(records, score_tolerance=0.02).check()


def test_a_delta_that_is_gone_is_told(served: Records, check: Any) -> None:
    records = copy.deepcopy(served)
    records[0]["answer"]["delta"] = 3
    with pytest.raises(DeltaRefused, match="000003 is no whole delta"):
        check(records)


def test_a_log_of_nothing_does_not_pass(served: Records, check: Any) -> None:
    with pytest.raises(ParityFailed, match="nothing was compared"):
        check([record for record in served if record["source"] == "fallback"]).check()


def test_queries_that_the_dataset_does_not_know_have_their_lists_compared_alone(served: Records, check: Any) -> None:
    records = copy.deepcopy(served[:4])
    records[0]["query_id"] = "new"
    found = check(records)
    found.check()
    assert {field.num_compared for field in found.lists.fields} == {4}
    assert {field.num_compared for field in found.features.fields} == {3}


def test_a_text_that_came_with_the_request_is_no_difference(served: Records, check: Any) -> None:
    records = copy.deepcopy(served[:2])
    records[0]["text"], records[0]["features"]["texts"] = "something", ["something"]
    check(records).check()
    assert np.isfinite(records[0]["answer"]["items"][0]["score"])
