import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.runtime.calibration import Calibration

THREE = Calibration(knots=np.array([-1.0, 0.0, 2.0]), logits=np.log([0.25, 1.0, 4.0]))


def test_probabilities_match_hand_computation():
    # odds 1/4, 1 and 4 at the knots are .2, .5 and .8; halfway up the last piece the odds are 4 ** .5 = 2
    got = THREE.probabilities(np.array([-1.0, 0.0, 2.0, 1.0, -0.5]))
    np.testing.assert_allclose(got, [0.2, 0.5, 0.8, 2 / 3, 1 / 3], rtol=1e-6)


def test_what_lies_outside_has_the_probability_of_the_next_knot_and_what_is_no_number_that_of_the_worst():
    got = THREE.probabilities(np.array([[-9.0, 9.0, np.inf, -np.inf, np.nan]], dtype=np.float32))
    np.testing.assert_allclose(got, [[0.2, 0.8, 0.8, 0.2, 0.2]], rtol=1e-6)
    assert got.dtype == np.float32


def test_one_knot_is_a_constant():
    constant = Calibration(knots=np.array([1.0]), logits=np.array([0.0]))
    assert constant.probabilities(np.array([0.0, 1.0, 2.0, np.nan])).tolist() == [0.5] * 4


@given(
    knots=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=6, unique=True),
    logits=st.lists(st.floats(-20, 20), min_size=6, max_size=6),
    scores=st.lists(st.floats(width=32), min_size=2, max_size=40),
)
def test_it_never_falls_and_is_always_a_probability(knots, logits, scores):
    calibration = Calibration(knots=np.sort(knots), logits=np.sort(logits[: len(knots)]))
    ordered = np.sort(np.where(np.isnan(scores), -np.inf, scores))
    got = calibration.probabilities(np.concatenate([ordered, calibration.knots]))
    assert ((got >= 0) & (got <= 1)).all()
    assert (np.diff(calibration.probabilities(np.sort(np.concatenate([ordered, calibration.knots])))) >= 0).all()


def test_what_is_written_is_read(tmp_path: Path):
    THREE.write(tmp_path / "calibration.json")
    again = Calibration.read(tmp_path / "calibration.json")
    scores = np.linspace(-2, 3, 50)
    assert again.probabilities(scores).tolist() == THREE.probabilities(scores).tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"knots": [0.0, 1.0], "logits": [0.0]}, "expected as many logits as knots"),
        ({"knots": [], "logits": []}, "expected as many logits as knots, one or more"),
        ({"knots": [0.0, 0.0], "logits": [0.0, 1.0]}, "finite ascending knots"),
        ({"knots": [0.0, 1.0], "logits": [1.0, 0.0]}, "logits that never fall"),
        ({"knots": [0.0, 1.0], "logits": [0.0, float("nan")]}, "expected finite"),
        ({"knots": [0.0, 1.0]}, "'logits'"),
        ([1.0], "holds no calibration"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: object, message: str):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"calibration.json holds no calibration.*{message}|{message}"):
        Calibration.read(path)
