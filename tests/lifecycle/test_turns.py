import sys
from pathlib import Path

import pytest

from lifecycle.bench_etl import ROOT
from lifecycle.turns import Trainee, TraineeFailed

# Three steps of two targets; a turn of no length ends with each step.
THREE_STEPS = """
from lifecycle.turns import Turns
turns = Turns(turn_s=0.0)
print("chatter")
turns.begin()
for _ in range(3):
    turns.step(num_targets=2, waited_s=0.5)
turns.end()
print("after")
"""


def trainee(tmp_path: Path, code: str) -> Trainee:
    return Trainee("it", [sys.executable, "-c", code], cwd=ROOT, log=tmp_path / "it" / "log", num_threads=1)


def test_a_turn_ends_with_a_step_and_tells_what_was_done_in_it(tmp_path):
    with trainee(tmp_path, THREE_STEPS) as training:
        training.prepare()
        turns = [training.turn() for _ in range(5)]
    # Three turns of a step, one with what remained after the last of them, and the one in which it ended.
    assert [None if turn is None else (turn.num_steps, turn.num_targets, turn.waited_s) for turn in turns] == [
        (1, 2, 0.5),
        (1, 2, 0.5),
        (1, 2, 0.5),
        (0, 0, 0.0),
        None,
    ]
    assert all(turn.peak_bytes > 1e6 and turn.cpu_s >= 0.0 for turn in turns if turn is not None)
    assert (tmp_path / "it" / "log").read_text() == "chatter\nafter\n"


def test_a_long_turn_holds_all_steps(tmp_path):
    with trainee(tmp_path, THREE_STEPS.replace("turn_s=0.0", "turn_s=1e9")) as training:
        training.prepare()
        turn = training.turn()
    assert turn is not None
    assert (turn.num_steps, turn.num_targets, turn.waited_s) == (3, 6, 1.5)


def test_who_ends_before_the_first_turn_is_named_with_its_log(tmp_path):
    with trainee(tmp_path, "raise SystemExit('no data')") as training:
        with pytest.raises(TraineeFailed, match=r"it ended with code 1; see .*log"):
            training.prepare()
    assert "no data" in (tmp_path / "it" / "log").read_text()
    with (
        trainee(tmp_path, "") as training,
        pytest.raises(TraineeFailed, match="it ended before its first turn"),
    ):
        training.prepare()


def test_who_ends_with_an_error_in_its_turn_is_named(tmp_path):
    code = THREE_STEPS.replace("turns.end()", "raise SystemExit(3)")
    with trainee(tmp_path, code) as training:
        training.prepare()
        for _ in range(3):
            training.turn()
        with pytest.raises(TraineeFailed, match="code 3"):
            training.turn()


def test_no_training_outlives_the_race(tmp_path):
    with trainee(tmp_path, THREE_STEPS) as training:
        training.prepare()
    assert training._process.poll() is not None
