"""What an item's content says of its embeddings: a ridge regression from the one to the other over known items.

Owns the features of content and the solution. Item towers read the same content, but of the few training items that
are shown without their id; the map is fitted on all, each as often as it was had. Numbers enter by the tenth that they
fall into: with the year of a film as one number new films were found far worse.

numpy only. Source: Gantner et al., ICDM 2010, "Learning attribute-to-feature mappings for cold-start recommendations".
"""

# Shapes: R rows of the item table, K known items, P items, C category columns of M values, N numbers, E width of a text
# embedding, F features, D width of the embeddings.

from dataclasses import dataclass
from pathlib import Path
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
VALUES, LIMITS = "values_", "limits_"  # of each column, in the file


@dataclass(frozen=True, eq=False)
class ItemContent:
    """What is known of P items without an event: rows of the item table, or items that have none.

    Attributes:
        categories: [P, C, M] VocabIds.
        numbers: [P, N].
        texts: [P, E] text embeddings.
    """

    categories: IntArray
    numbers: NDArray[np.float32]
    texts: NDArray[np.float32]

    @classmethod
    def of(cls, items: ItemInputs, *, texts: NDArray[np.float32]) -> Self:
        """Of encoded items with their text embeddings."""
        return cls(categories=items.categories, numbers=items.numbers, texts=texts)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, places: slice | IntArray) -> "ItemContent":
        """Some of them."""
        return ItemContent(self.categories[places], self.numbers[places], self.texts[places])


@dataclass(frozen=True, eq=False)
class ContentFeatures:
    """How content becomes features.

    Attributes:
        values: of each category column the VocabIds that count, ascending.
        limits: of each number what parts its tenths.
        text_mean: [E] of known items.
        text_norm: mean length of a text embedding less that mean.
    """

    values: tuple[IntArray, ...]
    limits: tuple[NDArray[np.floating[Any]], ...]
    text_mean: NDArray[np.float32]
    text_norm: float

    @classmethod
    def fit(cls, known: ItemContent) -> Self:
        """Features that known items [K] have."""
        values = []
        for column in range(known.categories.shape[1]):
            counts = np.bincount(known.categories[:, column, :].ravel(), minlength=FIRST)
            counts[:FIRST] = 0
            values.append(np.sort(np.argsort(-counts, kind="stable")[: min(MAX_VALUES, int((counts > 1).sum()))]))
        places = np.arange(1, TENTHS) / TENTHS
        limits = [np.unique(np.quantile(known.numbers[:, column], places)) for column in range(known.numbers.shape[1])]
        mean = known.texts.mean(axis=0)
        norm = float(np.linalg.norm(known.texts - mean, axis=1).mean()) if known.texts.shape[1] else 1.0
        return cls(tuple(values), tuple(limits), mean, max(norm, 1e-6))

    def of(self, content: ItemContent) -> Array:
        """[P, F], every text, category column and number of a length of about 1."""
        blocks = [(content.texts - self.text_mean) / self.text_norm]
        for column, kept in enumerate(self.values):
            own = content.categories[:, column, :]  # [P, M]
            has = np.zeros((len(content), len(kept) + 1))
            places = np.minimum(np.searchsorted(kept, own), max(len(kept) - 1, 0))
            is_kept = kept[places] == own if len(kept) else np.zeros(own.shape, dtype=np.bool_)
            np.put_along_axis(has, np.where(is_kept, places, len(kept)), 1.0, axis=1)
            has = has[:, :-1]
            blocks.append(has / np.sqrt(np.maximum(has.sum(axis=1, keepdims=True), 1.0)))
        for column, limits in enumerate(self.limits):
            tenth = np.searchsorted(limits, content.numbers[:, column], side="right")
            blocks.append(np.eye(len(limits) + 1)[tenth])
        return np.concatenate(blocks, axis=1, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ContentMap:
    """The regression: a mean, and what features add to it.

    Attributes:
        features: of content.
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
        cls,
        features: ContentFeatures,
        *,
        table: ItemContent,
        known: IntArray,
        weights: Array,
        embeddings: NDArray[np.floating[Any]],
    ) -> Self:
        """Fit on known items.

        Args:
            features: of content.
            table: of all R rows.
            known: [K] ItemRow, at least one.
            weights: [K] above 0, how much each counts.
            embeddings: [K, D].
        """
        weights = weights / weights.mean()
        total = float(len(known))
        mean: Array = weights @ embeddings / total
        blocks = [slice(start, start + BLOCK) for start in range(0, len(known), BLOCK)]
        centre = np.sum([weights[block] @ features.of(table.take(known[block])) for block in blocks], axis=0) / total
        gram, product = np.zeros((len(centre), len(centre))), np.zeros((len(centre), len(mean)))
        for block in blocks:
            centred = features.of(table.take(known[block])) - centre
            weighted = (centred * weights[block, None]).T
            gram += weighted @ centred
            product += weighted @ (embeddings[block] - mean)
        gram[np.diag_indices_from(gram)] += REGULARISATION
        return cls(features, centre, mean, np.linalg.solve(gram, product).astype(np.float64))

    def of(self, content: ItemContent) -> NDArray[np.float32]:
        """Embeddings [P, D] of items by their content."""
        blocks = [content.take(slice(start, start + BLOCK)) for start in range(0, len(content), BLOCK)]
        found = [self.mean + (self.features.of(block) - self.centre) @ self.coefficients for block in blocks]
        return np.concatenate([np.zeros((0, len(self.mean))), *found]).astype(np.float32)

    def write(self, path: Path) -> None:
        """Write an npz file."""
        of_columns: dict[str, Any] = {f"{VALUES}{column}": kept for column, kept in enumerate(self.features.values)}
        of_columns |= {f"{LIMITS}{column}": limits for column, limits in enumerate(self.features.limits)}
        np.savez(
            path,
            text_mean=self.features.text_mean,
            text_norm=np.float64(self.features.text_norm),
            centre=self.centre,
            mean=self.mean,
            coefficients=self.coefficients,
            **of_columns,
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The reverse of `write`."""
        with np.load(path, allow_pickle=False) as arrays:

            def numbered(name: str) -> tuple[NDArray[Any], ...]:
                count = sum(key.startswith(name) for key in arrays.files)
                return tuple(arrays[f"{name}{column}"] for column in range(count))

            features = ContentFeatures(
                values=numbered(VALUES),
                limits=numbered(LIMITS),
                text_mean=arrays["text_mean"],
                text_norm=float(arrays["text_norm"]),
            )
            return cls(features, arrays["centre"], arrays["mean"], arrays["coefficients"])
