import torch
from torch import nn
from torch.testing import assert_close

from towers.query_towers.gru import GatedRecurrence

WIDTH, LENGTH = 5, 7


def test_a_layer_without_padding_is_torchs_own_gru():
    torch.manual_seed(0)
    ours, theirs = GatedRecurrence(width=WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
    with torch.no_grad():
        for name, linear in (("ih", ours.of_event), ("hh", ours.of_state)):
            linear.weight.copy_(getattr(theirs, f"weight_{name}_l0"))
            linear.bias.copy_(getattr(theirs, f"bias_{name}_l0"))
        events = torch.randn(3, LENGTH, WIDTH)
        expected, _ = theirs(events)
        assert_close(ours(events, torch.ones(3, LENGTH, dtype=torch.bool)), expected)


def test_padding_moves_no_state():
    torch.manual_seed(0)
    layer, events = GatedRecurrence(width=WIDTH), torch.randn(1, LENGTH, WIDTH)
    states = layer(events, torch.arange(LENGTH).unsqueeze(0) >= 3)
    assert not states[0, :3].any()
    assert_close(states[:, 3:], layer(events[:, 3:], torch.ones(1, LENGTH - 3, dtype=torch.bool)))
