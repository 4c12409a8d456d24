from evaluation.group_plots import groups_figure, groups_table
from evaluation.report import Report, SliceReport
from evaluation.significance import Interval


def part(num_queries: int, **values: float) -> SliceReport:
    systems = {
        name: {"ndcg@10": Interval(value, value - 0.01, value + 0.02), "recall@100": Interval(0.5, 0.4, 0.6)}
        for name, value in values.items()
    }
    return SliceReport(num_queries=num_queries, num_pairs=2 * num_queries, note="", systems=systems)


KIND = "length of the history"
REPORT = Report(
    dataset="tiny",
    split="test",
    num_queries=30,
    systems={"towers": {"ndcg@10": Interval(0.1, 0.0, 0.2)}},
    groups={KIND: {"0": part(10, towers=0.05, popularity=0.08), "1-5": part(20, towers=0.125, popularity=0.06)}},
)


def test_the_table_holds_every_system_and_metric_of_every_group_in_order():
    table = groups_table(REPORT, kind=KIND)
    assert list(dict.fromkeys(table["group"])) == ["0", "1-5"]
    assert len(table) == 2 * 2 * 2
    rows = table[(table["system"] == "towers") & (table["metric"] == "ndcg@10")]
    assert rows[["value", "num_queries", "num_pairs"]].to_numpy().tolist() == [[0.05, 10, 20], [0.125, 20, 40]]


def test_the_figure_has_a_line_a_system_its_intervals_and_the_numbers_of_queries():
    table = groups_table(REPORT, kind=KIND)
    (axes,) = groups_figure(table, kind=KIND, systems=["towers", "popularity"]).axes
    assert axes.get_title(loc="left") == "NDCG@10 of towers: 0.050 at 0, 0.125 at 1-5"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0\nn = 10", "1-5\nn = 20"]
    assert axes.get_ylabel() == "NDCG@10, mean with 95 % interval"
    drawn = {container.get_label(): container.lines[0].get_ydata().tolist() for container in axes.containers}
    assert drawn == {"towers": [0.05, 0.125], "popularity": [0.08, 0.06]}
    (bars,) = axes.containers[0].lines[2]
    low_and_high = [[round(float(y), 3) for _, y in segment] for segment in bars.get_segments()]
    assert low_and_high == [[0.04, 0.07], [0.115, 0.145]]
