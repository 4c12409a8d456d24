import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.errors import ParityFailed
from evaluation.parity import compare


def test_identical_arrays_pass_and_say_how_much_was_compared():
    arrays = {"ids": np.array([1, 2, 3]), "ages": np.array([0.5, np.nan]), "names": np.array(["a", "b"])}
    report = compare(offline=arrays, serving={name: array.copy() for name, array in arrays.items()})
    report.check(float_tolerance=0.0)
    assert {field.name: field.num_compared for field in report.fields} == {"ids": 3, "ages": 2, "names": 2}
    assert str(report).splitlines()[0] == "ages: 2 compared, 0 differ, by at most 0"


def test_one_different_id_fails_however_large_the_tolerance():
    report = compare(offline={"ids": np.array([1, 2, 3])}, serving={"ids": np.array([1, 2, 4])})
    assert report.fields[0].num_different == 1
    with pytest.raises(ParityFailed, match="ids: 1 of 3 values differ"):
        report.check(float_tolerance=1e9)


def test_floats_may_differ_by_the_tolerance_and_no_more():
    # 1.0 against 1.0 + 5e-5: within 1e-4, beyond 1e-5
    report = compare(offline={"x": np.array([1.0])}, serving={"x": np.array([1.0 + 5e-5])})
    assert report.fields[0].max_abs_difference == pytest.approx(5e-5)
    report.check(float_tolerance=1e-4)
    with pytest.raises(ParityFailed, match="x: largest difference 5e-05, allowed 1e-05"):
        report.check(float_tolerance=1e-5)


def test_a_nan_on_one_side_only_is_an_infinite_difference():
    report = compare(offline={"x": np.array([np.nan, np.inf])}, serving={"x": np.array([np.nan, 1.0])})
    assert report.fields[0].num_different == 1
    assert report.fields[0].max_abs_difference == np.inf


def test_every_field_that_differs_has_its_line():
    offline = {"a": np.array([1]), "b": np.array([1.0]), "c": np.array(["x"]), "d": np.zeros((2, 3))}
    serving = {"a": np.array([1.0]), "c": np.array(["y"]), "d": np.zeros((3, 2)), "e": np.array([1])}
    report = compare(offline=offline, serving=serving, offline_name="torch", serving_name="onnxruntime")
    with pytest.raises(ParityFailed) as raised:
        report.check()
    assert str(raised.value).splitlines() == [
        "5 of 5 fields differ between torch and onnxruntime:",
        "  a: type int64 against float64",
        "  b: missing from onnxruntime",
        "  c: 1 of 1 values differ",
        "  d: shape (2, 3) against (3, 2)",
        "  e: missing from torch",
    ]


def test_integers_of_another_width_and_strings_of_another_container_are_the_same_values():
    offline = {"ids": np.array([1, 2], dtype=np.int32), "names": np.array(["a", "bc"], dtype=object)}
    serving = {"ids": np.array([1, 2], dtype=np.int64), "names": np.array(["a", "bc"])}
    compare(offline=offline, serving=serving).check()


def test_a_comparison_of_nothing_does_not_pass():
    with pytest.raises(ParityFailed, match="nothing was compared"):
        compare(offline={}, serving={}).check()
    with pytest.raises(ParityFailed, match="nothing was compared"):
        compare(offline={"x": np.zeros((0, 4))}, serving={"x": np.zeros((0, 4))}).check()


@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=20))
def test_an_array_is_always_the_same_as_itself(values):
    array = np.array(values, dtype=np.float32)
    compare(offline={"x": array}, serving={"x": array.astype(np.float64)}).check(float_tolerance=0.0)
