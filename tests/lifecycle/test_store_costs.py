from pathlib import Path

from features.stores.online_settings import OnlineSettings
from lifecycle.store_costs import made_states, store_costs


def test_a_made_log_has_a_state_before_all_and_one_an_event() -> None:
    states = made_states(num_queries=3, num_events=4)
    assert states.position.tolist() == [-1, 0, 1, 2, 3] * 3
    assert len(states.events) == 12


def test_reads_and_both_ways_to_write_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    costs = list(
        store_costs(
            OnlineSettings(),
            work_dir=tmp_path / "work",
            num_queries=4,
            histories=[2, 3],
            round_sizes=[1, 4],
            num_reads=5,
            num_rounds=2,
        )
    )
    names = [f"{way} of {size}" for size in (1, 4) for way in ("write_to_online_store", "materialize_incremental")]
    assert [(cost.history, cost.what) for cost in costs] == [
        (history, name) for history in (2, 3) for name in ("read of one query", *names)
    ]
    assert {cost.n for cost in costs} == {2, 5}
    assert all(0 < cost.p50_ms <= cost.p99_ms for cost in costs)
    assert {path.suffix for path in (tmp_path / "work").iterdir()} == {".parquet"}
