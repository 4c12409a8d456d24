"""What training makes of a log and its catalogue before the first step, and beside the towers.

Owns the item table with its texts, the counts and rows that negatives are drawn by, and the neighbour tables of the
other retrievers. The order in which a step makes them is train_towers.py's.
"""

# Shapes: R rows of the item table.

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.spec import FeatureSpec
from features.text import TextTokenizer
from features.transforms import ItemInputs, item_inputs, item_texts
from features.vocab import PADDING, Vocabularies
from lifecycle.cuts import Cut
from serving.retrieval import BM25
from towers.model import ItemTable
from towers.negatives.items import QueryRows
from towers.retrievers.bm25 import fit_bm25
from towers.retrievers.ease import fit_ease
from towers.retrievers.neighbours import NeighbourTable
from towers.retrievers.transitions import fit_transitions
from towers.text_encoder import TextEncoder

BM25_TOKENS = 512  # of an item's text that can be looked for


def item_tables(
    dataset: Dataset,
    *,
    spec: FeatureSpec,
    vocabularies: Vocabularies,
    text_encoder: TextEncoder,
    texts_are_known: bool = True,
) -> tuple[ItemInputs, ItemTable]:
    """The catalogue encoded, and the same with text embeddings as the item tower reads it.

    Args:
        dataset: holds the catalogue.
        spec: of its features.
        vocabularies: of a cut.
        text_encoder: embeds its texts.
        texts_are_known: false leaves their embeddings zero, for an encoder that is trained to make them.
    """
    tokenizer = TextTokenizer(text_encoder.tokenizer_json)
    items = item_inputs(dataset.items, spec=spec, vocabularies=vocabularies, tokenizer=tokenizer)
    texts = item_texts(dataset.items, names=spec.names("item", "text"))
    embeddings = text_encoder.encode(texts if texts_are_known else [""] * len(texts))
    return items, ItemTable(items=items, text_embeddings=embeddings)


def item_counts(dataset: Dataset, cut: Cut) -> NDArray[np.int64]:
    """Events of each row of the item table that the cut knows, [R]."""
    rows = dataset.event_rows()[dataset.events.positives(cut.splits)]
    return np.bincount(rows, minlength=len(dataset.items.catalogue))


def query_rows(dataset: Dataset, cut: Cut) -> QueryRows:
    """Items of each query's events that the cut knows, liked or not."""
    places = dataset.events.places(cut.splits)
    counts = np.bincount(dataset.events.query_of(places), minlength=len(dataset.events.query_ids))
    return QueryRows(offsets=np.r_[0, counts.cumsum()], rows=dataset.event_rows()[places])


def neighbour_tables(dataset: Dataset, protocol: RequestProtocol, cut: Cut) -> dict[str, NeighbourTable]:
    """The other retrievers, fitted on the events that the cut knows, of items that can be recommended."""
    places = dataset.events.positives(cut.splits)
    queries, rows = dataset.events.query_of(places), dataset.event_rows()[places]
    rows = np.where(protocol.recommendable(dataset, cut.splits)[rows], rows, PADDING)
    num_rows = len(dataset.items.catalogue)
    return {
        "transitions": fit_transitions(query_rows=queries, item_rows=rows, num_rows=num_rows),
        "ease": fit_ease(query_rows=queries, item_rows=rows, num_rows=num_rows).neighbours(),
    }


def word_tables(dataset: Dataset, *, spec: FeatureSpec, tokenizer: TextTokenizer) -> dict[str, NeighbourTable]:
    """BM25's, of the whole texts and not of what the ranker reads of them; none where queries say nothing."""
    if not spec.text.query_tokens:
        return {}
    texts = item_texts(dataset.items, names=spec.names("item", "text"))
    tokens = tokenizer.encode(texts, length=BM25_TOKENS)
    return {BM25: fit_bm25(tokens, pad=tokenizer.pad, num_tokens=tokenizer.size)}
