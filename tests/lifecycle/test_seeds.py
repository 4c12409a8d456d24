from dataclasses import replace

from evaluation.report import Comparison, Report, SliceReport
from evaluation.significance import Interval
from lifecycle.seeds import seeds_table


def report(ndcg: float, difference: tuple[float, float, float]) -> Report:
    value, low, high = difference
    return Report(
        dataset="d",
        split="s",
        num_queries=10,
        systems={
            "towers": {"ndcg@10": Interval(ndcg, ndcg - 0.01, ndcg + 0.01)},
            "popularity": {"ndcg@10": Interval(0.05, 0.04, 0.06)},
        },
        comparisons=(
            Comparison(
                system="towers",
                baseline="popularity",
                metric="ndcg@10",
                value=value,
                low=low,
                high=high,
                num_queries=10,
            ),
        ),
    )


def test_the_table_has_mean_and_range_and_counts_the_seeds_that_exclude_zero() -> None:
    reports = [
        report(0.10, (0.05, 0.01, 0.09)),  # above 0
        report(0.13, (0.08, -0.01, 0.17)),  # holds 0
        report(0.01, (-0.04, -0.08, -0.01)),  # below 0: excluded too
    ]
    lines = seeds_table(reports, metrics=("ndcg@10",)).splitlines()
    # (0.10 + 0.13 + 0.01) / 3 = 0.08
    assert lines[0].split() == ["system", "ndcg@10"]
    assert lines[1].split() == ["towers", "0.080", "(0.010-0.130)"]
    assert lines[2].split() == ["popularity", "0.050", "(0.050-0.050)"]
    assert lines[3] == "mean (lowest-highest) of 3 seeds"
    assert lines[4] == (
        "towers - popularity, ndcg@10: +0.050 (+0.010 to +0.090), +0.080 (-0.010 to +0.170), "
        "-0.040 (-0.080 to -0.010); 0 excluded for 2 of 3 seeds"
    )


def test_every_slice_has_its_own_table() -> None:
    part = SliceReport(
        num_queries=5, num_pairs=7, note="", systems={"towers": {"ndcg@10": Interval(0.2, 0.1, 0.3)}}, comparisons=()
    )
    better = replace(part, systems={"towers": {"ndcg@10": Interval(0.4, 0.3, 0.5)}})
    reports = [replace(report(0.1, (0.0, -0.1, 0.1)), slices={"cold queries": own}) for own in (part, better)]
    lines = seeds_table(reports, metrics=("ndcg@10",)).splitlines()
    after = lines[lines.index("cold queries") + 1 :]
    assert [line.split() for line in after] == [
        ["system", "ndcg@10"],
        ["towers", "0.300", "(0.200-0.400)"],
        ["mean", "(lowest-highest)", "of", "2", "seeds"],
    ]
