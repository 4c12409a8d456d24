"""EASE and iALS as baselines at their best: the settings that find most in the validation split.

Owns the choice. It is made on what the fold knows, so no test event has a say.
"""

# Shapes: N requests, H items of the longest history, V rows of the item table, E events that the fold knows.

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.lists import top_items
from evaluation.metrics import count_relevant, gains, ndcg
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.vocab import PADDING
from lifecycle.cuts import FOLD
from towers.retrievers.ease import fit_ease
from towers.retrievers.ials import fit_ials
from towers.retrievers.weights import uniform_weights

logger = logging.getLogger(__name__)

# From a table of films that hundreds have seen to one of products that few buy, in steps of about 3.
CHOICES = (100.0, 300.0, 1000.0)
# Weight of what was not had, and regularisation.
IALS_CHOICES = ((0.3, 0.01), (1.0, 0.01), (3.0, 0.003))
IALS_SEED = 1
NUM_REQUESTS = 512
LIST_LENGTH = 10

Choice = TypeVar("Choice")
# Query and item of each event [E], what the requests had [N, H] -> scores [N, V].
Scores = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def chosen_regularisation(dataset: Dataset, protocol: RequestProtocol) -> float:
    """EASE's: the best of CHOICES by NDCG@10 of new items, all of a history alike."""

    def of(regularisation: float, num_rows: int) -> Scores:
        return lambda queries, rows, seen: fit_ease(
            query_rows=queries, item_rows=rows, num_rows=num_rows, regularisation=regularisation
        ).score_all(history_rows=seen, weights=uniform_weights(seen))

    num_rows = len(dataset.items.catalogue)
    return _best(dataset, protocol, name="EASE", choices={choice: of(choice, num_rows) for choice in CHOICES})


def chosen_ials(dataset: Dataset, protocol: RequestProtocol) -> tuple[float, float]:
    """Weight and regularisation of iALS: the best of IALS_CHOICES, likewise."""

    def of(weight: float, regularisation: float, num_rows: int) -> Scores:
        return lambda queries, rows, seen: fit_ials(
            query_rows=queries,
            item_rows=rows,
            num_rows=num_rows,
            weight=weight,
            regularisation=regularisation,
            generator=np.random.default_rng(IALS_SEED),
        ).score_all(seen_rows=seen)

    num_rows = len(dataset.items.catalogue)
    return _best(dataset, protocol, name="iALS", choices={choice: of(*choice, num_rows) for choice in IALS_CHOICES})


def _best(dataset: Dataset, protocol: RequestProtocol, *, name: str, choices: Mapping[Choice, Scores]) -> Choice:
    """The best choice over at most NUM_REQUESTS requests; the first where there is nothing to choose by."""
    recommendable = protocol.recommendable(dataset, FOLD.splits)
    asked = protocol.looked_for(protocol.asked(dataset, "validation"), recommendable=recommendable)
    asked = asked.only(~asked.had)
    asked = asked.take(slice(None, None, -(-len(asked) // NUM_REQUESTS) or 1))
    if not len(asked):
        return next(iter(choices))
    places = dataset.events.positives(FOLD.splits)
    queries, rows = dataset.events.query_of(places), dataset.event_rows()[places]
    rows = np.where(recommendable[rows], rows, PADDING)
    seen = asked.seen_rows(dataset)
    values = {}
    for choice, scores in choices.items():
        found = top_items(scores(queries, rows, seen), k=LIST_LENGTH, allowed=recommendable, excluded=seen)
        hits = gains(ranked=found.rows, relevant=asked.relevant)
        values[choice] = ndcg(hits, num_relevant=count_relevant(asked.relevant), k=LIST_LENGTH).mean()
    best = max(choices, key=lambda choice: values[choice])
    listed = ", ".join(f"{choice}: {value:.4f}" for choice, value in values.items())
    logger.info("%s: %s, by validation NDCG@10 of %d requests (%s)", name, best, len(asked), listed)
    return best
