import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from evaluation.plots import save_plot, systems_figure, systems_table
from evaluation.report import Report, SliceReport
from evaluation.significance import Interval

REPORT = Report(
    dataset="tiny",
    split="test",
    num_queries=943,
    systems={
        "popularity": {"ndcg@10": Interval(0.045, 0.035, 0.056)},
        "towers": {"ndcg@10": Interval(0.09, 0.076, 0.105)},
        "teacher": {"ndcg@10": Interval(0.2, 0.1, 0.3)},
        "index": {"recall@100": Interval(0.99, 0.98, 1.0)},
    },
    notes={"teacher": "on a stated sample of 64 queries"},
    slices={
        "cold queries": SliceReport(
            num_queries=7, num_pairs=9, note="", systems={"towers": {"ndcg@10": Interval(0.02, 0.01, 0.03)}}
        )
    },
)


def test_the_table_holds_the_systems_that_have_the_metric_best_first():
    table = systems_table(REPORT)
    assert table["system"].tolist() == ["teacher", "towers", "popularity"]
    assert table["num_queries"].unique().tolist() == [943]


def test_the_figure_states_finding_interval_and_number_of_queries():
    (axes,) = systems_figure(systems_table(REPORT)).axes
    # the teacher was measured on a sample, so it is not called the best
    assert axes.get_title(loc="left") == "towers has the highest NDCG@10: 0.090 (0.076-0.105)"
    assert axes.get_xlabel() == "NDCG@10, mean over queries with 95 % interval (n = 943 queries, all pairs)"
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "teacher\n(on a stated sample of 64 queries)",
        "towers",
        "popularity",
    ]


def test_another_slice_has_its_own_table_and_figure():
    table = systems_table(REPORT, name="cold queries")
    assert table[["system", "value", "num_queries", "slice"]].to_numpy().tolist() == [
        ["towers", 0.02, 7, "cold queries"]
    ]
    (axes,) = systems_figure(table).axes
    assert axes.get_xlabel() == "NDCG@10, mean over queries with 95 % interval (n = 7 queries, cold queries)"


def test_a_finding_of_the_caller_becomes_the_title():
    (axes,) = systems_figure(systems_table(REPORT), finding="towers beat popularity").axes
    assert axes.get_title(loc="left") == "towers beat popularity"


def test_a_saved_plot_is_a_png_with_its_table_beside_it(tmp_path: Path):
    table = systems_table(REPORT)
    path = tmp_path / "plots" / "systems.png"
    save_plot(systems_figure(table), table=table, path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    read = pd.read_csv(path.with_suffix(".csv"), keep_default_na=False)
    pd.testing.assert_frame_equal(read, table)
    assert sorted(file.name for file in path.parent.iterdir()) == ["systems.csv", "systems.png"]


def test_only_png_is_written(tmp_path: Path):
    table = systems_table(REPORT)
    with pytest.raises(ValueError, match=r"saved as \.png"):
        save_plot(systems_figure(table), table=table, path=tmp_path / "systems.pdf")


def test_importing_the_module_starts_no_plotting_backend():
    code = "import evaluation.plots, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
