from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from features.catalogue import Catalogue, ItemColumns
from features.dataset import Dataset, EventLog
from features.spec import DAY_MS


class Event(NamedTuple):
    query_id: str
    item_id: str
    day: float
    split: str
    value: float = 3.0


def _build_dataset(events: Sequence[tuple[object, ...]], *, item_ids: Sequence[str]) -> Dataset:
    """A log of (query, item, day, split[, value]); a query's events are in order of time, ties as given."""
    log = sorted((Event(*event) for event in events), key=lambda event: (event.query_id, event.day))
    query_ids = sorted({event.query_id for event in log})
    sizes = [sum(event.query_id == query_id for event in log) for query_id in query_ids]
    days = sorted({(event.item_id, int(event.day), event.split) for event in log})
    of_day = [[event.value for event in log if (event.item_id, int(event.day), event.split) == one] for one in days]
    return Dataset(
        name="by_hand",
        events=EventLog(
            query_ids=tuple(query_ids),
            offsets=np.cumsum([0, *sizes]),
            item_ids=tuple(event.item_id for event in log),
            values=np.array([event.value for event in log]),
            at_ms=np.array([round(event.day * DAY_MS) for event in log], dtype=np.int64),
            relevance=np.ones(len(log)),
            splits=np.array([event.split for event in log], dtype=np.str_),
        ),
        items=ItemColumns(
            catalogue=Catalogue(tuple(item_ids)),
            categories={"colour": [[("red", "green")[place % 2]] for place in range(len(item_ids))]},
            numbers={"size": np.arange(len(item_ids), dtype=np.float64)},
            texts={"title": [f"film {item_id}" for item_id in item_ids]},
        ),
        query_categories={"gender": [("F", "M")[ord(query_id[-1]) % 2] for query_id in query_ids]},
        query_numbers={"age": [float(ord(query_id[-1])) for query_id in query_ids]},
        titles=tuple(item_ids),
        item_days=pa.table(
            {
                "item_id": pa.array([item_id for item_id, _, _ in days], pa.string()),
                "day": pa.array([day for _, day, _ in days], pa.int32()),
                "split": pa.array([split for _, _, split in days], pa.string()),
                "num_events": pa.array([len(values) for values in of_day], pa.int32()),
                "value_sum": pa.array([sum(values) for values in of_day], pa.float64()),
            }
        ),
    )


@pytest.fixture(scope="session")
def build_dataset() -> Callable[..., Dataset]:
    return _build_dataset
