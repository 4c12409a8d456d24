import numpy as np
import pandas as pd
import pytest

from evaluation.frontier import affordable, cost_ms, frontier_figure


def a_row(ranker: str, num: int, value: float, *, slope: float = 0.1, start: float = 1.0, precision: str = "fp32"):
    times = {f"cpu_ms_{timed}": start + slope * timed for timed in (50, 100, 200)}
    return {
        "ranker": ranker,
        "precision": precision,
        "num_reordered": num,
        "ndcg@10": value,
        "low": value - 0.01,
        "high": value + 0.01,
        "num_queries": 90,
        **times,
    }


TABLE = pd.DataFrame(
    [
        a_row("fused", 0, 0.10, slope=0.0, start=0.0),
        a_row("quick", 50, 0.13),  # 1 + .1 * 50 = 6 ms
        a_row("quick", 100, 0.14),  # 11 ms
        a_row("good", 50, 0.16, slope=0.4),  # 21 ms
        a_row("good", 100, 0.17, slope=0.4),  # 41 ms
        {**a_row("never timed", 100, 0.5), "cpu_ms_50": np.nan, "cpu_ms_100": np.nan, "cpu_ms_200": np.nan},
    ]
)


def test_time_lies_on_the_line_through_what_was_timed() -> None:
    assert cost_ms(pd.Series(a_row("r", 100, 0.1)), 100) == pytest.approx(11.0)
    assert cost_ms(pd.Series(a_row("r", 100, 0.1)), 400) == pytest.approx(41.0)


@pytest.mark.parametrize(
    ("budget_ms", "expected"),
    [
        (50.0, ("good", 100)),
        (30.0, ("good", 50)),
        (20.0, ("quick", 100)),
        (8.0, ("quick", 50)),
        (1.0, ("fused", 0)),
    ],
)
def test_a_budget_buys_the_best_that_fits_it(budget_ms: float, expected: tuple[str, int]) -> None:
    best = affordable(TABLE, budget_ms=budget_ms)[0]
    assert (best.ranker, best.num_reordered) == expected
    assert best.ms <= budget_ms


def test_of_equal_quality_the_cheaper_comes_first() -> None:
    table = pd.DataFrame([a_row("dear", 100, 0.2, slope=0.2), a_row("cheap", 100, 0.2)])
    assert [choice.ranker for choice in affordable(table, budget_ms=99.0)] == ["cheap", "dear"]


def test_the_title_says_who_is_best_at_what_price() -> None:
    figure = frontier_figure(TABLE, num=100)
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "good is best at 41.0 ms: NDCG@10 0.170 (n = 90)"
    assert axes.get_xscale() == "log"
