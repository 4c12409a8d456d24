from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from features.tower_inputs import QueryTowerInputs
from features.vocab import FIRST, NumberScale
from tests.features.by_hand import NOW_MS, a_query, encoded
from towers.query_towers.history import GAP_EDGES_SECONDS, NUM_GAP_BUCKETS, GapBuckets, HistoryEncoding

DAY = 86_400
LENGTH, WIDTH, NUM_KINDS = 4, 2, 4


def bucket_of(seconds: float) -> int:
    """Of a gap as the features hold it: milliseconds as days in single precision."""
    query = a_query("a", at_ms=[NOW_MS - round(seconds * 1000)])
    (bucket,) = GapBuckets()(torch.from_numpy(encoded(query).history_gap_days[:, -1]))
    return int(bucket)


def test_a_gap_belongs_to_the_last_edge_that_it_has_reached():
    seconds = [0, 0.999, 1, 9.999, 10, 59.999, 60, 600, 3_599.999, 3_600, 21_600, DAY, 2 * DAY]
    assert [bucket_of(gap) for gap in seconds] == [1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 7, 8, 8]
    assert [bucket_of(days * DAY) for days in (3, 6, 7, 29, 30, 89, 90, 20_000)] == [9, 9, 10, 10, 11, 11, 12, 12]


@pytest.mark.parametrize("place", range(len(GAP_EDGES_SECONDS)))
def test_a_gap_of_exactly_an_edge_has_reached_it(place):
    assert bucket_of(GAP_EDGES_SECONDS[place]) == place + 1
    assert place + 1 < NUM_GAP_BUCKETS


def test_buckets_are_those_of_a_sorted_search():
    gaps = 10 ** np.random.default_rng(0).uniform(-7, 3.5, size=1000)
    buckets = GapBuckets()
    found = buckets(torch.from_numpy(gaps.astype(np.float32)).view(10, 100)).flatten()
    np.testing.assert_array_equal(found, np.searchsorted(buckets.edges.numpy(), gaps.astype(np.float32), side="right"))


def history_encoding(*parts: str, value_scale: NumberScale = NumberScale(3.0, 2.0)) -> HistoryEncoding:  # noqa: B008
    """With these parts alone, whose weights say what they are of: position p is (p, 0), bucket b (0, b), and so on."""
    names = ("positions", "gap_to_next", "gap_to_previous", "events", "values")
    encoding = HistoryEncoding(
        history_length=LENGTH,
        num_event_kinds=NUM_KINDS,
        value_scale=value_scale,
        width=WIDTH,
        **{name: name in parts for name in names},
    )
    with torch.no_grad():
        if encoding.positions is not None:
            encoding.positions.copy_(torch.tensor([[place, 0.0] for place in range(LENGTH)]))
        for table, weight in ((encoding.gap_to_next, 1.0), (encoding.gap_to_previous, 100.0), (encoding.events, 0.1)):
            if table is not None:
                table.weight.copy_(torch.tensor([[0.0, weight * place] for place in range(table.num_embeddings)]))
        if encoding.values is not None:
            encoding.values.weight.copy_(torch.tensor([[10.0], [0.0]]))
    return encoding


# The second of four places is the first event; gaps of 5 s, 2 days and 100 days have the buckets 2, 8 and 12.
INPUTS: QueryTowerInputs[Tensor] = QueryTowerInputs(
    history_embeddings=torch.tensor([[[0.0, 0.0], [0.5, 0.0], [0.25, 0.0], [0.0, 0.0]]]),
    history_mask=torch.tensor([[False, True, True, True]]),
    history_events=torch.tensor([[0, FIRST, FIRST + 1, FIRST]]),
    history_values=torch.tensor([[0.0, 5.0, 3.0, 100.0]]),
    history_gap_days=torch.tensor([[0.0, 5 / DAY, 2.0, 100.0]]),
    query_categories=torch.zeros(1, 0, dtype=torch.int64),
    query_numbers=torch.zeros(1, 0),
    query_text=torch.zeros(1, 0),
)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), [[0, 0], [0.5, 0], [0.25, 0], [0, 0]]),
        (("positions",), [[0, 0], [1.5, 0], [2.25, 0], [3, 0]]),
        (("gap_to_next",), [[0, 0], [0.5, 2], [0.25, 8], [0, 12]]),
        # the first event has none; that of the second is the first one's gap to its next
        (("gap_to_previous",), [[0, 0], [0.5, 0], [0.25, 200], [0, 800]]),
        (("events",), [[0, 0], [0.5, 0.2], [0.25, 0.3], [0, 0.2]]),
        # (5 - 3) / 2 and (3 - 3) / 2; 48.5 deviations are 5
        (("values",), [[0, 0], [10.5, 0], [0.25, 0], [50, 0]]),
        (
            ("positions", "gap_to_next", "gap_to_previous", "events", "values"),
            [[0, 0], [11.5, 2.2], [2.25, 208.3], [53, 812.2]],
        ),
    ],
)
def test_an_events_encoding_is_the_sum_of_the_parts_that_are_asked_for(parts, expected):
    assert_close(history_encoding(*parts)(INPUTS), torch.tensor([expected], dtype=torch.float32))


def test_a_part_that_is_not_asked_for_has_no_weights():
    assert list(history_encoding().parameters()) == []
    assert [name for name, _ in history_encoding("values").named_parameters()] == ["values.weight"]


def test_the_scale_of_values_travels_with_the_weights():
    one, other = history_encoding("values"), history_encoding("values", value_scale=NumberScale(0.0, 1.0))
    other.load_state_dict(one.state_dict())
    assert_close(other(INPUTS), one(INPUTS))


def test_padding_is_zero_whatever_stands_there():
    filled = replace(
        INPUTS,
        history_embeddings=INPUTS.history_embeddings + 7.0,
        history_values=INPUTS.history_values + 1.0,
        history_gap_days=INPUTS.history_gap_days + 3.0,
    )
    encoded_events = history_encoding("positions", "gap_to_next", "gap_to_previous", "events", "values")(filled)
    assert not encoded_events[0, 0].any()
    # 0.5 and 0 of the item, moved by 7; what stands in the padding is no gap before the first event
    assert_close(history_encoding("gap_to_previous")(filled)[0, 1], torch.tensor([7.5, 7.0]))


def test_a_history_of_one_place_has_no_previous_gap():
    one = QueryTowerInputs(**{name: array[:, -1:] for name, array in INPUTS.by_name.items()})
    assert_close(history_encoding("gap_to_previous")(one), torch.tensor([[[0.0, 0.0]]]))
