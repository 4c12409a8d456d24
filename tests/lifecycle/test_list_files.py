from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from evaluation.lists import RankedLists
from features.dataset import Dataset
from features.protocol import RequestProtocol
from lifecycle.list_files import write_lists

EVENTS = [
    *[("p", "a", 1, "train"), ("p", "b", 10, "test", 3.0, 2.0), ("p", "a", 11, "test")],
    ("q", "b", 10, "test"),
]


def test_lists_and_what_was_looked_for_are_written_by_query(
    build_dataset: Callable[..., Dataset], by_time: RequestProtocol, tmp_path: Path
) -> None:
    dataset = build_dataset(EVENTS, item_ids=["a", "b"])
    lists = RankedLists(
        rows=np.array([[3, 2], [2, 0]]), scores=np.array([[0.5, 0.25], [1.0, -np.inf]], dtype=np.float32)
    )
    write_lists({"guess": lists}, dataset=dataset, asked=by_time.asked(dataset, "test"), directory=tmp_path / "lists")
    assert pq.read_table(tmp_path / "lists" / "guess.parquet").to_pylist() == [
        {"query_id": "p", "item_id": "b", "rank": 1, "score": 0.5},
        {"query_id": "p", "item_id": "a", "rank": 2, "score": 0.25},
        {"query_id": "q", "item_id": "a", "rank": 1, "score": 1.0},
    ]
    assert pq.read_table(tmp_path / "lists" / "relevant.parquet").to_pylist() == [
        {"query_id": "p", "item_id": "a", "relevance": 1.0},
        {"query_id": "p", "item_id": "b", "relevance": 2.0},
        {"query_id": "q", "item_id": "b", "relevance": 1.0},
    ]
