from typing import Any

import numpy as np
import pytest

from features.columns import FeatureColumns
from features.errors import FeaturesError
from features.spec import TextLayout
from features.stores.packing import History, pack_history
from features.stores.state_rows import StateColumns, decode_states

COLUMNS = StateColumns(categories=("gender",), numbers=("age",), text="says")


def feature_columns(*, query_text: str) -> FeatureColumns:
    return FeatureColumns(
        query_categories=("z", "a"),
        query_numbers=("y", "b"),
        query_text=query_text,
        item_categories=("genres",),
        item_numbers=("year",),
        item_texts=("title",),
    )


@pytest.mark.parametrize("query_text", ["", "says"])
def test_columns_are_the_query_features_that_come_from_the_dataset_in_their_order(query_text: str) -> None:
    spec = feature_columns(query_text=query_text).spec(text=TextLayout(query_tokens=4), ranker_features=())
    columns = StateColumns.of(spec)
    # What follows from a history, such as its length, is no attribute, though it is a number of the query.
    assert "history_count" in spec.names("query", "number")
    assert columns == StateColumns(categories=("z", "a"), numbers=("y", "b"), text=query_text)
    assert columns.attributes == ("says", "z", "a", "y", "b")[not query_text :]
    assert columns.features == ["history", "state_at_ms", "position", *columns.attributes]


def test_rows_become_features() -> None:
    history = History(item_ids=["i"], events=["buy"], values=[2.0], at_ms=[5])
    rows: dict[str, list[Any]] = {
        "history": [pack_history(history), None],
        "state_at_ms": [5, None],
        "position": [0, None],
        "says": ["words", None],
        "gender": ["F", None],
        "age": [30.0, None],
    }
    features, known = decode_states(rows, columns=COLUMNS, requested_at_ms=[7, 8])
    assert known == [True, False]
    assert (features.history_item_ids, features.history_events) == ([["i"], []], [["buy"], []])
    assert (features.history_values, features.history_at_ms) == ([[2.0], []], [[5], []])
    assert (features.texts, features.categories) == (["words", ""], [["F"], [""]])
    assert features.numbers[0] == [30.0]
    assert np.isnan(features.numbers[1][0])
    assert features.requested_at_ms == [7, 8]


def test_queries_without_a_text_say_nothing() -> None:
    columns = StateColumns(categories=(), numbers=())
    rows: dict[str, list[Any]] = {name: [None, None] for name in columns.features}
    features, _ = decode_states(rows, columns=columns, requested_at_ms=[1, 2])
    assert (features.texts, features.categories, features.numbers) == (["", ""], [[], []], [[], []])


@pytest.mark.parametrize("name", ["history", "age", "says", "two words"])
def test_attributes_need_names_of_their_own(name: str) -> None:
    with pytest.raises(FeaturesError, match=f"got '{name}'"):
        StateColumns(categories=(name,), numbers=("age",), text="says")
