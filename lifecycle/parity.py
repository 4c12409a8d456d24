"""Parity: the same event through the offline path and through the online path gives the same arrays and ids.

Owns both walks and what is compared; the comparison itself is evaluation/parity.py's. The online walk is the real one:
Feast's online store, the request's tensors, the release as it is opened by a server.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.parity import ParityReport, compare
from features.dataset import Dataset
from features.online_store import OnlineStore
from features.statistics import ItemStatistics
from features.transforms import QueryFeatures, QueryInputs, RankerInputs, query_inputs, ranker_inputs
from lifecycle.cuts import REFIT
from serving.models import open_session
from serving.pipeline import Pipeline
from serving.retrieval import ITEM_TOWER_FILE, Candidates
from serving.wire import MAX_BATCH, decode_request, encode_request
from towers.model import TwoTower

LISTED_BATCHES = 16

Scorer = Callable[[RankerInputs], NDArray[np.float32]]


def transform_parity(
    pipeline: Pipeline, *, dataset: Dataset, store: OnlineStore, places: NDArray[np.int64], k: int
) -> ParityReport:
    """Offline transforms of the event log against what a server makes of the online store's features.

    Args:
        pipeline: an opened release.
        dataset: the event log.
        store: materialised with each query's state before its event in `places`.
        places: events to replay.
        k: length of the lists that are compared.
    """
    stage1 = pipeline.release.stage1
    before = dataset.before(places, length=None)
    # A release knows items as of its own tick, so the events are replayed as requests that come after it.
    tick_at_ms = int(stage1.statistics.ticks_at_ms[-1])
    offline = replace(before, requested_at_ms=[max(at_ms, tick_at_ms) for at_ms in before.requested_at_ms])
    aggregates = ItemStatistics.at_requests(
        dataset.days(REFIT.splits), requested_at_ms=np.array([tick_at_ms]), tick_ms=stage1.spec.tick_ms
    )
    query_ids = [dataset.events.query_ids[query] for query in dataset.events.query_of(places)]
    online, _ = store.read(query_ids, requested_at_ms=offline.requested_at_ms)
    sent = _through_the_wire(online, pipeline=pipeline)
    return compare(
        offline=_arrays(offline, pipeline=pipeline, statistics=aggregates, k=k),
        serving=_arrays(sent, pipeline=pipeline, statistics=stage1.statistics, k=k),
    )


def export_parity(pipeline: Pipeline, *, towers: TwoTower, score: Scorer, queries: QueryFeatures) -> ParityReport:
    """The towers and the ranker as they were trained against the exported ONNX files, on real requests.

    Args:
        pipeline: an opened release.
        towers: what its towers were exported from.
        score: the ranker that its ONNX file was made from.
        queries: requests to run.
    """
    stage1, models = pipeline.release.stage1, pipeline.models
    inputs = _inputs(queries, pipeline=pipeline)
    with torch.inference_mode():
        items = towers.eval().embed_catalogue()
        history = torch.from_numpy(inputs.history_rows)
        embeddings = towers.query_tower(
            items[history],
            torch.from_numpy(inputs.history_mask),
            torch.from_numpy(inputs.categories),
            torch.from_numpy(inputs.numbers),
        ).numpy()
    session = open_session(pipeline.release.path / ITEM_TOWER_FILE)
    table = towers.item_table
    exported_items = session.run(
        None,
        {
            "item_id": table.item_id.unsqueeze(1).numpy(),
            "categories": table.categories.numpy(),
            "numbers": table.numbers.numpy(),
            "text_embedding": table.text_embedding.numpy(),
        },
    )[0]
    exported = stage1.embed(inputs, models=models)
    num_candidates = pipeline.settings.num_ranked
    offline = {
        "query_embedding": embeddings,
        "item_embedding": items.numpy(),
        "retrieved_rows": stage1.retrieve(inputs, embeddings, num_candidates=num_candidates).rows,
    }
    found = stage1.retrieve(inputs, exported, num_candidates=num_candidates)
    serving = {"query_embedding": exported, "item_embedding": exported_items, "retrieved_rows": found.rows}
    made = _ranker_inputs(inputs, found, pipeline=pipeline, statistics=stage1.statistics)
    offline["ranker_score"] = score(made)
    serving["ranker_score"] = models.ranker(tokens=made.tokens, dense=made.dense)
    return compare(offline=offline, serving=serving, offline_name="trained", serving_name="onnxruntime")


def _inputs(queries: QueryFeatures, *, pipeline: Pipeline) -> QueryInputs:
    stage1 = pipeline.release.stage1
    return query_inputs(queries, spec=stage1.spec, vocabularies=stage1.vocabularies, catalogue=stage1.catalogue)


def _ranker_inputs(
    inputs: QueryInputs, candidates: Candidates, *, pipeline: Pipeline, statistics: ItemStatistics
) -> RankerInputs:
    stage1 = pipeline.release.stage1
    return ranker_inputs(
        inputs,
        candidates.rows,
        candidates.scores,
        spec=stage1.spec,
        items=stage1.items,
        statistics=statistics,
        special_tokens=stage1.special_tokens,
    )


def _arrays(
    queries: QueryFeatures, *, pipeline: Pipeline, statistics: ItemStatistics, k: int
) -> dict[str, NDArray[np.generic]]:
    """What the towers read of every query; what the ranker reads, and the lists, of the first ones."""
    stage1, inputs = pipeline.release.stage1, _inputs(queries, pipeline=pipeline)
    arrays: dict[str, NDArray[np.generic]] = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    # Lists and token rows take a hundred times as long as the rest, and follow from it. In the server's batches, for a
    # thousand requests at once would need gigabytes in the ranker.
    listed = inputs.take(slice(0, LISTED_BATCHES * MAX_BATCH))
    found = stage1.retrieve(
        listed, stage1.embed(listed, models=pipeline.models), num_candidates=pipeline.settings.num_ranked
    )
    made = _ranker_inputs(listed, found, pipeline=pipeline, statistics=statistics)
    lists = [pipeline.recommend(batch, k=k) for batch in islice(_batches(queries), LISTED_BATCHES)]
    item_ids = [own for batch in lists for own in batch.item_ids]
    return arrays | {
        "candidate_rows": found.rows,
        "ranker_tokens": made.tokens,
        "ranker_dense": made.dense,
        "recommended_ids": np.array([own + [""] * (k - len(own)) for own in item_ids]),
    }


def _batches(queries: QueryFeatures) -> Iterator[QueryFeatures]:
    for start in range(0, len(queries), MAX_BATCH):
        yield QueryFeatures(
            **{field.name: getattr(queries, field.name)[start : start + MAX_BATCH] for field in fields(queries)}
        )


def _through_the_wire(queries: QueryFeatures, *, pipeline: Pipeline) -> QueryFeatures:
    """What the server decodes of what a client encodes, batch by batch."""
    spec = pipeline.release.spec
    parts = []
    for batch in _batches(queries):
        tensors = encode_request(batch, k=1, with_candidates=False, spec_hash=spec.hash)
        parts.append(decode_request(tensors, spec=spec).queries)
    return QueryFeatures(
        **{field.name: [row for part in parts for row in getattr(part, field.name)] for field in fields(queries)}
    )
