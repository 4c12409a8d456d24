"""Peers train on a small log, each in its own environment (requirements/peers), and leave lists of the asked form."""

import json
import os
import sys
from pathlib import Path

import pandas as pd
import pytest

from lifecycle.bench_etl import ROOT
from lifecycle.bench_index import OURS, IndexBench
from lifecycle.index_vectors import Clusters
from lifecycle.turns import Trainee

PEERS = {
    "rectools": ("TWOSTAGE_RECTOOLS_PYTHON", {"loss": "softmax", "lr": 0.001}),
    "recbole": ("TWOSTAGE_RECBOLE_PYTHON", {"loss_type": "CE", "learning_rate": 0.001}),
}
NUM_QUERIES, NUM_EVENTS, NUM_ITEMS, LENGTH = 6, 9, 12, 4


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_learns_every_target_once_an_epoch_and_recommends_what_a_query_had_not(
    peer: str, tmp_path: Path
) -> None:
    variable, own = PEERS[peer]
    if not os.environ.get(variable):
        pytest.skip(f"no {variable}: an interpreter with requirements/peers/{peer}.txt")
    events = pd.DataFrame(
        {
            "query_id": f"q{query}",
            "item_id": f"i{(query + place) % NUM_ITEMS}",
            "place": place,
            "is_training": int(place < NUM_EVENTS - 1),
        }
        for query in range(NUM_QUERIES)
        for place in range(NUM_EVENTS)
    )
    events.to_csv(tmp_path / "events.csv", index=False)
    settings = {
        "events": str(tmp_path / "events.csv"),
        "lists": str(tmp_path / "own" / "lists.csv"),
        **{"seed": 1, "epochs": 2, "turn_s": 1e9, "history_length": LENGTH, "width": 8, "num_blocks": 1},
        **{"num_heads": 2, "batch_size": 4, "k": 3, "own": own},
    }
    (tmp_path / "own").mkdir()
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    command = [os.environ[variable], f"scripts/peers/{peer}_sasrec.py", str(tmp_path / "settings.json")]
    with Trainee(peer, command, cwd=ROOT, log=tmp_path / "log", num_threads=1) as training:
        training.prepare()
        turn = training.turn()
        assert turn is not None
        # In each epoch all training events but a query's first.
        assert turn.num_targets == 2 * NUM_QUERIES * (NUM_EVENTS - 2)
        assert training.turn() is None
    lists = pd.read_csv(tmp_path / "own" / "lists.csv")
    assert lists.groupby("query_id")["rank"].apply(list).tolist() == [[1, 2, 3]] * NUM_QUERIES
    had = set(zip(events["query_id"], events["item_id"], strict=True))
    assert not had & set(zip(lists["query_id"], lists["item_id"], strict=True))


def test_peers_are_skipped_by_name_where_their_interpreters_are_missing() -> None:
    assert {Path(f"{ROOT}/requirements/peers/{peer}.txt").is_file() for peer in PEERS} == {True}
    assert sys.executable not in {os.environ.get(variable) for variable, _ in PEERS.values()}


@pytest.mark.parametrize(
    ("peer", "build", "effort"),
    [
        ("hnswlib", {"links": 16, "build_beam": 100}, {"beam": 300}),
        ("usearch", {"links": 16, "build_beam": 100}, {"beam": 300}),
        ("voyager", {"links": 16, "build_beam": 100}, {"beam": 300}),
        ("scann", {"leaves": 1, "avq": 2.5}, {"lists": 20, "refine": 5}),
    ],
)
def test_a_peer_of_the_index_finds_the_largest_products(
    peer: str, build: dict[str, float], effort: dict[str, float], tmp_path: Path
) -> None:
    python = os.environ.get("TWOSTAGE_INDEX_PEERS_PYTHON")
    if not python:
        pytest.skip("no TWOSTAGE_INDEX_PEERS_PYTHON: an interpreter with requirements/peers/index.txt")
    vectors = {"even": Clusters(num_items=500, width=8, tail=0.3, seed=1)}
    peers = {peer: {"builds": [build], "efforts": [effort]}}
    bench = IndexBench(
        vectors=vectors, peers=peers, builds={}, targets=[0.9], k=10, num_queries=40, num_tuned=10, turns=1, seed=1
    )
    points, best = bench.run(tmp_path, peers_python=Path(python))
    assert set(points["search"]) == set(best["search"]) == {OURS, peer}
