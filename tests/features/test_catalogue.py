import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.catalogue import Catalogue, ItemColumns
from features.errors import FeaturesError
from features.vocab import FIRST, PADDING, UNKNOWN


def test_items_stand_in_their_order_after_padding_and_unknown():
    catalogue = Catalogue(("b", "a"))
    assert catalogue.rows(["b", "a", "never seen", ""]).tolist() == [FIRST, FIRST + 1, UNKNOWN, PADDING]
    assert len(catalogue) == 4  # padding, unknown, b, a


def test_padding_and_unknown_are_no_items():
    catalogue = Catalogue(("b", "a"))
    assert [catalogue.item_id(row) for row in range(4)] == ["", "", "b", "a"]


def test_a_row_beyond_the_catalogue_is_an_error():
    with pytest.raises(IndexError):
        Catalogue(("b", "a")).item_id(4)


def test_an_empty_catalogue_knows_nothing():
    assert Catalogue(()).rows(["a"]).tolist() == [UNKNOWN]
    assert len(Catalogue(())) == FIRST


@given(st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=20))
def test_every_item_leads_to_its_row_and_back(item_ids):
    catalogue = Catalogue(tuple(item_ids))
    rows = catalogue.rows(item_ids).tolist()
    assert rows == list(range(FIRST, len(catalogue)))
    assert [catalogue.item_id(row) for row in rows] == item_ids
    assert [catalogue.row(item_id) for item_id in item_ids] == rows


def test_an_item_that_stands_twice_is_refused_with_both_counts():
    with pytest.raises(FeaturesError, match="got 3 ids of which 2 are distinct: remove the duplicates"):
        Catalogue(("a", "b", "a"))


def test_some_items_keep_their_columns():
    columns = ItemColumns(
        catalogue=Catalogue(("b", "a", "c")),
        categories={"colour": [["red"], [], ["green"]]},
        numbers={"size": np.array([1.0, np.nan, 3.0])},
        texts={"title": ["B", "A", "C"]},
    )
    some = columns.take(np.array([2, 0]))
    assert some.catalogue.item_ids == ("c", "b")
    assert some.categories == {"colour": [["green"], ["red"]]}
    assert some.numbers["size"].tolist() == [3.0, 1.0]
    assert some.texts == {"title": ["C", "B"]}
