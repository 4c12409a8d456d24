import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from features.vocab import FIRST, PADDING, UNKNOWN
from towers.encoders import CategoryEmbedding, CausalQueryTower, ItemTower

LENGTH, WIDTH, TEXT_WIDTH = 6, 8, 3


def category_embedding(*weights: list[list[float]]) -> CategoryEmbedding:
    """One column for each given table of rows of width 2."""
    module = CategoryEmbedding(sizes=tuple(len(rows) for rows in weights), width=2)
    with torch.no_grad():
        for table, rows in zip(module.tables, weights, strict=True):
            table.weight.copy_(torch.tensor(rows))
    return module


def test_a_columns_values_are_averaged_and_the_columns_added():
    module = category_embedding([[0.0, 0.0], [9.0, 9.0], [2.0, 4.0], [4.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    values = torch.tensor([[[2, 3, PADDING], [2, PADDING, PADDING]]])
    # (2 4) and (4 0) have mean (3 2); the second column adds (1 1)
    assert_close(module(values), torch.tensor([[4.0, 3.0]]))


def test_no_value_at_all_is_the_zero_vector():
    torch.manual_seed(0)
    module = CategoryEmbedding(sizes=(4, 3), width=WIDTH)
    assert not module(torch.full((2, 2, 3), PADDING)).any()


def test_a_value_weighs_the_same_however_many_places_its_column_has():
    torch.manual_seed(0)
    module = CategoryEmbedding(sizes=(4,), width=WIDTH)
    assert_close(module(torch.tensor([[[3, PADDING, PADDING, PADDING]]])), module(torch.tensor([[[3]]])))


def test_padding_stays_the_zero_vector_through_training():
    torch.manual_seed(0)
    module = CategoryEmbedding(sizes=(4,), width=WIDTH)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.tensor([[[3, PADDING]], [[PADDING, PADDING]]])).sum().backward()
    optimiser.step()
    assert not module.tables[0].weight[PADDING].any()
    assert module.tables[0].weight[3].any()


def item_tower(*, id_dropout: float = 0.0, num_numbers: int = 2, text_width: int = 3) -> ItemTower:
    torch.manual_seed(0)
    return ItemTower(
        num_ids=12,
        category_sizes=(5,),
        num_numbers=num_numbers,
        text_width=text_width,
        width=WIDTH,
        id_dropout=id_dropout,
    )


def content(num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Categories, numbers and texts of some items."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randint(FIRST, 5, (num, 1, 2), generator=generator),
        torch.randn(num, 2, generator=generator),
        torch.randn(num, 3, generator=generator),
    )


def test_an_items_embedding_is_the_sum_of_its_parts():
    tower = item_tower().eval()
    categories, numbers, text = content(1)
    nothing = torch.zeros_like(categories), torch.zeros_like(numbers), torch.zeros_like(text)
    parts = [
        tower(torch.tensor([4]), *nothing),
        tower(torch.tensor([PADDING]), categories, nothing[1], nothing[2]),
        tower(torch.tensor([PADDING]), nothing[0], numbers, nothing[2]),
        tower(torch.tensor([PADDING]), nothing[0], nothing[1], text),
    ]
    assert all(part.any() for part in parts)
    assert_close(tower(torch.tensor([4]), categories, numbers, text), sum(parts[1:], parts[0]))


def test_an_item_of_unknown_id_is_embedded_from_its_content():
    tower = item_tower().eval()
    embeddings = tower(torch.tensor([UNKNOWN, UNKNOWN]), *content(2))
    assert not torch.allclose(embeddings[0], embeddings[1])


def test_padding_without_content_is_the_zero_vector():
    tower = item_tower().eval()
    assert not tower(torch.tensor([PADDING]), torch.zeros(1, 1, 2).long(), torch.zeros(1, 2), torch.zeros(1, 3)).any()


def test_items_may_lack_numbers_and_texts_altogether():
    tower = item_tower(num_numbers=0, text_width=0).eval()
    assert tower(torch.tensor([3]), torch.zeros(1, 1, 2).long(), torch.zeros(1, 0), torch.zeros(1, 0)).shape == (1, 8)


def test_ids_are_dropped_in_training_only():
    tower, items = item_tower(id_dropout=1.0), (torch.tensor([3, 4]), *content(2))
    as_unknown = tower.eval()(torch.tensor([UNKNOWN, UNKNOWN]), *items[1:])
    assert_close(tower.train()(*items), as_unknown)
    assert not torch.allclose(tower.eval()(*items), as_unknown)


def test_padding_is_never_taken_for_an_unknown_item():
    tower = item_tower(id_dropout=1.0).train()
    assert not tower(torch.tensor([PADDING]), torch.zeros(1, 1, 2).long(), torch.zeros(1, 2), torch.zeros(1, 3)).any()


def test_ids_are_dropped_at_the_given_rate():
    num = 10_000
    tower = item_tower(id_dropout=0.3, num_numbers=0, text_width=0).train()
    torch.manual_seed(5)
    nothing = torch.zeros(num, 1, 2).long(), torch.zeros(num, 0), torch.zeros(num, 0)
    dropped = (tower(torch.full((num,), 3), *nothing) == tower.id_embedding.weight[UNKNOWN]).all(dim=1)
    # deviation sqrt(0.3 * 0.7 / 10,000) = 0.0046
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=4 * 0.0046)


def query_tower(*, dropout: float = 0.0, text_width: int = TEXT_WIDTH) -> CausalQueryTower:
    torch.manual_seed(0)
    tower = CausalQueryTower(
        category_sizes=(4, 3),
        num_numbers=2,
        text_width=text_width,
        history_length=LENGTH,
        width=WIDTH,
        num_blocks=2,
        num_heads=2,
        feed_forward_factor=2,
        dropout=dropout,
    )
    with torch.no_grad():  # far from the small initial weights, where almost nothing depends on anything
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return tower.eval()


TOWER = query_tower()


def queries(seed: int, *, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """History embeddings, mask, categories, numbers and text of queries with histories of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    num = len(lengths)
    mask = torch.arange(LENGTH) >= LENGTH - torch.tensor(lengths).unsqueeze(1)
    history = torch.randn(num, LENGTH, WIDTH, generator=generator) * mask.unsqueeze(-1)
    categories = torch.randint(0, 3, (num, 2), generator=generator)
    numbers, text = (torch.randn(num, width, generator=generator) for width in (2, TEXT_WIDTH))
    return history, mask, categories, numbers, text


seeds = st.integers(0, 2**31)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(0, LENGTH), st.integers(1, LENGTH - 1))
def test_a_later_item_changes_no_earlier_state(seed, length, place):
    history, mask, *attributes = queries(seed, lengths=[length])
    changed = history.clone()
    changed[:, place:] = torch.randn(1, LENGTH - place, WIDTH, generator=torch.Generator().manual_seed(seed + 1)) * 10
    before = TOWER.states(history, mask, *attributes)
    after = TOWER.states(changed, mask, *attributes)
    assert_close(after[:, :place], before[:, :place], atol=1e-6, rtol=1e-6)
    if mask[0, place]:
        assert not torch.allclose(after[:, place], before[:, place], atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(0, LENGTH))
def test_what_stands_in_the_padding_does_not_matter(seed, length):
    history, mask, *attributes = queries(seed, lengths=[length])
    noise = torch.randn(history.shape, generator=torch.Generator().manual_seed(seed + 1)) * 100
    filled = torch.where(mask.unsqueeze(-1), history, noise)
    assert_close(TOWER(filled, mask, *attributes), TOWER(history, mask, *attributes))


def test_no_item_looks_at_the_padding_before_it():
    # Two more places of padding: whoever looked there would see two more states in its attention.
    history, mask, *attributes = queries(0, lengths=[2])
    longer = query_tower()
    longer.positions = torch.nn.Parameter(torch.cat([torch.ones(2, WIDTH), TOWER.positions.detach()]))
    more_history = torch.cat([torch.zeros(1, 2, WIDTH), history], dim=1)
    more_mask = torch.cat([torch.zeros(1, 2, dtype=torch.bool), mask], dim=1)
    assert_close(
        longer.states(more_history, more_mask, *attributes)[:, 2:],
        TOWER.states(history, mask, *attributes),
    )


def test_the_state_before_a_first_event_is_what_a_query_without_history_is_answered_from():
    _, _, *attributes = queries(0, lengths=[2])
    history, mask, *_ = queries(0, lengths=[2])
    before = TOWER.states(history, mask, *attributes)[:, : LENGTH - 2]
    empty = TOWER(torch.zeros_like(history), torch.zeros_like(mask), *attributes)
    assert_close(before, empty.unsqueeze(1).expand_as(before))


@settings(deadline=None, max_examples=30)
@given(seeds, st.lists(st.integers(0, LENGTH), min_size=1, max_size=5))
def test_a_batch_equals_its_rows_one_at_a_time(seed, lengths):
    batch = queries(seed, lengths=lengths)
    together = TOWER(*batch)
    for row in range(len(lengths)):
        alone = TOWER(*(part[row : row + 1] for part in batch))
        assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_a_query_is_its_last_state():
    batch = queries(0, lengths=[0, 3, LENGTH])
    assert_close(TOWER(*batch), TOWER.states(*batch)[:, -1])


def test_an_empty_history_gives_an_embedding_from_the_attributes_and_finite_gradients():
    tower = query_tower()
    history, mask, _, numbers, text = queries(0, lengths=[0, 0])
    categories = torch.tensor([[2, 2], [3, 2]])
    embeddings = tower(history, mask, categories, numbers[:1].expand(2, -1), text[:1].expand(2, -1))
    embeddings.square().sum().backward()
    assert embeddings.isfinite().all()
    assert not torch.allclose(embeddings[0], embeddings[1])
    assert all(parameter.grad.isfinite().all() for parameter in tower.parameters() if parameter.grad is not None)


def test_queries_without_history_are_told_apart_by_what_they_say():
    history, mask, categories, numbers, text = queries(0, lengths=[0, 0])
    same = categories[:1].expand(2, -1), numbers[:1].expand(2, -1)
    found = TOWER(history, mask, *same, text)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert_close(*TOWER(history, mask, *same, text[:1].expand(2, -1)))


def test_a_tower_without_text_takes_an_embedding_of_no_width():
    tower = query_tower(text_width=0)
    history, mask, categories, numbers, _ = queries(0, lengths=[3])
    assert tower.text is None
    assert tower(history, mask, categories, numbers, torch.zeros(1, 0)).shape == (1, WIDTH)


def test_the_order_of_a_history_matters():
    history, mask, *attributes = queries(0, lengths=[LENGTH])
    swapped = history[:, [1, 0, *range(2, LENGTH)]]
    assert not torch.allclose(TOWER(history, mask, *attributes), TOWER(swapped, mask, *attributes), atol=1e-3)


def test_dropout_works_in_training_only():
    tower, batch = query_tower(dropout=0.5), queries(0, lengths=[LENGTH])
    assert torch.equal(tower(*batch), tower(*batch))
    tower.train()
    assert not torch.allclose(tower(*batch), tower(*batch))
