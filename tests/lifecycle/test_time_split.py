"""The main job on a split by time with many relevant items a query, where what was bought is bought again."""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from evaluation.report import Report, read_report
from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.split import TimeSplit
from lifecycle.candidates import StageOne
from lifecycle.cuts import FOLD
from lifecycle.train_ranker import RankerTraining

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
DAY_S = 86_400
BEGINS_S = 1_577_836_800  # 2020-01-01
NUM_DAYS, NUM_ITEMS, NUM_QUERIES = 100, 30, 40
# By the number of events: train, ranking, validation; the rest is test.
SHARES = (0.6, 0.15, 0.1)


class Purchase(NamedTuple):
    query_id: str
    item_id: str
    at_s: int


def purchases() -> list[Purchase]:
    """A shop: everybody has three favourites that are bought again and again, and tries something now and then."""
    generator = np.random.default_rng(5)
    events = []
    for query in range(NUM_QUERIES):
        favourites = generator.choice(NUM_ITEMS, size=3, replace=False)
        first_day = 90 if query % 10 == 0 else 0  # who comes so late is new when the test begins
        for day in range(first_day, NUM_DAYS):
            if generator.random() < 0.3:
                tried = generator.integers(NUM_ITEMS) if generator.random() < 0.4 else generator.choice(favourites)
                events.append(Purchase(f"q{query:02}", f"i{tried:02}", BEGINS_S + day * DAY_S + 60 * query))
    # Nobody else ever bought this.
    events += [Purchase("q01", "only_q01", BEGINS_S + day * DAY_S + 7) for day in (3, 40, 98)]
    return sorted(events, key=lambda event: event.at_s)


@pytest.fixture(scope="module")
def run_dir(
    run_script: Callable[..., CompletedProcess[str]],
    smoke_settings: Callable[[Path], list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a run until its evaluation."""
    folder = tmp_path_factory.mktemp("shop")
    lines = ["query_id,item_id,timestamp", *(f"{own.query_id},{own.item_id},{own.at_s}" for own in purchases())]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    done = run_script(
        "run_pipeline",
        *smoke_settings(folder),
        *("dataset=files", f"dataset.source.events.path={folder}/events.csv", "until=evaluate"),
        *(
            "dataset/split=time",
            *(f"dataset.split.{n}={s}" for n, s in zip(("train", "ranking", "validation"), SHARES, strict=True)),
        ),
        *("dataset.repeats=true", "dataset.min_item_queries=2", "dataset.count_unreachable=false"),
    )
    if done.returncode != 0:
        pytest.fail(f"the main job ended with status {done.returncode}:\n{done.stdout[-6000:]}", pytrace=False)
    return folder


@pytest.fixture(scope="module")
def report(run_dir: Path) -> Report:
    return read_report(run_dir / "demo" / "evaluation" / "report.json")


@pytest.fixture(scope="module")
def begins_s() -> list[int]:
    """When ranking, validation and test begin."""
    events = purchases()
    places = [round(sum(SHARES[: number + 1]) * len(events)) for number in range(3)]
    return [events[place].at_s for place in places]


@pytest.fixture(scope="module")
def bought(begins_s: list[int]) -> tuple[dict[str, list[str]], dict[str, set[str]]]:
    """What each query bought before the test, in order, and in it, of what at least two queries had bought before."""
    before, after, buyers = defaultdict(list), defaultdict(set), defaultdict(set)
    for own in purchases():
        if own.at_s < begins_s[2]:
            before[own.query_id].append(own.item_id)
            buyers[own.item_id].add(own.query_id)
        elif len(buyers[own.item_id]) >= 2:
            after[own.query_id].add(own.item_id)
    return before, after


def test_each_slice_counts_its_own_queries_and_pairs(
    report: Report, bought: tuple[dict[str, list[str]], dict[str, set[str]]]
) -> None:
    before, after = bought
    new = {query: items - set(before[query]) for query, items in after.items()}
    repeated = {query: items & set(before[query]) for query, items in after.items()}
    warm = {query: items for query, items in after.items() if before[query]}
    cold = {query: items for query, items in after.items() if not before[query]}
    expected = {"new pairs": new, "repeated pairs": repeated, "warm queries": warm, "cold queries": cold}
    assert list(report.slices) == list(expected)
    for name, of_query in expected.items():
        own = report.slices[name]
        assert own.num_pairs == sum(len(items) for items in of_query.values()), name
        assert own.num_queries == sum(bool(items) for items in of_query.values()), name
    assert (report.slice, report.num_queries) == ("all pairs", len(after))
    assert report.split == (
        "time split 60/15/10/15 by events; full ranking over all items that at least 2 queries had, "
        "relevant items outside are not looked for, refitted on training + validation"
    )


def test_lists_are_measured_as_by_hand(
    run_dir: Path, report: Report, bought: tuple[dict[str, list[str]], dict[str, set[str]]]
) -> None:
    _, after = bought
    rows = pq.read_table(run_dir / "lists" / "relevant.parquet").to_pylist()
    assert sorted((row["query_id"], row["item_id"]) for row in rows) == sorted(
        (query, item) for query, items in after.items() for item in items
    )
    for name in ("repeat_count", "popularity", "towers", "fused_student"):
        ranked = defaultdict(list)
        for row in pq.read_table(run_dir / "lists" / f"{name}.parquet").to_pylist():
            ranked[row["query_id"]].append(row["item_id"])
        ndcg, recall = [], []
        for query, relevant in after.items():
            gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(ranked[query][:10], 1) if item in relevant)
            ndcg.append(gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(len(relevant), 10) + 1)))
            recall.append(len(relevant & set(ranked[query][:10])) / len(relevant))
        assert report.systems[name]["ndcg@10"].value == pytest.approx(np.mean(ndcg)), name
        assert report.systems[name]["recall@10"].value == pytest.approx(np.mean(recall)), name


def test_who_counts_repeats_finds_them(report: Report) -> None:
    repeated = report.slices["repeated pairs"].systems
    for name in ("repeat_count", "decayed_repeats", "decayed_repeats_query_knn"):
        assert repeated[name]["ndcg@10"].value > repeated["popularity"]["ndcg@10"].value
        assert name not in report.slices["new pairs"].systems
    assert {"towers", "fused_lightgbm", "fused_student", "ease_popularity_7d"} <= set(
        report.slices["new pairs"].systems
    )


def test_what_too_few_bought_is_in_no_list(run_dir: Path) -> None:
    for path in (run_dir / "lists").glob("*.parquet"):
        assert "only_q01" not in pq.read_table(path)["item_id"].to_pylist()


def test_the_ranker_learns_from_a_request_a_week(run_dir: Path, begins_s: list[int]) -> None:
    facts = json.loads((run_dir / "demo" / "ranker" / "training.json").read_text())
    ranking, validation, test = begins_s
    known = {own.item_id for own in purchases() if own.at_s < ranking and own.item_id != "only_q01"}
    weeks = {
        (own.query_id, begin, (own.at_s - begin) // (7 * DAY_S))
        for own in purchases()
        for begin, end in ((ranking, validation), (validation, test))
        if begin <= own.at_s < end and own.item_id in known
    }
    # What is of validation decides, and is not learnt from.
    assert facts["lists"] == sum(begin == ranking for _, begin, _ in weeks)
    assert 0 < facts["learnable_lists"] <= facts["lists"] + facts["lists_of_new_items"]
    assert len({begin + week for _, begin, week in weeks}) > 2


def test_every_slice_has_its_figure_and_stands_in_the_table(run_dir: Path, report: Report) -> None:
    directory = run_dir / "demo" / "evaluation"
    table = (directory / "table.txt").read_text()
    for name in report.slices:
        assert (directory / f"systems_{name.replace(' ', '_')}.png").read_bytes().startswith(b"\x89PNG")
        assert f"\n{name}" in table


def test_rankers_with_text_learn_from_a_second_list_of_what_is_new_to_the_query(run_dir: Path) -> None:
    demo = run_dir / "demo"
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose(config_name="run_pipeline", overrides=["experiment=smoke", "dataset=files"])
    columns = instantiate(cfg.features.columns, _convert_="all")
    dataset = Dataset.read(demo / "data", name="files", columns=columns)
    protocol = RequestProtocol(split=TimeSplit(), repeats=True, min_item_queries=2, count_unreachable=False)
    parts = {
        "dataset": dataset,
        "protocol": protocol,
        "stage_one": StageOne.open(FOLD, towers_dir=demo / "towers", index_dir=demo / "index"),
        "request_days": 7,
        "num_ranked": 50,
    }
    training = RankerTraining(**{**dict.fromkeys(RankerTraining.__dataclass_fields__), **parts})  # type: ignore[arg-type]
    served = training.lists("ranking")
    every = training.with_new_items("ranking", served)
    asked = protocol.looked_for(
        protocol.asked(dataset, "ranking", days=7), recommendable=protocol.recommendable(dataset, FOLD.splits)
    )
    new = asked.only(~asked.had)
    second = every.take(np.arange(len(served), len(every)))
    facts = json.loads((demo / "ranker" / "training.json").read_text())
    assert 0 < len(new) == len(second) == facts["lists_of_new_items"]
    for candidates, had in zip(second.candidate_rows, new.seen_rows(dataset), strict=True):
        assert set(had[had > 0]).isdisjoint(candidates)
    assert (second.relevance > 0).any()
