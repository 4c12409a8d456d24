"""Each system's lists as parquet files, and what was relevant, for whoever measures them again.

Owns the columns of these files.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.lists import RankedLists
from features.dataset import Dataset
from features.requests import PastRequests
from features.vocab import FIRST, PADDING

logger = logging.getLogger(__name__)


def write_lists(systems: Mapping[str, RankedLists], *, dataset: Dataset, asked: PastRequests, directory: Path) -> None:
    """Write <system>.parquet (query_id, item_id, rank, score) and relevant.parquet (query_id, item_id, relevance).

    Args:
        systems: lists of N requests by name of the system.
        dataset: the log.
        asked: the N requests, with what was looked for.
        directory: where the files go.
    """
    directory.mkdir(parents=True, exist_ok=True)
    catalogue = dataset.items.catalogue
    query_ids = np.array([dataset.events.query_ids[query] for query in asked.queries], dtype=np.object_)
    for name, lists in systems.items():
        shown = lists.rows >= FIRST
        table = pa.table(
            {
                "query_id": pa.array(np.repeat(query_ids, shown.sum(axis=1)), pa.string()),
                "item_id": [catalogue.item_id(int(row)) for row in lists.rows[shown]],
                "rank": np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in shown.sum(axis=1)]),
                "score": lists.scores[shown],
            }
        )
        pq.write_table(table, directory / f"{name}.parquet")
    owner, column = np.nonzero(asked.relevant != PADDING)
    truth = {
        "query_id": pa.array(query_ids[owner], pa.string()),
        "item_id": [catalogue.item_id(int(row)) for row in asked.relevant[owner, column]],
        "relevance": asked.grades[owner, column],
    }
    pq.write_table(pa.table(truth), directory / "relevant.parquet")
    logger.info("top %d of %d systems, and relevant.parquet, lie in %s", lists.rows.shape[1], len(systems), directory)
