import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import FeaturesError
from features.stores.packing import MAX_EVENTS, MAX_NAME_BYTES, History, HistoryColumns, pack_history, unpack_history

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
NAME = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KIND = st.one_of(st.sampled_from(["view", "purchase", "geöffnet"]), NAME)
EVENTS = st.lists(st.tuples(NAME, KIND, st.floats(allow_nan=False), INT64), max_size=30)


def history_of(events: list[tuple[str, str, float, int]]) -> History:
    return History(
        item_ids=[item_id for item_id, _, _, _ in events],
        events=[event for _, event, _, _ in events],
        values=[value for _, _, value, _ in events],
        at_ms=[at_ms for _, _, _, at_ms in events],
    )


def columns_of(history: History) -> HistoryColumns:
    return HistoryColumns(item_ids=history.item_ids, events=history.events, values=history.values, at_ms=history.at_ms)


def test_bytes_are_those_of_the_documented_layout() -> None:
    packed = pack_history(
        History(
            item_ids=["7", "é", "7"],
            events=["view", "buy", "view"],
            values=[4.0, 2.5, 1.0],
            at_ms=[1_000, 2_000, 3_000],
        )
    )
    expected = (
        b"QH"
        + struct.pack("<HI", 2, 3)
        + struct.pack("<HHH", 2, 3, 4)  # two kinds, of 3 and 4 bytes
        + b"buyview"
        + struct.pack("<qqq", 1_000, 2_000, 3_000)
        + struct.pack("<ddd", 4.0, 2.5, 1.0)
        + bytes([1, 0, 1])
        + struct.pack("<HHH", 1, 2, 1)  # "é" takes two bytes in UTF-8
        + "7é7".encode()
    )
    assert packed == expected


def test_empty_history_is_a_header_alone() -> None:
    empty = pack_history(History(item_ids=[], events=[], values=[], at_ms=[]))
    assert empty == b"QH\x02\x00\x00\x00\x00\x00\x00\x00"
    assert len(unpack_history(empty)) == 0


@given(EVENTS)
def test_unpacking_reverses_packing(events: list[tuple[str, str, float, int]]) -> None:
    history = history_of(events)
    assert unpack_history(pack_history(history)) == history


@pytest.mark.parametrize("num_kinds", [1, 255, 256, 257, 1_000])
def test_any_number_of_kinds_survives_and_more_than_256_take_two_bytes_each(num_kinds: int) -> None:
    kinds = [f"k{kind:04}" for kind in range(num_kinds)]
    history = history_of([("i", kind, 1.0, 0) for kind in [*kinds, *reversed(kinds)]])
    packed = pack_history(history)
    # Two events a kind, each of 8 + 8 + 2 bytes and 1 of its id, and a header of 10 bytes with 2 + 5 a kind.
    assert len(packed) == 10 + 7 * num_kinds + 2 * num_kinds * (19 + (1 if num_kinds <= 256 else 2))
    assert unpack_history(packed) == history
    # A window of many kinds is cut to its own.
    assert columns_of(history).pack(0, 1) == pack_history(history_of([("i", "k0000", 1.0, 0)]))


def test_a_missing_value_survives() -> None:
    packed = pack_history(History(item_ids=["1"], events=["view"], values=[math.nan], at_ms=[0]))
    assert math.isnan(unpack_history(packed).values[0])


@given(EVENTS, st.data())
def test_a_window_packs_like_a_history_of_its_own(
    events: list[tuple[str, str, float, int]], data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, len(events)))
    start = data.draw(st.integers(0, stop))
    columns = columns_of(history_of(events))
    assert columns.pack(start, stop) == pack_history(history_of(events[start:stop]))


@given(EVENTS, st.data())
def test_no_cut_or_padded_history_is_read(events: list[tuple[str, str, float, int]], data: st.DataObject) -> None:
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
    for packed in (noise, b"QH\x02\x00" + noise, b"QH\x02\x00\x01\x00\x00\x00\x01\x00" + noise):
        try:
            history = unpack_history(packed)
        except FeaturesError:
            continue
        assert len(history.events) == len(history.values) == len(history.at_ms) == len(history)


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_is_refused_by_name(version: int) -> None:
    with pytest.raises(FeaturesError, match=rf"in version 2; got b'QH' in version {version}; write the store again"):
        unpack_history(struct.pack("<2sHI", b"QH", version, 0))


def test_a_claimed_length_above_the_bound_is_refused_before_it_is_read() -> None:
    with pytest.raises(FeaturesError, match=f"of {MAX_EVENTS + 1} events has at most {MAX_EVENTS}"):
        unpack_history(struct.pack("<2sHIH", b"QH", 2, MAX_EVENTS + 1, 0) + bytes(19 * (MAX_EVENTS + 1)))


def test_a_code_without_a_name_is_refused() -> None:
    packed = bytearray(pack_history(History(item_ids=["7"], events=["view"], values=[4.0], at_ms=[1_000])))
    # After the header of 8 bytes, the kinds of 2 + 2 + 4, and one instant and one value.
    packed[8 + 8 + 16] = 1
    with pytest.raises(FeaturesError, match="with 1 kinds of event has no kind 1"):
        unpack_history(bytes(packed))


def test_unequal_lengths_are_refused_with_the_lengths() -> None:
    with pytest.raises(FeaturesError, match="got 1, 3, 0 and 2"):
        pack_history(History(item_ids=["1"], events=["a", "b", "c"], values=[], at_ms=[1, 2]))


def one_event(*, item_id: str = "1", event: str = "view", at_ms: int = 1) -> History:
    return History(item_ids=[item_id], events=[event], values=[1.0], at_ms=[at_ms])


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (one_event(item_id="x" * (MAX_NAME_BYTES + 1)), f"takes {MAX_NAME_BYTES + 1}"),
        (one_event(event="x" * (MAX_NAME_BYTES + 1)), f"takes {MAX_NAME_BYTES + 1}"),
        (one_event(item_id="\ud800"), "surrogates not allowed"),
        (one_event(event="\ud800"), "surrogates not allowed"),
        (one_event(at_ms=2**63), "instants as int64"),
        (history_of([("1", "view", 1.0, 1)] * (MAX_EVENTS + 1)), f"a window has at most {MAX_EVENTS}"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(history: History, message: str) -> None:
    with pytest.raises(FeaturesError, match=message):
        pack_history(history)
