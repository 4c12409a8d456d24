import csv
import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from evaluation.report import Report, read_report
from features.dataset import Dataset
from features.statistics import ItemStatistics
from lifecycle.cuts import FOLD, REFIT
from lifecycle.measure import KS
from serving.pipeline import Pipeline

pytestmark = pytest.mark.timeout(600)

SYSTEMS = {
    *("popularity", "recent_popularity", "popularity_7d", "item_knn", "ease", "ease_recency", "ials", "transitions"),
    *("transitions_ease", "ease_popularity_7d", "query_knn"),
    *("towers", "transitions_alone", "ease_alone", "popularity_alone"),
    *("towers_learned", "towers_no_refit", "fused_no_refit", "fused"),
    *("fused_lightgbm", "fused_student", "fused_student_shuffled_texts"),
}


@pytest.fixture(scope="module")
def report(smoke_run: Path) -> Report:
    return read_report(smoke_run / "demo" / "evaluation" / "report.json")


@pytest.fixture(scope="module")
def lists(smoke_run: Path) -> dict[str, dict[str, list[tuple[str, float]]]]:
    """Items with their scores, best first, by system and query, as the parquet files have them."""
    found: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for path in (smoke_run / "lists").glob("*.parquet"):
        if path.stem != "relevant":
            table, by_query = pq.read_table(path), found.setdefault(path.stem, {})
            columns = (table[name].to_pylist() for name in ("query_id", "item_id", "rank", "score"))
            for query_id, item_id, rank, score in zip(*columns, strict=True):
                by_query.setdefault(query_id, []).append((item_id, score))
                assert len(by_query[query_id]) == rank
    return found


def test_every_system_but_the_sampled_teacher_has_its_lists(
    lists: dict[str, dict[str, list[tuple[str, float]]]], report: Report
) -> None:
    assert set(lists) == SYSTEMS
    assert set(report.systems) == {*SYSTEMS, "fused_teacher"}
    for name, by_query in lists.items():
        # A retriever alone may have nothing to say to some queries.
        assert 900 < len(by_query) <= report.num_queries if name.endswith("_alone") else len(by_query) == 943, name


def test_lists_are_distinct_known_new_to_their_query_and_in_order_of_score(
    lists: dict[str, dict[str, list[tuple[str, float]]]], smoke_dataset: Dataset
) -> None:
    events = smoke_dataset.events
    places = events.places(["test"])
    history = {
        events.query_ids[query]: set(events.item_ids[events.offsets[query] : place])
        for query, place in zip(events.query_of(places), places, strict=True)
    }
    for name, by_query in lists.items():
        cut = FOLD if name.endswith("_no_refit") else REFIT
        known = {events.item_ids[place] for place in events.places(cut.splits)}
        for query_id, ranked in by_query.items():
            item_ids, scores = [item_id for item_id, _ in ranked], [score for _, score in ranked]
            assert len(set(item_ids)) == len(item_ids) <= 200
            assert set(item_ids) <= known - history[query_id], (name, query_id)
            assert scores == sorted(scores, reverse=True), (name, query_id)


def test_a_ranker_orders_the_first_candidates_and_leaves_the_others_where_they_were(
    lists: dict[str, dict[str, list[tuple[str, float]]]],
) -> None:
    moved = 0
    for query_id, retrieved in lists["fused"].items():
        order = [item_id for item_id, _ in retrieved]
        for name in ("fused_lightgbm", "fused_student", "fused_student_shuffled_texts"):
            ranked = [item_id for item_id, _ in lists[name][query_id]]
            assert set(ranked[:50]) == set(order[:50])
            assert ranked[50:] == order[50:]
            moved += ranked != order
    assert moved > len(lists["fused"])


def test_the_student_is_evaluated_as_it_is_served(
    lists: dict[str, dict[str, list[tuple[str, float]]]], smoke_pipeline: Pipeline, smoke_dataset: Dataset
) -> None:
    places = smoke_dataset.events.places(["test"])[:20]
    queries = smoke_dataset.before(places, length=None)
    # Served at the time of the request, that is; the release itself has the aggregates of its last tick.
    stage1 = smoke_pipeline.release.stage1
    statistics = ItemStatistics.at_requests(
        smoke_dataset.days(REFIT.splits),
        requested_at_ms=np.array(queries.requested_at_ms),
        tick_ms=stage1.spec.tick_ms,
    )
    ticks = statistics.ticks(np.array(queries.requested_at_ms))
    for n, query in enumerate(smoke_dataset.events.query_of(places)):
        release = dataclasses.replace(smoke_pipeline.release, stage1=stage1.as_of(statistics.at(int(ticks[n]))))
        then = Pipeline(release=release, models=smoke_pipeline.models, settings=smoke_pipeline.settings)
        one = smoke_dataset.before(places[n : n + 1], length=None)
        answer = then.recommend(one, k=100)
        evaluated = lists["fused_student"][smoke_dataset.events.query_ids[query]][:100]
        served = list(zip(answer.item_ids[0], answer.scores[0].tolist(), strict=True))
        # By item, since scores that are equal but for rounding may stand in either order.
        assert dict(served[:50]) == pytest.approx(dict(evaluated[:50]), abs=1e-4)
        assert [item_id for item_id, _ in served[50:]] == [item_id for item_id, _ in evaluated[50:]]


def test_metrics_lie_in_their_intervals_and_grow_with_the_list(report: Report) -> None:
    for name, metrics in report.systems.items():
        assert {f"{metric}@{k}" for metric in ("ndcg", "recall", "mrr", "hit_rate") for k in KS} == set(metrics)
        for interval in metrics.values():
            assert interval.low <= interval.value <= interval.high
        for metric in ("ndcg", "recall", "mrr"):
            values = [metrics[f"{metric}@{k}"].value for k in KS]
            assert values == sorted(values), (name, metric)


def test_a_paired_difference_is_that_of_the_two_systems(report: Report) -> None:
    compared = {(one.system, one.baseline): one for one in report.comparisons if one.metric == "ndcg@10"}
    assert {
        ("fused", "towers"),
        ("fused_lightgbm", "fused"),
        ("fused_student", "fused"),
        ("fused_student", "fused_student_shuffled_texts"),
        ("fused_student", "transitions_ease"),
        ("fused_teacher", "fused_student"),
    } <= set(compared)
    for (system, baseline), one in compared.items():
        assert one.low <= one.value <= one.high
        if system != "fused_teacher":  # which stands beside the others on its own queries alone
            difference = report.systems[system]["ndcg@10"].value - report.systems[baseline]["ndcg@10"].value
            assert one.value == pytest.approx(difference, abs=1e-9)
            assert one.num_queries == report.num_queries
        else:
            assert one.num_queries == 2


def test_the_union_is_compared_with_each_retriever_by_what_lists_of_a_length_hold(report: Report) -> None:
    for metric in ("recall@100", "recall@200"):
        against = {one.baseline: one for one in report.comparisons if one.system == "fused" and one.metric == metric}
        assert set(against) == {"towers", "transitions_alone", "ease_alone", "popularity_alone"}
        for baseline, one in against.items():
            difference = report.systems["fused"][metric].value - report.systems[baseline][metric].value
            assert one.value == pytest.approx(difference, abs=1e-9)


def test_what_must_be_known_of_a_system_is_noted(report: Report) -> None:
    assert set(report.notes) == {"towers_no_refit", "fused_no_refit", "fused_teacher", "fused_student_shuffled_texts"}
    assert "sample of 2 queries" in report.notes["fused_teacher"]
    assert report.num_queries == 943
    assert set(report.seconds) == {"prepare_data", "train_towers", "build_index", "train_ranker"}


def test_table_plot_and_its_numbers_lie_beside_the_report(smoke_run: Path, report: Report) -> None:
    directory = smoke_run / "demo" / "evaluation"
    table = (directory / "table.txt").read_text()
    with (directory / "systems.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, metrics in report.systems.items():
        assert f"{metrics['ndcg@10'].value:.3f}" in next(line for line in table.splitlines() if line.split()[0] == name)
    assert {row["system"] for row in rows} == set(report.systems)
    assert (directory / "systems.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_relevant_is_the_item_of_each_test_event(smoke_run: Path, smoke_dataset: Dataset) -> None:
    rows = pq.read_table(smoke_run / "lists" / "relevant.parquet").to_pylist()
    events = smoke_dataset.events
    places = events.places(["test"])
    assert [(row["query_id"], row["item_id"]) for row in rows] == [
        (events.query_ids[query], events.item_ids[place])
        for query, place in zip(events.query_of(places), places, strict=True)
    ]


def test_groups_cut_the_main_slice_and_lie_beside_the_report(smoke_run: Path, report: Report) -> None:
    directory = smoke_run / "demo" / "evaluation"
    for kind, groups in report.groups.items():
        # One chosen item a request here: every request stands in one group, unless its group was too small.
        num_pairs = sum(part.num_pairs for part in groups.values())
        assert report.num_queries - 12 <= num_pairs <= report.num_queries, kind
        name = f"by_{kind.replace(' ', '_')}"
        assert (directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        rows = list(csv.DictReader((directory / f"{name}.csv").read_text().splitlines()))
        assert list(dict.fromkeys(row["group"] for row in rows)) == list(groups)
        whole = sum(part.num_queries * part.systems["towers"]["ndcg@10"].value for part in groups.values())
        assert whole / report.num_queries == pytest.approx(report.systems["towers"]["ndcg@10"].value, abs=0.012)
    assert len(report.groups) == 2
    assert "ndcg@10 by length of the history" in (directory / "groups.txt").read_text()


def test_popularity_shows_least_of_the_catalogue_and_what_most_know(report: Report) -> None:
    assert set(report.variety) == SYSTEMS
    least = report.variety["popularity"]
    assert 0 < least["coverage@10"] < report.variety["ease"]["coverage@10"] < 1
    assert least["novelty@10"] < report.variety["ease"]["novelty@10"]


def test_the_probabilities_of_both_rankers_are_measured_bin_by_bin(smoke_run: Path) -> None:
    directory = smoke_run / "demo" / "evaluation"
    report = read_report(directory / "report.json")
    assert set(report.calibration) == {"fused_student", "fused_lightgbm"}
    for own in report.calibration.values():
        assert own["ece"].value < own["ece_of_scores"].value
        assert own["log_loss"].value < own["log_loss_of_scores"].value
    rows = list(csv.DictReader((directory / "calibration.csv").read_text().splitlines()))
    assert {row["system"] for row in rows} == set(report.calibration)
    assert (directory / "calibration.png").read_bytes().startswith(b"\x89PNG")
