"""EASE as a baseline at its best: the regularisation that finds most in the validation split.

Owns the choice. It is made on what the fold knows, so no test event has a say.
"""

import logging

import numpy as np

from evaluation.lists import top_items
from evaluation.metrics import count_relevant, gains, ndcg
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.vocab import PADDING
from lifecycle.cuts import FOLD
from towers.retrievers.ease import fit_ease
from towers.retrievers.weights import uniform_weights

logger = logging.getLogger(__name__)

# From a table of films that hundreds have seen to one of products that few buy, in steps of about 3.
CHOICES = (100.0, 300.0, 1000.0)
NUM_REQUESTS = 512
LIST_LENGTH = 10


def chosen_regularisation(dataset: Dataset, protocol: RequestProtocol) -> float:
    """The best of CHOICES by NDCG@10 of new items, all of a history alike, over at most NUM_REQUESTS requests.

    Where there is nothing to choose by, the first.
    """
    recommendable = protocol.recommendable(dataset, FOLD.splits)
    asked = protocol.looked_for(protocol.asked(dataset, "validation"), recommendable=recommendable)
    asked = asked.only(~asked.had)
    asked = asked.take(slice(None, None, -(-len(asked) // NUM_REQUESTS) or 1))
    if not len(asked):
        return CHOICES[0]
    places = dataset.events.positives(FOLD.splits)
    queries, rows = dataset.events.query_of(places), dataset.event_rows()[places]
    rows = np.where(recommendable[rows], rows, PADDING)
    seen = asked.seen_rows(dataset)
    values = {}
    for regularisation in CHOICES:
        ease = fit_ease(query_rows=queries, item_rows=rows, num_rows=len(recommendable), regularisation=regularisation)
        scores = ease.score_all(history_rows=seen, weights=uniform_weights(seen))
        found = top_items(scores, k=LIST_LENGTH, allowed=recommendable, excluded=seen)
        hits = gains(ranked=found.rows, relevant=asked.relevant)
        values[regularisation] = ndcg(hits, num_relevant=count_relevant(asked.relevant), k=LIST_LENGTH).mean()
    best = max(CHOICES, key=lambda regularisation: values[regularisation])
    listed = ", ".join(f"{regularisation:g}: {value:.4f}" for regularisation, value in values.items())
    logger.info("EASE: regularisation %g, by validation NDCG@10 of %d requests (%s)", best, len(asked), listed)
    return best
