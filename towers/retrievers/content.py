"""What an item's content says of its embeddings: a ridge regression from the one to the other over known items.

Owns the features of content and the solution. Item towers read the same content, but of the few training items that
are shown without their id; the map is fitted on all, each as often as it was had. Numbers enter by the tenth that they
fall into: with the year of a film as one number new films were found far worse.

numpy only. Source: Gantner et al., ICDM 2010, "Learning attribute-to-feature mappings for cold-start recommendations".
"""

# Shapes: R rows of the item table, K known items, P items, C category columns of M values, N numbers, E width of a text
# embedding, F features, D width of the embeddings.

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.transforms import ItemInputs
from features.vocab import FIRST

Array = NDArray[np.float64]
IntArray = NDArray[np.integer[Any]]

REGULARISATION = 10.0  # of 3, 10, 30 and 100; within the noise of one another but for the last, which is worse
TENTHS = 10
MAX_VALUES = 1000  # of a category column, the most frequent: what a few items share says little
BLOCK = 8192  # items whose features are held at once


@dataclass(frozen=True, eq=False)
class ContentFeatures:
    """Features of content in the table's rows.

    Attributes:
        items: the item table.
        texts: [R, E] text embeddings.
        values: of each category column the VocabIds that count, ascending.
        limits: of each number what parts its tenths.
        text_mean: [E] of known items; text_norm: mean length of a text embedding less that mean.
    """

    items: ItemInputs
    texts: NDArray[np.float32]
    values: tuple[IntArray, ...]
    limits: tuple[NDArray[np.floating[Any]], ...]
    text_mean: NDArray[np.float32]
    text_norm: float

    @classmethod
    def fit(cls, items: ItemInputs, *, texts: NDArray[np.float32], known: IntArray) -> Self:
        """Features that known items [K] have."""
        values = []
        for column in range(items.categories.shape[1]):
            counts = np.bincount(items.categories[known, column, :].ravel(), minlength=FIRST)
            counts[:FIRST] = 0
            values.append(np.sort(np.argsort(-counts, kind="stable")[: min(MAX_VALUES, int((counts > 1).sum()))]))
        places = np.arange(1, TENTHS) / TENTHS
        limits = [
            np.unique(np.quantile(items.numbers[known, column], places)) for column in range(items.numbers.shape[1])
        ]
        mean = texts[known].mean(axis=0)
        norm = float(np.linalg.norm(texts[known] - mean, axis=1).mean()) if texts.shape[1] else 1.0
        return cls(items, texts, tuple(values), tuple(limits), mean, max(norm, 1e-6))

    def of(self, rows: IntArray) -> Array:
        """[P, F], every text, category column and number of a length of about 1."""
        blocks = [(self.texts[rows] - self.text_mean) / self.text_norm]
        for column, kept in enumerate(self.values):
            own = self.items.categories[rows, column, :]  # [P, M]
            has = np.zeros((len(rows), len(kept) + 1))
            places = np.minimum(np.searchsorted(kept, own), max(len(kept) - 1, 0))
            is_kept = kept[places] == own if len(kept) else np.zeros(own.shape, dtype=np.bool_)
            np.put_along_axis(has, np.where(is_kept, places, len(kept)), 1.0, axis=1)
            has = has[:, :-1]
            blocks.append(has / np.sqrt(np.maximum(has.sum(axis=1, keepdims=True), 1.0)))
        for column, limits in enumerate(self.limits):
            tenth = np.searchsorted(limits, self.items.numbers[rows, column], side="right")
            blocks.append(np.eye(len(limits) + 1)[tenth])
        return np.concatenate(blocks, axis=1, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ContentMap:
    """The regression: a mean, and what features add to it.

    Attributes:
        features: of the item table.
        centre: [F] mean features of known items.
        mean: [D] mean embedding of known items.
        coefficients: [F, D].
    """

    features: ContentFeatures
    centre: Array
    mean: Array
    coefficients: Array

    @classmethod
    def fit(
        cls, features: ContentFeatures, *, known: IntArray, weights: Array, embeddings: NDArray[np.floating[Any]]
    ) -> Self:
        """Fit on known items.

        Args:
            features: of the item table.
            known: [K] ItemRow, at least one.
            weights: [K] above 0, how much each counts.
            embeddings: [K, D].
        """
        weights = weights / weights.mean()
        total = float(len(known))
        mean: Array = weights @ embeddings / total
        blocks = [slice(start, start + BLOCK) for start in range(0, len(known), BLOCK)]
        centre = np.sum([weights[block] @ features.of(known[block]) for block in blocks], axis=0) / total
        gram, product = np.zeros((len(centre), len(centre))), np.zeros((len(centre), len(mean)))
        for block in blocks:
            centred = features.of(known[block]) - centre
            weighted = (centred * weights[block, None]).T
            gram += weighted @ centred
            product += weighted @ (embeddings[block] - mean)
        gram[np.diag_indices_from(gram)] += REGULARISATION
        return cls(features, centre, mean, np.linalg.solve(gram, product).astype(np.float64))

    def of(self, rows: IntArray) -> NDArray[np.float32]:
        """Embeddings [P, D] of items by their content."""
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        found = [self.mean + (self.features.of(block) - self.centre) @ self.coefficients for block in blocks]
        return np.concatenate([np.zeros((0, len(self.mean))), *found]).astype(np.float32)
