from dataclasses import fields

import numpy as np

from features.tower_inputs import QueryTowerInputs, read_as_encoded
from tests.features.by_hand import a_query, encoded, together


def test_what_is_read_as_encoded_stands_between_the_items_embeddings_and_the_text_in_the_order_of_the_fields():
    names = [field.name for field in fields(QueryTowerInputs)]
    assert names == ["history_embeddings", *read_as_encoded(encoded(a_query("ab"))), "query_text"]


def test_arrays_are_those_of_the_encoded_queries():
    inputs = encoded(together(a_query("ab", values=[3.0, 5.0]), a_query(gender="M", age=45.0)))
    read = read_as_encoded(inputs)
    for name in ("history_mask", "history_events", "history_values", "history_gap_days"):
        np.testing.assert_array_equal(read[name], getattr(inputs, name), err_msg=name)
    np.testing.assert_array_equal(read["query_categories"], inputs.categories)
    np.testing.assert_array_equal(read["query_numbers"], inputs.numbers)


def test_arrays_come_by_name_in_the_order_of_the_fields():
    inputs = QueryTowerInputs(*range(8))
    assert list(inputs.by_name.items()) == [(field.name, place) for place, field in enumerate(fields(inputs))]
