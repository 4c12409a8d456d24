import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import FeaturesError
from features.packing import MAX_EVENTS, MAX_ID_BYTES, History, HistoryColumns, pack_history, unpack_history

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
ITEM_ID = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
EVENTS = st.lists(st.tuples(ITEM_ID, st.floats(allow_nan=False), INT64), max_size=30)


def history_of(events: list[tuple[str, float, int]]) -> History:
    return History(
        item_ids=[item_id for item_id, _, _ in events],
        values=[value for _, value, _ in events],
        at_ms=[at_ms for _, _, at_ms in events],
    )


def test_bytes_are_those_of_the_documented_layout() -> None:
    packed = pack_history(History(item_ids=["7", "é"], values=[4.0, 2.5], at_ms=[1_000, 2_000]))
    expected = (
        b"QH"
        + struct.pack("<HI", 1, 2)
        + struct.pack("<qq", 1_000, 2_000)
        + struct.pack("<dd", 4.0, 2.5)
        + struct.pack("<HH", 1, 2)  # "é" takes two bytes in UTF-8
        + "7é".encode()
    )
    assert packed == expected


def test_empty_history_is_a_header_alone() -> None:
    assert len(pack_history(History(item_ids=[], values=[], at_ms=[]))) == 8
    assert len(unpack_history(b"QH\x01\x00\x00\x00\x00\x00")) == 0


@given(EVENTS)
def test_unpacking_reverses_packing(events: list[tuple[str, float, int]]) -> None:
    history = history_of(events)
    assert unpack_history(pack_history(history)) == history


def test_a_missing_value_survives() -> None:
    assert math.isnan(unpack_history(pack_history(History(item_ids=["1"], values=[math.nan], at_ms=[0]))).values[0])


@given(EVENTS, st.data())
def test_a_window_packs_like_a_history_of_its_own(events: list[tuple[str, float, int]], data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, len(events)))
    start = data.draw(st.integers(0, stop))
    whole = history_of(events)
    columns = HistoryColumns(item_ids=whole.item_ids, values=whole.values, at_ms=whole.at_ms)
    assert columns.pack(start, stop) == pack_history(history_of(events[start:stop]))


@given(EVENTS, st.data())
def test_no_cut_or_padded_history_is_read(events: list[tuple[str, float, int]], data: st.DataObject) -> None:
    packed = pack_history(history_of(events))
    damaged = data.draw(
        st.one_of(
            st.integers(0, len(packed) - 1).map(lambda end: packed[:end]),
            st.binary(min_size=1, max_size=20).map(lambda more: packed + more),
        )
    )
    with pytest.raises(FeaturesError, match="a packed history"):
        unpack_history(damaged)


@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused_but_never_crash(noise: bytes) -> None:
    for packed in (noise, b"QH\x01\x00" + noise):
        try:
            history = unpack_history(packed)
        except FeaturesError:
            continue
        assert len(history.values) == len(history.at_ms) == len(history)


def test_another_version_is_refused_by_name() -> None:
    with pytest.raises(FeaturesError, match=r"in version 1; got b'QH' in version 2; write the store again"):
        unpack_history(struct.pack("<2sHI", b"QH", 2, 0))


def test_a_claimed_length_above_the_bound_is_refused_before_it_is_read() -> None:
    with pytest.raises(FeaturesError, match=f"of {MAX_EVENTS + 1} events has at most {MAX_EVENTS}"):
        unpack_history(struct.pack("<2sHI", b"QH", 1, MAX_EVENTS + 1) + bytes(18 * (MAX_EVENTS + 1)))


def test_unequal_lengths_are_refused_with_the_lengths() -> None:
    with pytest.raises(FeaturesError, match="got 1, 0 and 2"):
        pack_history(History(item_ids=["1"], values=[], at_ms=[1, 2]))


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (History(item_ids=["x" * (MAX_ID_BYTES + 1)], values=[1.0], at_ms=[1]), f"takes {MAX_ID_BYTES + 1}"),
        (History(item_ids=["\ud800"], values=[1.0], at_ms=[1]), "surrogates not allowed"),
        (History(item_ids=["1"], values=[1.0], at_ms=[2**63]), "instants as int64"),
        (
            History(item_ids=["1"] * (MAX_EVENTS + 1), values=[1.0] * (MAX_EVENTS + 1), at_ms=[1] * (MAX_EVENTS + 1)),
            f"a window has at most {MAX_EVENTS}",
        ),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(history: History, message: str) -> None:
    with pytest.raises(FeaturesError, match=message):
        pack_history(history)
