import sys

import pandas as pd
import pytest

from lifecycle.training_growth import Growth, Point, finding, growth_figure
from lifecycle.turns import TraineeFailed

ENDLESS = """
import sys
from lifecycle.turns import Turns
turns = Turns(turn_s=0.0)
turns.begin()
while True:
    turns.step(num_targets=int(sys.argv[1].split("=")[1]))
"""


def growth(tmp_path, code):
    command = [sys.executable, "-c", code, "{grows}={value}", "{loss}"]
    return Growth(command=command, warm_up=1, turns=2, num_threads=1, out_dir=tmp_path)


def test_a_point_is_a_process_whose_first_turns_do_not_count(tmp_path):
    rows = list(growth(tmp_path, ENDLESS).measured(Point(grows="num_items", value=10, loss="sampled_softmax")))
    assert [(row["grows"], row["value"], row["loss"], row["num_steps"]) for row in rows] == [
        ("num_items", 10, "sampled_softmax", 1)
    ] * 2
    assert (tmp_path / "num_items_10_sampled_softmax.log").is_file()


def test_a_training_that_fails_is_named(tmp_path):
    with pytest.raises(TraineeFailed, match="num_items_10_full_softmax ended with code 1"):
        list(growth(tmp_path, "raise SystemExit(1)").measured(Point("num_items", 10, "full_softmax")))


def table():
    points = [("num_items", value, "sampled_softmax", cost) for value, cost in ((1000, 10.0), (1_000_000, 40.0))]
    points += [("num_items", 1000, "full_softmax", 20.0)]
    points += [("history_length", value, "sampled_softmax", cost) for value, cost in ((20, 5.0), (500, 50.0))]
    return pd.DataFrame(
        {"grows": grows, "value": value, "loss": loss, "step_cpu_ms": cost, "peak_gb": 1.0}
        for grows, value, loss, cost in points
    )


def test_the_finding_has_the_largest_point_beside_the_smallest():
    # 40 / 10 = 4 and 50 / 5 = 10 times the time, the memory always the same
    assert finding(table()) == (
        "sampled softmax: from 1,000 to 1,000,000 items a step takes 4.0 times the time and 1.0 times the memory; "
        "from 20 to 500 events of a history a step takes 10.0 times the time and 1.0 times the memory"
    )


def test_the_figure_has_a_panel_for_each_cost_by_each_thing_that_grows():
    figure = growth_figure(table(), finding="it grows")
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    time, memory = "processor time of a step in ms", "peak memory in GB"
    length = "events of a history"
    assert labels == [("items", time), (length, time), ("items", memory), (length, memory)]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["sampled softmax", "full softmax"]
    assert figure._suptitle.get_text() == "it grows (n = up to 1 turns a point)"
