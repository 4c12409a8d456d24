from pathlib import Path

import numpy as np
import pytest

from towers.state_file import StateFile


def test_states_come_back_bit_by_bit_whatever_their_length(tmp_path: Path) -> None:
    states = StateFile(tmp_path, width=3)
    draw = np.random.default_rng(0)
    given = {bytes([length]): draw.normal(size=(length, 3)).astype(np.float32) for length in (2, 1, 5)}
    for key, array in given.items():
        states.add(key, array)
    for key in (b"\x05", b"\x02", b"\x01"):
        np.testing.assert_array_equal(states[key], given[key])
    states.add(b"later", given[b"\x02"])
    np.testing.assert_array_equal(states[b"later"], given[b"\x02"])
    assert len(states) == 4


def test_what_was_not_added_is_not_there(tmp_path: Path) -> None:
    states = StateFile(tmp_path, width=3)
    assert b"toy" not in states
    with pytest.raises(KeyError):
        states[b"toy"]


def test_the_file_has_no_name(tmp_path: Path) -> None:
    StateFile(tmp_path, width=3).add(b"toy", np.zeros((1, 3), dtype=np.float32))
    assert list(tmp_path.iterdir()) == []
