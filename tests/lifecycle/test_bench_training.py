import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lifecycle.bench_training import Race, counted, differences, qualities, ratios, read_lists, speeds, write_events

# A system that makes as many steps as its settings say, one a turn, and leaves a list.
SYSTEM = """
import json, pathlib, sys
from lifecycle.turns import Turns
settings = json.loads(pathlib.Path(sys.argv[1]).read_text())
turns = Turns(turn_s=0.0)
turns.begin()
for _ in range(settings["steps"]):
    turns.step(num_targets=settings["targets"])
turns.end()
pathlib.Path(settings["lists"]).write_text("query_id,item_id,rank\\n")
"""


def race(tmp_path, *, rounds=None):
    command = [sys.executable, "-c", SYSTEM, "{settings}"]
    return Race(
        systems={"one": command, "other": command},
        settings={"steps": 2, "targets": 5},
        own={"other": {"steps": 3}},
        rounds=rounds,
        num_threads=1,
        out_dir=tmp_path,
    )


def test_systems_take_turns_and_each_round_begins_with_another_one(tmp_path):
    rows = list(race(tmp_path).run())
    order = [(row["round"], row["system"]) for row in rows]
    # Each has a turn a step and a last, empty one; in round 3 `one` has ended, in round 4 `other` has.
    assert order == [
        (0, "one"),
        (0, "other"),
        (1, "other"),
        (1, "one"),
        (2, "one"),
        (2, "other"),
        (3, "other"),
    ]
    assert [row["num_targets"] for row in rows] == [5, 5, 5, 5, 0, 5, 0]
    assert race(tmp_path).lists("one").is_file()


def test_a_race_of_some_rounds_leaves_no_lists_not_even_those_of_an_earlier_one(tmp_path):
    list(race(tmp_path).run())
    rows = list(race(tmp_path, rounds=1).run())
    assert [row["system"] for row in rows] == ["one", "other"]
    assert not race(tmp_path).lists("one").is_file()


def turns(**rates):
    """Turns of one second with a step of so many targets each."""
    return pd.DataFrame(
        {
            "system": system,
            "round": number,
            "num_steps": 1,
            "num_targets": rate,
            "wall_s": 1.0,
            "cpu_s": 0.5,
            "waited_s": 0.1,
            "peak_bytes": 2e9,
        }
        for system, own in rates.items()
        for number, rate in enumerate(own)
    )


def test_only_rounds_in_which_all_worked_throughout_count():
    # `one` ends in round 3, so rounds 1 and 2 are left after one round of warm-up.
    table = counted(turns(one=[9, 4, 6, 1], other=[9, 2, 2, 2, 8]), warm_up=1)
    assert table.groupby("system")["round"].apply(list).to_dict() == {"one": [1, 2], "other": [1, 2]}


def test_a_race_without_such_a_round_says_what_to_change():
    with pytest.raises(ValueError, match="the shortest training ended in round 1: train longer, or lower"):
        counted(turns(one=[9, 4], other=[9, 2]), warm_up=1)


def test_speeds_and_ratios_match_hand_computation():
    table = counted(turns(one=[4, 6, 8, 0], other=[2, 2, 2, 0]), warm_up=0)
    found = speeds(table, num_targets=12).set_index("system").loc["one"]
    # 4, 6 and 8 targets in a second each: median 6, so an epoch of 12 takes 2 s; half a second of processor time each
    assert (found["targets_per_s"], found["lowest"], found["highest"], found["epoch_s"]) == (6, 4, 8, 2)
    assert (found["targets_per_cpu_s"], found["step_ms"], found["peak_gb"]) == (12, 1000, 2)
    assert found["waited_share"] == pytest.approx(0.1)
    by_wall, by_cpu = ratios(table, of=[("one", "other")]).to_dict("records")
    assert (by_wall["per"], by_cpu["per"]) == ("wall_s", "cpu_s")
    for ratio in (by_wall, by_cpu):
        assert (ratio["median"], ratio["lowest"], ratio["highest"], ratio["rounds"]) == (3, 2, 4, 3)


def world():
    """Two queries with three events each, of which the first two are known when they ask."""
    catalogue = SimpleNamespace(
        item_id=lambda row: f"i{row}", rows=lambda ids: np.array([int(item[1:]) for item in ids], dtype=np.int64)
    )
    dataset = SimpleNamespace(
        events=SimpleNamespace(
            splits=np.array(["train", "validation", "test"] * 2), query_ids=["p", "q"], offsets=np.array([0, 3, 6])
        ),
        items=SimpleNamespace(catalogue=catalogue),
        event_rows=lambda: np.array([2, 3, 4, 5, 6, 7]),
    )
    asked = SimpleNamespace(
        queries=np.array([0, 1]),
        relevant=np.array([[4], [7]]),
        known_events=lambda dataset: (np.array([0, 0, 1, 1]), np.array([0, 1, 3, 4])),
        __len__=lambda: 2,
    )
    return dataset, asked


def test_systems_are_given_what_was_known_and_what_of_it_is_learnt_from(tmp_path):
    dataset, asked = world()
    assert write_events(dataset, asked, splits=["train"], path=tmp_path / "events.csv") == 2
    table = pd.read_csv(tmp_path / "events.csv")
    assert table.to_dict("list") == {
        "query_id": ["p", "p", "q", "q"],
        "item_id": ["i2", "i3", "i5", "i6"],
        "place": [0, 1, 3, 4],
        "is_training": [1, 0, 1, 0],
    }


class Asked:
    queries = np.array([0, 1])
    relevant = np.array([[4], [7]])

    def __len__(self):
        return 2


def test_lists_are_read_by_query_and_rank_and_a_missing_one_found_nothing(tmp_path):
    dataset, _ = world()
    (tmp_path / "lists.csv").write_text("query_id,item_id,rank\nq,i7,2\nq,i4,1\n")
    ranked = read_lists(tmp_path / "lists.csv", dataset, Asked(), k=100)
    assert ranked.shape == (2, 100)
    assert ranked[:, :3].tolist() == [[0, 0, 0], [4, 7, 0]]


def test_qualities_are_those_of_the_one_evaluator():
    first, second = np.zeros((2, 100), dtype=np.int64), np.zeros((2, 100), dtype=np.int64)
    first[:, 0], second[:, 1] = [4, 7], [4, 7]
    table = qualities({"one": first, "other": second}, Asked(), seed=1).set_index("system")
    # the only relevant item first: 1; second: 1 / log2(3) = .631, for both queries, so that no resample differs
    assert table.loc["one", "ndcg@10"] == "1.000 (1.000-1.000)"
    assert table.loc["other", "ndcg@10"] == "0.631 (0.631-0.631)"
    pairs = [("one", "other"), ("one", "absent")]
    (found,) = differences({"one": first, "other": second}, Asked(), of=pairs, seed=1).to_dict("records")
    assert (found["system"], found["peer"], found["ndcg@10"]) == ("one", "other", "0.369 (0.369-0.369)")
