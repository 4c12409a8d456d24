"""What is asked of a held-out split, and which answers count: the rules that training lists and measurements share.

Owns which items can be recommended at all, and which chosen ones are looked for. How events become requests is
requests.py's; metrics are evaluation's.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.errors import FeaturesError
from features.requests import PastRequests, each_event, each_stretch
from features.split import SPLITS, Split
from features.statistics import ItemDays
from features.vocab import FIRST


@dataclass(frozen=True)
class RequestProtocol:
    """The rules of one dataset; conf/dataset/*.yaml fills it.

    Attributes:
        split: decides whether a query asks before each of its events or once for all of a stretch.
        repeats: whether an item that a query had before may be recommended to it, and is then looked for.
        min_item_queries: an item can be recommended once so many queries had it; 0: every item of the catalogue.
        count_unreachable: whether a chosen item that cannot be recommended is a miss, or is not looked for.
    """

    split: Split
    repeats: bool
    min_item_queries: int = 1
    count_unreachable: bool = True

    def __post_init__(self) -> None:
        if self.min_item_queries < 0:
            raise FeaturesError(f"dataset.min_item_queries must be 0 or more, got {self.min_item_queries}")

    def asked(self, dataset: Dataset, split: str, *, days: int | None = None) -> PastRequests:
        """The requests of one split.

        Args:
            dataset: the log.
            split: name of the split.
            days: a request so often where the split is divided by time; None: one, as the split begins.
        """
        if self.split.across_queries:
            return each_stretch(dataset, split, days=days)
        return each_event(dataset, split)

    def looked_for(self, requests: PastRequests, *, recommendable: NDArray[np.bool_]) -> PastRequests:
        """The requests with those chosen items that a recommender is asked to find.

        Args:
            requests: with all that was chosen.
            recommendable: [R] of the item table.
        """
        kept = np.ones(requests.relevant.shape, dtype=np.bool_)
        if not self.repeats:
            kept &= ~requests.had
        if not self.count_unreachable:
            kept &= recommendable[requests.relevant]
        return requests.only(kept)

    def recommendable(self, dataset: Dataset, splits: Collection[str]) -> NDArray[np.bool_]:
        """[R] which items enough queries had in the given splits."""
        enough: NDArray[np.bool_] = dataset.queries_of_items(splits) >= self.min_item_queries
        enough[:FIRST] = False
        return enough

    def item_days(self, dataset: Dataset, splits: Collection[str]) -> ItemDays:
        """Daily item counts that features of requests may use, each as of its own tick.

        Where splits are divided by time, all that happened before a tick was known then. Where they are not, events of
        later splits stand before it too, so only those of the given splits count.
        """
        return dataset.days(SPLITS if self.split.across_queries else splits)

    @property
    def description(self) -> str:
        """For a report: what was asked and which answers counted."""
        items = "all items"
        if self.min_item_queries:
            items = f"all items that at least {self.min_item_queries} {_plural('query', self.min_item_queries)} had"
        outside = "count as misses" if self.count_unreachable else "are not looked for"
        return f"{self.split.description}; full ranking over {items}, relevant items outside {outside}"


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word[:-1]}ies"
