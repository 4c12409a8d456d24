import numpy as np
import pandas as pd
import pytest

from lifecycle.growth import COLUMNS, growth_figure, judge, medians, per_million


def runs(costs: dict[int, list[float]], *, gb: dict[int, float] | None = None, ended: str = "well") -> pd.DataFrame:
    """Runs of one system by number of events; by default a GB for each million events."""
    rows = [
        ("ours", size, run, ended, cpu_s * 2, cpu_s, (gb or {}).get(size, size / 1e6))
        for size, values in costs.items()
        for run, cpu_s in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_a_point_is_the_median_of_its_runs_with_the_lowest_and_the_highest():
    found = medians(runs({1_000_000: [3.0, 1.0, 2.0]})).to_dict("records")[0]
    assert [found[f"cpu_s_{name}"] for name in ("median", "min", "max")] == [2.0, 1.0, 3.0]
    assert found["wall_s_median"] == 4.0


def test_a_million_more_is_counted_between_neighbours_so_that_a_constant_cost_is_no_part_of_it():
    # 2 s to begin with, then 3 s a million: 2.3, 5 and 32 s
    table = runs({100_000: [2.3], 1_000_000: [5.0], 10_000_000: [32.0]})
    np.testing.assert_allclose(per_million(table, system="ours", cost="cpu_s"), [3.0, 3.0])
    judged = judge(table, system="ours", linear_ratio=1.0 + 1e-9)
    assert judged.is_linear
    assert judged.finding == (
        "ours: a million events more cost 3.0 s and 1.00 GB in a short log, 3.0 s and 1.00 GB in a long one: linear"
    )


def test_growth_with_the_square_is_not_linear_in_time_or_in_memory():
    sizes = [1_000_000, 2_000_000, 4_000_000]
    square = {size: [(size / 1e6) ** 2] for size in sizes}
    # From 1 to 2 million 3 s a million, from 2 to 4 million 12 / 2 = 6
    np.testing.assert_allclose(per_million(runs(square), system="ours", cost="cpu_s"), [3.0, 6.0])
    assert not judge(runs(square), system="ours", linear_ratio=1.9).is_linear
    assert judge(runs(square), system="ours", linear_ratio=2.0).is_linear
    straight = {size: [size / 1e6] for size in sizes}
    in_memory = runs(straight, gb={size: (size / 1e6) ** 2 for size in sizes})
    assert judge(in_memory, system="ours", linear_ratio=1.9).finding.endswith(": not linear")


def test_a_run_that_did_not_end_well_is_no_point_and_no_linear_growth():
    well, bad = runs({1: [1.0], 10: [10.0]}), runs({100: [1.0]}, ended="out of memory")
    table = pd.concat([well, bad])
    assert medians(table)["num_events"].tolist() == [1, 10]
    judged = judge(table, system="ours", linear_ratio=2.0)
    assert (judged.is_linear, judged.finding) == (False, "ours: not every run ended well: out of memory")


def test_two_sizes_are_too_few_to_judge():
    with pytest.raises(ValueError, match="expected three sizes or more to judge growth, got 2"):
        judge(runs({1: [1.0], 2: [2.0]}), system="ours", linear_ratio=2.0)


def test_the_figure_has_a_panel_a_cost_with_units_and_a_line_a_system():
    ours = runs({100_000: [2.3, 2.4], 1_000_000: [5.0, 5.1], 10_000_000: [32.0, 31.0]})
    peer = ours.assign(system="peer", ended=["well"] * 4 + ["out of memory"] * 2)
    figure = growth_figure(pd.concat([ours, peer]), finding="ours is linear")
    cpu, memory = figure.axes
    assert (cpu.get_ylabel(), memory.get_ylabel()) == ("processor time in s", "peak memory in GB")
    assert [text.get_text() for text in cpu.get_legend().get_texts()] == [
        "ours",
        "peer",
        "in proportion to the events",
    ]
    lengths = {line.get_label(): len(line.get_xdata()) for line in memory.lines}
    assert (lengths["ours"], lengths["peer"]) == (3, 2)
    assert figure._suptitle.get_text() == "ours is linear (n = up to 2 runs a point)"


def test_a_long_title_goes_on_in_a_second_line_rather_than_off_the_figure():
    figure = growth_figure(runs({1: [1.0], 10: [10.0], 100: [100.0]}), finding="word " * 30 + "end")
    # "(n = up to 1 runs a point)" follows: 180 characters with the blanks, on lines of at most 110
    lines = figure._suptitle.get_text().split("\n")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 110
