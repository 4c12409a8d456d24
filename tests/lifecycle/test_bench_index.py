"""Benchmarks of the index by size, under filters and under changes, on very little."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lifecycle.bench_index_changes import IndexChangesBench
from lifecycle.bench_index_filters import IndexFiltersBench
from lifecycle.bench_index_scale import COSTS, IndexScaleBench, finding, scale_figure
from lifecycle.grouped_catalogues import factorised, made_up
from towers.index.recipes import Recipe

RECIPES = {"flat": Recipe(type="flat", apart=0.0, size=0), "lists": Recipe(type="ivf_flat", apart=0.0, size=1)}
DRAWN = {"recipes": RECIPES, "width": 16, "tail": 0.3, "num_queries": 20, "k": 10, "recall": 0.9, "seed": 1}


def test_each_size_of_each_index_is_a_row_and_costs_are_drawn():
    bench = IndexScaleBench(sizes={"flat": [500, 1000], "lists": [1000]}, **DRAWN)
    rows = pd.DataFrame(list(bench.rows()))
    assert rows[["index", "num_items"]].to_numpy().tolist() == [["flat", 500], ["flat", 1000], ["lists", 1000]]
    # 16 coordinates of 4 bytes and an ItemRow of 8; Faiss adds some bytes to the whole.
    assert rows["bytes_an_item"][1] == pytest.approx(72, abs=1)
    assert (rows["recall"][:2] == 1).all()
    assert rows["recall"][2] > 0.8
    assert [axes.get_ylabel() for axes in scale_figure(rows, finding=finding(rows)).axes] == list(COSTS.values())


def test_each_filter_is_asked_of_each_index_and_leaves_about_the_share_that_was_aimed_at():
    bench = IndexFiltersBench(num_items=[3000], tables=None, shares=[1.0, 0.9, 0.1], **DRAWN)
    rows = pd.DataFrame(list(bench.rows()))
    assert len(rows) == 2 * (1 + 2 + 2)
    assert (rows.loc[rows["index"] == "flat", "recall"] == 1).all()
    np.testing.assert_allclose(rows["share"], rows["aimed_share"], atol=0.03)
    assert rows["filter"].str.startswith("all but ").sum() == 2


def test_what_changes_add_is_found_and_recall_is_held():
    bench = IndexChangesBench(num_items=2000, churn=0.1, in_a_change=20, filtered=0.1, **DRAWN)
    rows = pd.DataFrame(list(bench.rows())).set_index("index")
    assert (rows["num_changes"] == 5).all()
    assert (rows["added_not_found"] == 0).all()
    assert (rows.loc["flat", ["recall_before", "recall_changed", "recall_merged"]] == 1).all()
    assert rows.loc["lists", "recall_merged"] > 0.8


def test_a_made_up_group_is_of_whole_clusters_that_lie_together():
    catalogue = made_up(20_000, num_queries=10, width=16, tail=0.0, seed=1)
    passes, name = catalogue.group(0.1)
    assert 0.1 <= passes.mean() < 0.11
    assert name.endswith(" clusters")
    angles = catalogue.items[passes][:300] @ catalogue.items.T
    assert angles[:, passes].mean() > angles[:, ~passes].mean() + 0.1


def test_a_group_of_a_prepared_dataset_is_the_value_whose_share_is_nearest(tmp_path):
    generator = np.random.default_rng(0)
    query, item = generator.integers(0, 30, 2000), generator.integers(0, 40, 2000)
    columns = {"query_id": [f"q{own}" for own in query], "item_id": [f"i{own}" for own in item]}
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    shelves = ["milk"] * 4 + ["bread"] * 16 + ["fruit"] * 20
    items = pa.table({"item_id": [f"i{own}" for own in range(40)], "shelf": shelves})
    pq.write_table(items, tmp_path / "items.parquet")
    catalogue = factorised(tmp_path, num_queries=10, width=8, seed=1)
    assert (catalogue.items.shape, catalogue.queries.shape) == ((40, 8), (10, 8))
    passes, name = catalogue.group(0.11)
    assert (passes.sum(), name) == (4, "shelf milk")
