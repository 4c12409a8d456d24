import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.runtime.calibration import Calibration

LINE = Calibration(slope=float(np.log(4.0)), intercept=float(np.log(0.25)))


def test_probabilities_match_hand_computation():
    # odds are 4 ** score / 4: 1/4 at 0, 1/2 at 1/2, 1 at 1 and 4 at 2
    got = LINE.probabilities(np.array([[0.0, 0.5], [1.0, 2.0]], dtype=np.float32))
    np.testing.assert_allclose(got, [[0.2, 1 / 3], [0.5, 0.8]], rtol=1e-6)
    assert got.dtype == np.float32


def test_a_score_that_is_not_finite_has_no_probability():
    np.testing.assert_array_equal(np.isnan(LINE.probabilities(np.array([np.nan, np.inf, -np.inf, 0.0]))), [1, 1, 1, 0])


@given(
    slope=st.floats(0, 1e3),
    intercept=st.floats(-50, 50),
    scores=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=40),
)
def test_it_never_falls_and_is_always_a_probability(slope, intercept, scores):
    got = Calibration(slope=slope, intercept=intercept).probabilities(np.sort(np.array(scores, dtype=np.float32)))
    assert ((got >= 0) & (got <= 1)).all()
    assert (np.diff(got) >= 0).all()


def test_what_is_written_is_read(tmp_path: Path):
    LINE.write(tmp_path / "calibration.json")
    assert Calibration.read(tmp_path / "calibration.json") == LINE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"slope": -1.0, "intercept": 0.0}, "a finite slope of at least 0 .* got -1.0 and 0.0; train the ranker again"),
        ({"slope": 1.0, "intercept": float("nan")}, "a finite intercept"),
        ({"slope": 1.0}, "'intercept'"),
        ({"slope": None, "intercept": 0.0}, "float"),
        ([1.0], "list indices"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: object, message: str):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"calibration.json holds no calibration: .*{message}"):
        Calibration.read(path)
