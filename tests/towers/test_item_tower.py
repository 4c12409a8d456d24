import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from features.vocab import FIRST, PADDING, UNKNOWN
from towers.item_tower import CategoryEmbedding, ItemTower

WIDTH = 8


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
