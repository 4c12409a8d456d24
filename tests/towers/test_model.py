from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from features.columns import FeatureColumns
from features.spec import TextLayout
from features.tower_inputs import QueryTowerInputs
from features.transforms import ItemInputs
from features.vocab import FIRST, PADDING, NumberScale, Vocabularies, Vocabulary
from towers.errors import UnfitPieces
from towers.model import ItemTable, TowerSizes, TwoTower, build_two_tower
from towers.query_towers.causal import CausalQueryTower

SIZES = TowerSizes(
    num_ids=6,
    item_category_sizes=(5, 4),
    num_item_numbers=1,
    text_width=3,
    query_category_sizes=(3,),
    num_query_numbers=1,
    query_text_width=0,
    history_length=4,
    num_event_kinds=3,
    value_scale=NumberScale(0.0, 1.0),
)


def item_table(num_rows: int = 7) -> ItemTable:
    """A table of which a longer one begins with the same rows."""
    generator = np.random.default_rng(0)
    numbers, texts = (generator.normal(size=(20, width)).astype(np.float32)[:num_rows] for width in (1, 3))
    rows = np.arange(num_rows)
    return ItemTable(
        items=ItemInputs(
            item_id=rows % 6,
            categories=np.stack([rows[:, None] % 5, rows[:, None] % 4], axis=1),
            numbers=numbers,
            title_tokens=np.zeros((num_rows, 1), dtype=np.int32),
            text_tokens=np.zeros((num_rows, 1), dtype=np.int32),
        ),
        text_embeddings=texts,
    )


def model(table: ItemTable | None = None) -> TwoTower:
    torch.manual_seed(0)
    return build_two_tower(sizes=SIZES, item_table=table or item_table(), width=8).eval()


def test_sizes_follow_from_the_spec_and_what_was_fitted():
    columns = FeatureColumns(
        query_categories=("gender", "occupation"),
        query_numbers=("age",),
        item_categories=("genres",),
        item_numbers=("year", "runtime"),
        item_texts=("title",),
        history_length=9,
    )
    vocabularies = Vocabularies(
        categories={
            "item_id": Vocabulary(("a", "b", "c")),
            "genres": Vocabulary(("Drama",)),
            "gender": Vocabulary(("F", "M")),
            "occupation": Vocabulary(()),
            "event": Vocabulary(("view", "purchase")),
        },
        numbers={
            **{name: NumberScale(0.0, 1.0) for name in ("age", "year", "runtime")},
            "history_value": NumberScale(3.5, 1.1),
        },
    )
    # a vocabulary's size is its values, padding and unknown
    assert TowerSizes.of(
        columns.spec(text=TextLayout(), ranker_features=()), vocabularies, text_width=384
    ) == TowerSizes(
        num_ids=5,
        item_category_sizes=(3,),
        num_item_numbers=2,
        text_width=384,
        query_category_sizes=(4, 2),
        num_query_numbers=1,
        query_text_width=0,
        history_length=9,
        num_event_kinds=4,
        value_scale=NumberScale(3.5, 1.1),
    )


def test_what_queries_say_is_as_wide_as_what_items_say():
    columns = FeatureColumns(
        query_categories=(), query_numbers=(), item_categories=(), item_numbers=(), item_texts=(), query_text="asked"
    )
    vocabularies = Vocabularies(
        categories={"item_id": Vocabulary(("a",)), "event": Vocabulary(("asked",))},
        numbers={"history_value": NumberScale(0.0, 1.0)},
    )
    spec = columns.spec(text=TextLayout(query_tokens=8), ranker_features=())
    assert TowerSizes.of(spec, vocabularies, text_width=384).query_text_width == 384


def test_the_table_gives_the_item_towers_inputs_by_row():
    table = item_table()
    item_id, categories, numbers, text = table(torch.tensor([3, 3, 2]))
    assert item_id.tolist() == [3, 3, 2]
    assert categories.tolist() == [[[3], [3]], [[3], [3]], [[2], [2]]]
    assert_close(numbers, table.numbers[[3, 3, 2]])
    assert_close(text, table.text_embedding[[3, 3, 2]])
    assert len(table) == 7


def test_an_items_embedding_does_not_depend_on_the_rows_asked_for_with_it():
    towers = model()
    catalogue = towers.embed_catalogue()
    assert catalogue.shape == (7, 8)
    assert_close(towers.embed_items(torch.tensor([5, 2, 5])), catalogue[[5, 2, 5]])


def test_the_table_travels_with_the_module_but_not_in_its_weights():
    towers = model()
    assert not any(name.startswith("item_table") for name in towers.state_dict())
    assert {buffer.device.type for buffer in towers.to("meta").item_table.buffers()} == {"meta"}


def test_weights_serve_a_catalogue_that_has_grown():
    towers, grown = model(), model(item_table(num_rows=9))
    grown.load_state_dict(towers.state_dict())
    assert_close(grown.embed_catalogue()[:7], towers.embed_catalogue())


def test_a_history_is_embedded_as_the_items_it_is_made_of():
    towers = model()
    rows = torch.tensor([[PADDING, PADDING, FIRST, 4]])
    inputs = QueryTowerInputs(
        history_embeddings=towers.embed_items(rows.flatten()).view(1, 4, 8),
        history_mask=rows != PADDING,
        history_events=torch.full((1, 4), FIRST),
        history_values=torch.zeros(1, 4),
        history_gap_days=torch.ones(1, 4),
        query_categories=torch.tensor([[2]]),
        query_numbers=torch.zeros(1, 1),
        query_text=torch.zeros(1, 0),
    )
    from_rows = towers.query_tower(inputs)
    from_catalogue = towers.query_tower(replace(inputs, history_embeddings=towers.embed_catalogue()[rows]))
    assert_close(from_rows, from_catalogue)


def test_a_width_that_heads_cannot_share_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"towers\.width must be .* of towers\.query_tower\.num_heads; got 10 and 4"):
        build_two_tower(
            sizes=SIZES, item_table=item_table(), width=10, query_tower=partial(CausalQueryTower, num_heads=4)
        )


def test_prefixes_that_are_no_prefixes_are_refused():
    with pytest.raises(UnfitPieces, match=r"prefix_widths must lie between 1 and 7, below towers.width; got \[4, 8\]"):
        build_two_tower(sizes=SIZES, item_table=item_table(), width=8, prefix_widths=[4, 8])
    assert build_two_tower(sizes=SIZES, item_table=item_table(), width=8, prefix_widths=[2, 4]).prefix_widths == (2, 4)


def test_texts_that_are_alike_begin_alike_on_both_sides():
    sizes = TowerSizes(
        num_ids=3,
        item_category_sizes=(),
        num_item_numbers=0,
        text_width=12,
        query_category_sizes=(),
        num_query_numbers=0,
        query_text_width=12,
        history_length=1,
        num_event_kinds=2,
        value_scale=NumberScale(0.0, 1.0),
    )
    table = ItemTable(
        items=ItemInputs(
            item_id=np.zeros(3, dtype=np.int64),
            categories=np.zeros((3, 0, 1), dtype=np.int64),
            numbers=np.zeros((3, 0), dtype=np.float32),
            title_tokens=np.zeros((3, 1), dtype=np.int32),
            text_tokens=np.zeros((3, 1), dtype=np.int32),
        ),
        text_embeddings=np.zeros((3, 12), dtype=np.float32),
    )
    model = build_two_tower(sizes=sizes, item_table=table, width=8)
    query_text = model.query_tower.context.text
    assert query_text is not None
    assert model.item_tower.text is not None
    torch.testing.assert_close(query_text.weight, model.item_tower.text.weight)
    # orthogonal rows, scaled so that a random text of length 1 keeps its length on average: 12 / 8
    product = model.item_tower.text.weight @ model.item_tower.text.weight.T
    torch.testing.assert_close(product, torch.eye(8) * 12 / 8, atol=1e-5, rtol=0)
