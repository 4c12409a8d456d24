import pandas as pd

from evaluation.index_plots import curve_figure


def test_the_title_states_the_chosen_points_recall_and_speed() -> None:
    table = pd.DataFrame(
        {
            "type": ["ivf_flat", "ivf_flat", "hnsw"],
            "recall": [0.9, 0.96, 0.97],
            "low": [0.89, 0.95, 0.96],
            "ms": [0.1, 0.2, 0.4],
            "on_curve": [True, True, False],
            "is_chosen": [False, True, False],
        }
    )
    axes = curve_figure(table, target=0.95, exact_ms=1.0, num_queries=50).axes[0]
    assert axes.get_title(loc="left") == "ivf_flat has recall 0.960 at 0.200 ms, 5.0 times as fast as exact search"
    assert "processor ms" in axes.get_xlabel()
    assert "mean of 50 queries" in axes.get_ylabel()
