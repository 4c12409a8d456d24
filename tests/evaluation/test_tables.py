from dataclasses import replace

from evaluation.report import Comparison, Report, SliceReport
from evaluation.significance import Interval
from evaluation.tables import groups_text, markdown_table, text_table

REPORT = Report(
    dataset="tiny",
    split="test",
    slice="new pairs",
    num_queries=4,
    systems={"towers": {"ndcg@1": Interval(value=0.5, low=0.25, high=0.75)}},
    notes={"towers": "on a stated sample of 2 queries"},
)
WARM = SliceReport(
    num_queries=3,
    num_pairs=9,
    note="with earlier events",
    systems={"towers": {"ndcg@1": Interval(0.6, 0.5, 0.7)}, "popularity": {"ndcg@1": Interval(0.1, 0.0, 0.2)}},
    comparisons=(
        Comparison(
            system="towers", baseline="popularity", metric="ndcg@1", value=0.5, low=0.4, high=0.6, num_queries=3
        ),
    ),
)
METRICS = ("ndcg@1", "recall@100")


def test_tables_show_value_interval_and_notes() -> None:
    assert markdown_table(REPORT, metrics=METRICS).splitlines() == [
        "| system | ndcg@1 | recall@100 |",
        "| --- | --- | --- |",
        "| towers | 0.500 (0.250-0.750) | - |",
        "",
        "tiny, test, new pairs, n = 4 queries, 95 % bootstrap intervals.",
        "towers: on a stated sample of 2 queries.",
    ]
    assert text_table(REPORT, metrics=METRICS).splitlines() == [
        "system  ndcg@1               recall@100",
        "---------------------------------------",
        "towers  0.500 (0.250-0.750)  -",
        "tiny, test, new pairs, n = 4 queries, 95 % bootstrap intervals.",
        "towers: on a stated sample of 2 queries.",
    ]


def test_every_slice_follows_under_its_name_with_its_own_number_of_queries() -> None:
    report = replace(REPORT, slices={"warm queries": WARM})
    assert text_table(report, metrics=METRICS).splitlines()[5:] == [
        "",
        "warm queries (with earlier events): n = 3 queries, 9 pairs",
        "system      ndcg@1               recall@100",
        "-------------------------------------------",
        "towers      0.600 (0.500-0.700)  -",
        "popularity  0.100 (0.000-0.200)  -",
        "towers - popularity, ndcg@1, paired, n = 3: +0.500 (+0.400 to +0.600)",
    ]
    assert markdown_table(report, metrics=METRICS).splitlines()[6:] == [
        "",
        "warm queries (with earlier events): n = 3 queries, 9 pairs",
        "",
        "| system | ndcg@1 | recall@100 |",
        "| --- | --- | --- |",
        "| towers | 0.600 (0.500-0.700) | - |",
        "| popularity | 0.100 (0.000-0.200) | - |",
        "",
        "towers - popularity, ndcg@1, paired, n = 3: +0.500 (+0.400 to +0.600)",
    ]


def test_groups_stand_in_columns_with_their_numbers_of_queries_and_what_is_shown_below() -> None:
    shown = {"towers": {"coverage@10": 0.25, "novelty@10": 3.5}}
    report = replace(REPORT, groups={"length": {"0": WARM, "1-5": replace(WARM, num_queries=20)}}, variety=shown)
    assert groups_text(report, metric="ndcg@1").splitlines() == [
        "ndcg@1 by length",
        "system      0      1-5",
        "------------------------",
        "queries     3      20",
        "towers      0.600  0.600",
        "popularity  0.100  0.100",
        "",
        "share of the catalogue in anyone's list, bits an item shown",
        "system  coverage@10  novelty@10",
        "-------------------------------",
        "towers  0.250        3.500",
    ]
