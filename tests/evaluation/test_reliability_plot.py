import numpy as np

from evaluation.calibration import Reliability, reliability
from evaluation.reliability_plot import reliability_figure, reliability_table

# Two lists of four candidates, of which the second lacks the last one. By probability: .1 .1 .2 .3 | .5 .6 .8
PROBABILITIES = np.array([[0.1, 0.6, 0.2, 0.8], [0.5, 0.1, 0.3, 0.9]])
OUTCOMES = np.array([[False, True, False, False], [True, False, False, False]])
PRESENT = np.array([[True] * 4, [True, True, True, False]])


def measured(*, num_bins: int) -> Reliability:
    generator = np.random.default_rng(0)
    return reliability(PROBABILITIES, OUTCOMES, present=PRESENT, generator=generator, num_bins=num_bins)


def test_the_table_and_the_figure_show_every_bin_with_its_interval() -> None:
    table = reliability_table({"student": measured(num_bins=2), "trees": measured(num_bins=3)})
    assert table[["system", "bin", "num_pairs"]].to_numpy().tolist() == [
        *(["student", 1, 4], ["student", 2, 3]),
        *(["trees", 1, 3], ["trees", 2, 2], ["trees", 3, 2]),
    ]
    (axes,) = reliability_figure(table, systems=["student", "trees"]).axes
    # .7 promised and none chosen, 1.9 promised and two chosen, of 7
    assert axes.get_title(loc="left").startswith(f"student: off by {(0.7 + 0.1) / 7:.5f} (")
    assert axes.get_xlabel() == "predicted probability, mean of a bin (n = 7 candidates of 2 lists)"
    drawn = {container.get_label(): container.lines[0].get_xdata().tolist() for container in axes.containers}
    np.testing.assert_allclose(drawn["student"], [0.7 / 4, 1.9 / 3])
    assert len(drawn["trees"]) == 3
