import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.errors import ParityFailed
from evaluation.tally import MAX_EXAMPLES, ParityTally


def test_equal_parts_are_counted_by_feature():
    tally = ParityTally(columns={"dense": ["age", "count"]})
    for part in range(3):
        arrays = {"dense": np.full((4, 5, 2), np.nan, dtype=np.float32), "rows": np.arange(4) + part}
        tally.add(offline=arrays, serving={name: array.copy() for name, array in arrays.items()}, keys=["q"] * 4)
    tally.report.check(float_tolerance=0.0)
    assert str(tally.report).splitlines() == [
        "dense.age: 12 events compared, 0 differ",
        "dense.count: 12 events compared, 0 differ",
        "rows: 12 events compared, 0 differ",
    ]


def test_what_differs_is_named_by_feature_event_place_and_both_values():
    tally = ParityTally(columns={"dense": ["age", "count"]})
    first = {"dense": np.zeros((2, 3, 2), dtype=np.float32), "rows": np.zeros((2, 4), dtype=np.int64)}
    second = {name: array.copy() for name, array in first.items()}
    second["dense"][1, 2, 1] = 0.5
    second["rows"][0, 3] = 7
    tally.add(offline=first, serving=second, keys=["query a, event 0", "query b, event 9"])
    tally.add(offline=first, serving=first, keys=["", ""])
    with pytest.raises(ParityFailed) as raised:
        tally.report.check(float_tolerance=0.0)
    assert str(raised.value).splitlines() == [
        "2 of 3 fields differ between offline and online:",
        "  dense.count: 1 of 4 events differ",
        "    query b, event 9 at [2]: offline 0.0, online 0.5",
        "  rows: 1 of 4 events differ",
        "    query a, event 0 at [3]: offline 0, online 7",
    ]


def test_a_value_alone_has_no_place_and_few_examples_are_kept():
    tally = ParityTally(columns={})
    for part in range(4):
        keys = [f"event {2 * part}", f"event {2 * part + 1}"]
        tally.add(offline={"x": np.array([1, 2])}, serving={"x": np.array([1, 3])}, keys=keys)
    (field,) = tally.report.fields
    assert (field.num_compared, field.num_different) == (8, 4)
    assert field.examples == tuple(f"event {n}: offline 2, online 3" for n in (1, 3, 5))
    assert len(field.examples) == MAX_EXAMPLES


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.array([1.0], dtype=np.float32), np.array([np.nextafter(np.float32(1.0), np.float32(2.0))])),
        (np.array([0.0]), np.array([-0.0])),
        (np.array([np.nan]), np.array([0.0])),
        (np.array(["a"]), np.array(["b"])),
    ],
    ids=["the last bit", "the sign of zero", "a missing number", "a text"],
)
def test_the_smallest_difference_counts(first, second):
    tally = ParityTally(columns={})
    tally.add(offline={"x": first}, serving={"x": second}, keys=["q"])
    assert tally.report.fields[0].num_different == 1


def test_arrays_that_cannot_be_compared_fail_in_all_their_events():
    tally = ParityTally(columns={"wide": ["a", "b"]})
    whole = {"wide": np.zeros((2, 2)), "typed": np.zeros(2), "gone": np.zeros(2)}
    tally.add(
        offline=whole, serving={"wide": np.zeros((2, 3)), "typed": np.zeros(2, dtype=np.float32)}, keys=["p", "q"]
    )
    with pytest.raises(ParityFailed) as raised:
        tally.report.check(float_tolerance=0.0)
    lines = str(raised.value).splitlines()
    assert "  gone: 2 of 2 events differ" in lines
    assert "    missing from online" in lines
    assert "    float64 [2] against float32 [2]" in lines
    assert "    float64 [2, 2] against float64 [2, 3]" in lines


def test_nothing_compared_does_not_pass():
    with pytest.raises(ParityFailed, match="nothing was compared"):
        ParityTally(columns={}).report.check(float_tolerance=0.0)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.data())
def test_parts_add_up_to_the_whole(values, data):
    array = np.array(values, dtype=np.float32)
    cut = data.draw(st.integers(0, len(values)))
    changed = np.where(np.arange(len(values)) % 2, array, array + np.float32(1.0))
    whole, parts = ParityTally(columns={}), ParityTally(columns={})
    keys = [str(n) for n in range(len(values))]
    whole.add(offline={"x": array}, serving={"x": changed}, keys=keys)
    for part in (slice(0, cut), slice(cut, None)):
        parts.add(offline={"x": array[part]}, serving={"x": changed[part]}, keys=keys[part])
    assert whole.report == parts.report
