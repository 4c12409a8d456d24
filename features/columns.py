"""Which columns of a dataset become features: from a dataset's declaration to the FeatureSpec.

Owns the order in which features stand in the spec. How a value is computed is context.py's, statistics.py's and
transforms.py's business.
"""

from dataclasses import dataclass, replace
from typing import Literal

from features.context import CONTEXT
from features.errors import FeaturesError
from features.spec import DAY_MS, Feature, FeatureSpec, TextLayout
from features.statistics import STATISTICS
from features.vocab import EVENT, HISTORY_VALUE, ITEM_ID

HISTORY_SEQUENCES: tuple[tuple[str, Literal["int64", "float32"]], ...] = (
    ("history_item", "int64"),
    ("history_event", "int64"),
    (HISTORY_VALUE, "float32"),
    ("history_age_days", "float32"),
    ("history_gap_days", "float32"),
)


@dataclass(frozen=True)
class FeatureColumns:
    """Which raw columns become which features, and how long they may be; conf/features/*.yaml fills it."""

    query_categories: tuple[str, ...]
    query_numbers: tuple[str, ...]
    item_categories: tuple[str, ...]
    item_numbers: tuple[str, ...]
    item_texts: tuple[str, ...]
    query_text: str = ""
    history_length: int = 50
    stored_history: int = 1000
    category_length: int = 4
    min_category_count: int = 2
    tick_days: int = 1
    session_gap_minutes: int = 30
    repeats: bool = False

    def __post_init__(self) -> None:
        categories, numbers = (*self.query_categories, *self.item_categories), (*self.query_numbers, *self.item_numbers)
        reserved = sorted({EVENT, ITEM_ID} & {*categories} | {HISTORY_VALUE} & {*numbers})
        if reserved:
            raise FeaturesError(
                f"dataset.columns: a column cannot be called {' or '.join(reserved)}, which names a feature that "
                "every dataset has; rename the column in the dataset's source"
            )
        # What is fitted is kept by name: of two columns of one name the second would be read by the first's vocabulary.
        shared = sorted(
            {*self.query_categories} & {*self.item_categories} | {*self.query_numbers} & {*self.item_numbers}
        )
        if shared:
            raise FeaturesError(
                f"dataset.columns: {shared} are columns of one kind of queries and of items; rename one of each in the "
                "dataset's source"
            )

    def has_query_text(self, text: TextLayout) -> bool:
        """Whether queries say something that a spec with this layout reads."""
        return bool(self.query_text and text.query_tokens)

    def spec(self, *, text: TextLayout, ranker_features: tuple[str, ...]) -> FeatureSpec:
        """The spec of a dataset with these columns.

        Args:
            text: the ranker's token row; its query_tokens count only where queries have a text.
            ranker_features: names of the ranker's dense features, in stacking order.
        """
        if not self.query_text:
            text = replace(text, query_tokens=0)
        if not self.stored_history:
            text = replace(text, history_items=0)
        history_length = max(1, min(self.history_length, self.stored_history))  # an array has at least one place
        query_texts = [(self.query_text, text.query_tokens)] if text.query_tokens else []
        return FeatureSpec(
            features=(
                *(
                    Feature(name, "query", "sequence", dtype, origin="history", length=history_length)
                    for name, dtype in HISTORY_SEQUENCES
                ),
                *(Feature(name, "query", "category", "int64") for name in self.query_categories),
                *(Feature(name, "query", "number", "float32", default=None) for name in self.query_numbers),
                *(Feature(name, "query", "text", "int64", length=tokens) for name, tokens in query_texts),
                *(
                    Feature(name, "query", "number", "float32", origin=origin, default=0.0)
                    for name, origin in CONTEXT.items()
                ),
                Feature(ITEM_ID, "item", "id", "int64"),
                *(
                    Feature(name, "item", "category", "int64", length=self.category_length)
                    for name in self.item_categories
                ),
                *(Feature(name, "item", "number", "float32", default=None) for name in self.item_numbers),
                *(Feature(name, "item", "text", "int64", length=text.candidate_tokens) for name in self.item_texts),
                *(Feature(name, "item", "number", "float32", origin="tick", default=0.0) for name in STATISTICS),
                *(
                    Feature(name, "ranker", "number", "float32", origin="retriever", default=0.0)
                    for name in ranker_features
                ),
            ),
            text=text,
            tick_ms=self.tick_days * DAY_MS,
            stored_history=self.stored_history,
            session_gap_minutes=self.session_gap_minutes,
            repeats=self.repeats,
        )
