"""Export parity: the towers and the ranker as they were trained against the files that a release serves.

Owns both walks, and that of items that are embedded while a release is served; the comparison itself is
evaluation/parity.py's.
"""

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.parity import ParityReport, compare
from features.catalogue import ItemColumns
from features.tower_inputs import QueryTowerInputs, read_as_encoded
from features.transforms import ItemInputs, QueryFeatures, RankerInputs, ranker_inputs
from features.vocab import FIRST
from ranking.decomposed import DecomposedRanker, ServedDecomposedRanker
from ranking.model import Ranker
from serving.item_embedder import ItemEmbedder
from serving.models import open_session
from serving.pipeline import Pipeline
from serving.release import Release
from serving.retrieval import ITEM_TOWER_FILE
from towers.model import TwoTower
from towers.text_encoder import SentenceEncoder

Scorer = Callable[[RankerInputs], NDArray[np.float32]]
# Scores that differ by less, relative to the larger of them and 1, may change places: rounding decides between them.
TIE = 1e-4


def export_parity(
    pipeline: Pipeline,
    *,
    towers: TwoTower,
    score: Scorer,
    queries: QueryFeatures,
    sentence_encoder: SentenceEncoder | None = None,
) -> ParityReport:
    """The towers and the ranker as they were trained against the exported ONNX files, on real requests.

    Args:
        pipeline: an opened release.
        towers: what its towers were exported from.
        score: the ranker that its ONNX file was made from.
        queries: requests to run.
        sentence_encoder: of what queries say; needed where they have a text.
    """
    stage1, models = pipeline.release.stage1, pipeline.models
    inputs = stage1.query_inputs(queries)
    with torch.inference_mode():
        items = towers.eval().embed_catalogue()
        history = torch.from_numpy(inputs.history_rows)
        text_embeddings = (
            np.zeros((len(queries), 0), dtype=np.float32)
            if sentence_encoder is None
            else sentence_encoder.embed(inputs.text_tokens)
        )
        read = {**read_as_encoded(inputs), "query_text": text_embeddings}
        tensors = {name: torch.from_numpy(array) for name, array in read.items()}
        learned = towers.query_tower(QueryTowerInputs(history_embeddings=items[history], **tensors)).numpy()
    embeddings = np.concatenate([learned, text_embeddings], axis=1)
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
    exported = stage1.embed_alone(inputs, models=models)
    trained_queries, exported_queries = (stage1.blended(inputs, own) for own in (embeddings, exported))
    num_candidates = pipeline.settings.num_ranked
    found = stage1.retrieve(inputs, exported_queries, num_candidates=num_candidates)
    # Of the towers alone: the other retrievers are not exported, and a union hides which item changed places.
    num_searched = min(num_candidates, len(stage1.index))
    trained_rows, exported_rows = (
        stage1.index.search(queries, k=num_searched).rows for queries in (trained_queries, exported_queries)
    )
    indexed = stage1.indexed(np.arange(len(stage1.catalogue)))
    offline = {
        "query_embedding": embeddings,
        "item_embedding": items.numpy(),
        "retrieved_rows": with_ties_as(exported_rows, trained_rows, queries=trained_queries, items=indexed),
    }
    serving = {"query_embedding": exported, "item_embedding": exported_items, "retrieved_rows": exported_rows}
    made = ranker_inputs(
        inputs,
        found.rows,
        found.scores,
        found.ranks,
        spec=stage1.spec,
        items=stage1.items,
        statistics=stage1.statistics,
        special_tokens=stage1.special_tokens,
        item_states=pipeline.release.item_states,
    )
    offline["ranker_score"] = score(made)
    serving["ranker_score"] = models.ranker(made)
    return compare(offline=offline, serving=serving, offline_name="trained", serving_name="onnxruntime")


def embedder_parity(release: Release, *, items: ItemColumns, num_items: int, seed: int) -> ParityReport:
    """Items of a catalogue as the release has them, against the same ones as if they came while it is served.

    What stands in the index by content alone is compared for items that were new when it was built.

    Args:
        release: opened.
        items: of its catalogue.
        num_items: to compare, half of them new where there are so many; at most what one call takes.
        seed: says which.
    """
    stage1 = release.stage1
    order = np.random.default_rng(seed).permutation(np.arange(FIRST, len(stage1.catalogue)))
    is_new = np.isin(order, stage1.new_items.rows)
    new = order[is_new][: num_items // 2]
    rows = np.concatenate([new, order[~is_new][: num_items - len(new)]])
    found = ItemEmbedder.open(release.path).embed(items.take(rows - FIRST))
    offline = {f"inputs.{field.name}": getattr(stage1.items, field.name)[rows] for field in fields(ItemInputs)}
    serving = {f"inputs.{field.name}": getattr(found.inputs, field.name) for field in fields(ItemInputs)}
    offline |= {"learned": stage1.item_embeddings[rows], "text": stage1.text_embeddings[rows]}
    serving |= {"learned": found.learned, "text": found.text}
    if len(new):
        placed = np.searchsorted(stage1.new_items.rows, new)
        offline |= {"as_new": stage1.new_items.learned[placed], "linear": stage1.linear_embeddings[new]}
        serving |= {"as_new": found.as_new[: len(new)], "linear": found.linear[: len(new)]}
    if release.item_states is not None:
        # Where rounding decides, int8 may be a step apart.
        read = release.item_states[rows].astype(np.int64)
        steps = found.states.astype(np.int64) - read
        offline["states"], serving["states"] = read, read + np.where(np.abs(steps) <= 1, 0, steps)
    return compare(offline=offline, serving=serving, offline_name="released", serving_name="embedded")


def scorer_of(ranker: Ranker | DecomposedRanker) -> Scorer:
    """A ranker as it was trained; one that reads candidates beforehand reads them again, and must get what is served.

    Raises:
        ValueError: of the scorer, where what was read of an item is not what its text gives.
    """

    def score(inputs: RankerInputs) -> NDArray[np.float32]:
        with torch.inference_mode():
            dense, context = torch.from_numpy(inputs.dense), torch.from_numpy(inputs.context_tokens)
            if isinstance(ranker, Ranker):
                scores: NDArray[np.float32] = ranker(torch.from_numpy(inputs.tokens), dense).numpy()
                return scores
            encoder = ranker.encoder
            texts = torch.from_numpy(inputs.tokens[:, :, encoder.num_context_tokens :]).flatten(0, 1)
            read = encoder.as_int8(encoder.project(encoder.read_candidates(texts))).view(inputs.candidate_states.shape)
            served = torch.from_numpy(np.array(inputs.candidate_states))
            # Rows of no item were read as such; where rounding decides, int8 may be a step apart.
            differ = ((read.int() - served.int()).abs() > 1).any(dim=(2, 3)).sum()
            if differ:
                raise ValueError(
                    f"{int(differ)} of {texts.shape[0]} candidates have another text than was read of them"
                )
            scores = ServedDecomposedRanker(ranker)(context, served, dense).numpy()
            return scores

    return score


def with_ties_as(
    other: NDArray[np.int64], rows: NDArray[np.int64], *, queries: NDArray[np.float32], items: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The same lists, with the other's item wherever the two at a rank score alike.

    Args:
        other: [N, C] ItemRow, best first.
        rows: [N, C] ItemRow, best first.
        queries: [N, D] embeddings.
        items: [R, D] embeddings.
    """
    own, others = (np.einsum("nd,ncd->nc", queries, items[lists]) for lists in (rows, other))
    is_tie = np.abs(own - others) <= TIE * np.maximum(np.maximum(np.abs(own), np.abs(others)), 1.0)
    return np.where(is_tie, other, rows)
