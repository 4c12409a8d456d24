from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.frontier import affordable, cost_ms, frontier_figure


def a_row(ranker: str, num: int, value: float, *, slope: float = 0.1, served_by: str = "ranker/student=x"):
    times = {f"cpu_ms_{timed}": 1.0 + slope * timed for timed in (50, 100, 200)}
    return {
        "ranker": ranker,
        "precision": "fp32",
        "num_reordered": num,
        "ndcg@10": value,
        "low": value - 0.01,
        "high": value + 0.01,
        "num_queries": 90,
        "served_by": served_by,
        **times,
    }


TABLE = pd.DataFrame(
    [
        a_row("fused", 0, 0.10, served_by=""),
        a_row("quick", 50, 0.13),  # 1 + .1 * 50 = 6 ms
        a_row("quick", 100, 0.14),  # 11 ms
        a_row("good", 50, 0.16, slope=0.4),  # 21 ms
        a_row("good", 100, 0.17, slope=0.4),  # 41 ms
        a_row("of no release", 100, 0.18, served_by=""),
        {**a_row("never timed", 100, 0.5), "cpu_ms_50": np.nan, "cpu_ms_100": np.nan, "cpu_ms_200": np.nan},
    ]
)


def test_what_is_re_ordered_costs_what_was_timed_and_nothing_else_is_known() -> None:
    assert cost_ms(pd.Series(a_row("r", 100, 0.1))) == pytest.approx(11.0)
    assert cost_ms(pd.Series(a_row("r", 0, 0.1))) == 0.0
    assert np.isnan(cost_ms(pd.Series(a_row("r", 70, 0.1))))


@pytest.mark.parametrize(
    ("budget_ms", "expected"),
    [
        (50.0, ("good", 100)),
        (30.0, ("good", 50)),
        (20.0, ("quick", 100)),
        (8.0, ("quick", 50)),
    ],
)
def test_a_budget_buys_the_best_that_fits_it(budget_ms: float, expected: tuple[str, int]) -> None:
    best = affordable(TABLE, budget_ms=budget_ms)[0]
    assert (best.ranker, best.num_reordered) == expected
    assert best.ms <= budget_ms


def test_a_budget_that_is_too_small_buys_nothing() -> None:
    assert affordable(TABLE, budget_ms=1.0) == []


def test_what_no_release_can_be_made_of_is_not_offered(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "frontier.csv", index=False)  # where nothing is read back as a missing number
    for table in (TABLE, pd.read_csv(tmp_path / "frontier.csv")):
        assert "of no release" not in [choice.ranker for choice in affordable(table, budget_ms=99.0)]


def test_of_equal_quality_the_cheaper_comes_first() -> None:
    table = pd.DataFrame([a_row("dear", 100, 0.2, slope=0.2), a_row("cheap", 100, 0.2)])
    assert [choice.ranker for choice in affordable(table, budget_ms=99.0)] == ["cheap", "dear"]


def test_the_title_says_who_is_best_at_what_price() -> None:
    figure = frontier_figure(TABLE, num=100)
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "of no release is best at 11.0 ms: NDCG@10 0.180 (n = 90)"
    assert axes.get_xscale() == "log"
