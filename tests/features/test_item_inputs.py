from dataclasses import fields

import numpy as np

from features.catalogue import Catalogue, ItemColumns
from features.columns import FeatureColumns
from features.transforms import ItemInputs, item_inputs, item_texts
from features.vocab import FIRST, PADDING, UNKNOWN
from tests.features.by_hand import CATALOGUE, NUM_ROWS, SPEC, TEXT, VOCABULARIES

ITEM_COLUMNS = ItemColumns(
    catalogue=CATALOGUE,
    categories={
        "genres": [["Drama"], ["Crime", "Drama", "Comedy", "Western"], [], ["Western"], ["Comedy"], ["Drama"] * 4],
        "directors": [["Ozu"], [], [], ["Lynch", "Ozu"], [], []],
    },
    numbers={"year": np.array([1990.0, np.nan, 1980.0, 1970.0, 1980.0, 3000.0])},
    texts={
        "title": ["toy story", "", "boy", "", "", ""],
        "plot": ["a toy a boy", "a story", "", "", "", ""],
    },
)


def test_an_item_keeps_the_first_distinct_values_of_a_category(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    drama, comedy, crime, ozu = FIRST, FIRST + 1, FIRST + 2, FIRST
    assert items.categories[FIRST:, 0].tolist() == [
        [drama, 0, 0],
        [crime, drama, comedy],  # Western is the fourth
        [0, 0, 0],
        [UNKNOWN, 0, 0],  # Western was not in the vocabulary
        [comedy, 0, 0],
        [drama, 0, 0],  # said four times
    ]
    assert items.categories[FIRST + 3, 1].tolist() == [UNKNOWN, ozu, 0]


def test_an_item_newer_than_the_fit_has_the_unknown_id(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    assert items.item_id.tolist() == [PADDING, UNKNOWN, 2, 3, 4, 5, UNKNOWN, UNKNOWN]


def test_an_items_numbers_are_scaled_and_a_missing_one_is_zero(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    # (year - 1980) / 10; 3000 is cut to 5 deviations
    assert items.numbers[:, 0].tolist() == [0, 0, 1, 0, 0, -1, 0, 5]


def test_a_title_is_the_first_text_and_a_candidates_text_is_all_of_them(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    toy, story, a, boy, stop = 4, 5, 6, 7, 8
    assert items.title_tokens[FIRST : FIRST + 3].tolist() == [[toy, story, 0], [0, 0, 0], [boy, 0, 0]]
    # "toy story. a toy a boy" is cut after 4 tokens; the others have one text each and no full stop
    assert items.text_tokens[FIRST : FIRST + 3].tolist() == [[toy, story, stop, a], [a, story, 0, 0], [boy, 0, 0, 0]]


def test_padding_and_unknown_have_neither_values_nor_text(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    for array in (items.categories, items.numbers, items.title_tokens, items.text_tokens):
        assert len(array) == NUM_ROWS
        assert not array[:FIRST].any()


def test_an_items_text_is_one_line_of_its_columns():
    assert item_texts(ITEM_COLUMNS, names=("title", "plot"))[:5] == ["", "", "toy story. a toy a boy", "a story", "boy"]


def test_a_catalogue_of_ids_alone_has_items_without_columns_and_without_text(tokenizer):
    bare = FeatureColumns(query_categories=(), query_numbers=(), item_categories=(), item_numbers=(), item_texts=())
    ids = ItemColumns(catalogue=CATALOGUE, categories={}, numbers={}, texts={})
    spec = bare.spec(text=TEXT, ranker_features=())
    items = item_inputs(ids, spec=spec, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    assert items.item_id.tolist() == [PADDING, UNKNOWN, 2, 3, 4, 5, UNKNOWN, UNKNOWN]
    assert items.categories.shape[:2] == (NUM_ROWS, 0)
    assert items.numbers.shape == (NUM_ROWS, 0)
    assert not items.text_tokens.any()


def test_a_catalogue_equals_its_items_one_at_a_time(tokenizer):
    items = item_inputs(ITEM_COLUMNS, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
    for place, item_id in enumerate(CATALOGUE.item_ids):
        alone = ItemColumns(
            catalogue=Catalogue((item_id,)),
            categories={name: [values[place]] for name, values in ITEM_COLUMNS.categories.items()},
            numbers={name: values[place : place + 1] for name, values in ITEM_COLUMNS.numbers.items()},
            texts={name: [values[place]] for name, values in ITEM_COLUMNS.texts.items()},
        )
        one = item_inputs(alone, spec=SPEC, vocabularies=VOCABULARIES, tokenizer=tokenizer)
        for field in fields(ItemInputs):
            np.testing.assert_array_equal(
                getattr(one, field.name)[FIRST], getattr(items, field.name)[FIRST + place], err_msg=field.name
            )
