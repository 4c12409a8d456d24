import pandas as pd

from evaluation.index_plots import curve_figure, speeds_figure, unbeaten


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


def test_of_several_searches_the_fastest_at_the_first_target_is_named_and_beaten_points_are_left_out() -> None:
    table = pd.DataFrame(
        {
            "search": ["one", "one", "one", "other"],
            "recall": [0.90, 0.92, 0.96, 0.97],
            "speed_up": [10.0, 12.0, 6.0, 8.0],
        }
    ).assign(speed_low=1.0, speed_high=20.0)
    # The point of .90 is slower than that of .92, which finds more.
    assert unbeaten(table[table["search"] == "one"])["recall"].tolist() == [0.92, 0.96]
    axes = speeds_figure(table, name="even", k=10, targets=[0.95, 0.99]).axes[0]
    assert axes.get_title(loc="left") == "even: at recall 0.95 other is the fastest, 8.0 times exact search"
    assert "recall@10" in axes.get_xlabel()
