import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.copies import are_distinct, codes, encode, later_copies


def later(keys: list[list[int]], *, rows: list[int], among: list[bool]) -> list[bool]:
    columns = [np.array(key, dtype=np.int64) for key in keys]
    return later_copies(columns, source_rows=np.array(rows), among=np.array(among, dtype=np.bool_)).tolist()


def test_only_rows_that_agree_in_every_key_are_copies_and_the_first_source_row_is_none():
    # Rows 0, 2 and 4 are (1, 5); row 4 stood first in the source.
    assert later([[1, 1, 1, 2, 1], [5, 6, 5, 5, 5]], rows=[3, 1, 2, 4, 0], among=[True] * 5) == [
        *(True, False, True),
        *(False, False),
    ]


def test_rows_that_are_not_among_those_compared_neither_are_copies_nor_have_any():
    assert later([[1, 1, 1]], rows=[0, 1, 2], among=[False, True, True]) == [False, False, True]


rows = st.lists(st.tuples(st.integers(-2, 2), st.sampled_from([0, 2**40]), st.booleans()), max_size=12)


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_copies_are_those_of_a_comparison_one_by_one(rows, random):
    places = random.sample(range(len(rows)), len(rows))
    expected = [
        among
        and any(other[:2] == (one, two) and other[2] and place < own for other, place in zip(rows, places, strict=True))
        for (one, two, among), own in zip(rows, places, strict=True)
    ]
    keys = [[row[0] for row in rows], [row[1] for row in rows]]
    assert later(keys, rows=places, among=[row[2] for row in rows]) == expected


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "é", None]), max_size=8), st.integers(0, 8))
def test_encoded_strings_are_the_same_whatever_the_chunks(values, cut):
    whole = pa.chunked_array([pa.array(values, pa.string())])
    parts = pa.chunked_array([whole.slice(0, cut).combine_chunks(), whole.slice(cut).combine_chunks()])
    encoded = encode(parts)
    assert encoded.cast(pa.string()).to_pylist() == values
    numbers = codes(encoded)
    for one, first in zip(numbers, values, strict=True):
        for other, second in zip(numbers, values, strict=True):
            assert None in (first, second) or (one == other) == (first == second)


def test_equal_numbers_and_instants_have_equal_codes_and_others_have_not():
    # 0.1, the next number above it, 0.1 again, and two zeros
    one, above, same, zero, minus_zero = codes(pa.chunked_array([[0.1, np.nextafter(0.1, 1), 0.1, 0.0, -0.0]]))
    assert one == same != above
    assert zero == minus_zero != one
    instants = pa.chunked_array([pa.array([5, 6, 5], pa.timestamp("ms", tz="UTC"))])
    assert codes(instants).tolist() == [5, 6, 5]


@pytest.mark.parametrize(
    ("rows", "distinct"), [([0, 1, 5], True), ([5, 1, 0], True), ([0, 1, 1], False), ([1, 0, 1], False), ([], True)]
)
def test_integers_are_distinct_in_any_order(rows, distinct):
    assert are_distinct(pa.chunked_array([pa.array(rows, pa.int64())])) is distinct
    assert not are_distinct(pa.chunked_array([pa.array([*rows, None], pa.int64())]))
