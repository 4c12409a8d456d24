import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from features.catalogue import Catalogue, ItemColumns
from features.dataset import Dataset, EventLog
from features.protocol import RequestProtocol
from features.spec import DAY_MS
from features.split import LeaveOneOut, TimeSplit


class Event(NamedTuple):
    query_id: str
    item_id: str
    day: float
    split: str
    value: float = 3.0
    relevance: float = 1.0


def _build_dataset(events: Sequence[tuple[object, ...]], *, item_ids: Sequence[str]) -> Dataset:
    """A log of (query, item, day, split[, value[, relevance]]), put in order of time; ties stay as given."""
    log = sorted((Event(*event) for event in events), key=lambda event: (event.query_id, event.day))
    query_ids = sorted({event.query_id for event in log})
    sizes = [sum(event.query_id == query_id for event in log) for query_id in query_ids]
    days = sorted({(event.item_id, int(event.day), event.split) for event in log})
    of_day = [[event for event in log if (event.item_id, int(event.day), event.split) == one] for one in days]
    return Dataset(
        name="by_hand",
        events=EventLog(
            query_ids=tuple(query_ids),
            offsets=np.cumsum([0, *sizes]),
            item_ids=tuple(event.item_id for event in log),
            events=("chosen",) * len(log),
            values=np.array([event.value for event in log]),
            at_ms=np.array([round(event.day * DAY_MS) for event in log], dtype=np.int64),
            relevance=np.array([event.relevance for event in log]),
            splits=np.array([event.split for event in log], dtype=np.str_),
        ),
        items=ItemColumns(
            catalogue=Catalogue(tuple(item_ids)),
            categories={"colour": [[("red", "green")[place % 2]] for place in range(len(item_ids))]},
            numbers={"size": np.arange(len(item_ids), dtype=np.float64)},
            texts={"title": [f"film {item_id}" for item_id in item_ids]},
        ),
        query_texts=[""] * len(query_ids),
        query_categories={"gender": [("F", "M")[ord(query_id[-1]) % 2] for query_id in query_ids]},
        query_numbers={"age": [float(ord(query_id[-1])) for query_id in query_ids]},
        titles=tuple(item_ids),
        item_days=pa.table(
            {
                "item_id": pa.array([item_id for item_id, _, _ in days], pa.string()),
                "day": pa.array([day for _, day, _ in days], pa.int32()),
                "split": pa.array([split for _, _, split in days], pa.string()),
                "num_events": pa.array([len(own) for own in of_day], pa.int32()),
                "num_positive": pa.array([sum(event.relevance > 0 for event in own) for own in of_day], pa.int32()),
                "value_sum": pa.array([sum(event.value for event in own) for own in of_day], pa.float64()),
            }
        ),
        available_days=np.full(len(item_ids), np.nan),
    )


@pytest.fixture(scope="session")
def build_dataset() -> Callable[..., Dataset]:
    return _build_dataset


@pytest.fixture(scope="session")
def leave_one_out() -> RequestProtocol:
    return RequestProtocol(split=LeaveOneOut(), repeats=False)


@pytest.fixture(scope="session")
def by_time() -> RequestProtocol:
    """Requests as a split begins, where what a query had may be recommended to it again."""
    return RequestProtocol(split=TimeSplit(), repeats=True, count_unreachable=False)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A prepared log and an untrained release of it: shop.py beside this file."""
    return _module("shop").prepare_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def small_training() -> Any:
    """small_training.py beside this file."""
    return _module("small_training")


def _module(name: str) -> Any:
    source = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    sys.modules[name] = module  # where its dataclasses look for themselves
    source.loader.exec_module(module)
    return module
