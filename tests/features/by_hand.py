"""Queries and items small enough to reckon with by hand, for the tests of what transforms.py makes of them."""

import math
from dataclasses import fields, replace

from hypothesis import strategies as st

from features.catalogue import Catalogue
from features.columns import FeatureColumns
from features.pairs import ranker_feature_names
from features.spec import DAY_MS, FeatureSpec, TextLayout
from features.text import TextTokenizer
from features.transforms import QueryFeatures, QueryInputs, query_inputs
from features.vocab import NumberScale, Vocabularies, Vocabulary

# Longer than the 5 events of a short-term affinity, so that the two spans differ.
HISTORY_LENGTH, STORED = 7, 9
NOW_MS = 20_000 * DAY_MS
RETRIEVERS = ("towers", "transitions")
COLUMNS = FeatureColumns(
    query_categories=("gender",),
    query_numbers=("age",),
    item_categories=("genres", "directors"),
    item_numbers=("year",),
    item_texts=("title", "plot"),
    history_length=HISTORY_LENGTH,
    stored_history=STORED,
    category_length=3,
)
NAMES = ranker_feature_names(
    retrievers=RETRIEVERS, item_categories=COLUMNS.item_categories, item_numbers=COLUMNS.item_numbers
)
TEXT = TextLayout(query_tokens=2, history_items=2, history_tokens=3, candidate_tokens=4)
SPEC = COLUMNS.spec(text=TEXT, ranker_features=NAMES)
ASKING = replace(COLUMNS, query_text="asked").spec(text=TEXT, ranker_features=NAMES)  # its queries have a text
VOCABULARIES = Vocabularies(
    categories={
        "gender": Vocabulary(("F", "M")),
        "item_id": Vocabulary(tuple("abcd")),  # e and f came after the fit
        "event": Vocabulary(("view", "purchase")),
        "genres": Vocabulary(("Drama", "Comedy", "Crime")),
        "directors": Vocabulary(("Ozu",)),
    },
    numbers={"age": NumberScale(mean=30.0, deviation=10.0), "year": NumberScale(mean=1980.0, deviation=10.0)},
)
CATALOGUE = Catalogue(tuple("abcdef"))
ROW = {item_id: CATALOGUE.row(item_id) for item_id in CATALOGUE.item_ids}
NUM_ROWS = len(CATALOGUE)


def a_query(
    items: str | list[str] = "",
    *,
    events: list[str] | None = None,
    values: list[float] | None = None,
    at_ms: list[int] | None = None,
    text: str = "",
    gender: str = "F",
    age: float = 30.0,
    requested_at_ms: int = NOW_MS,
) -> QueryFeatures:
    """One query; its history's values count up from 1 and its instants are a day apart, the newest a day ago."""
    history = list(items)
    return QueryFeatures(
        history_item_ids=[history],
        history_events=[events or ["view"] * len(history)],
        history_values=[values or [1.0 + place for place in range(len(history))]],
        history_at_ms=[at_ms or [requested_at_ms - DAY_MS * (len(history) - place) for place in range(len(history))]],
        texts=[text],
        categories=[[gender]],
        numbers=[[age]],
        requested_at_ms=[requested_at_ms],
    )


def together(*queries: QueryFeatures) -> QueryFeatures:
    return QueryFeatures(
        **{field.name: [row for query in queries for row in getattr(query, field.name)] for field in fields(queries[0])}
    )


def encoded(queries: QueryFeatures, *, spec: FeatureSpec = SPEC, tokenizer: TextTokenizer | None = None) -> QueryInputs:
    return query_inputs(queries, spec=spec, vocabularies=VOCABULARIES, catalogue=CATALOGUE, tokenizer=tokenizer)


item_ids = st.sampled_from([*CATALOGUE.item_ids, "unheard of", ""])


@st.composite
def one_query(draw: st.DrawFn) -> QueryFeatures:
    history = draw(st.lists(item_ids, max_size=STORED + 3))
    num = len(history)
    requested_at_ms = NOW_MS + draw(st.integers(-2 * DAY_MS, 2 * DAY_MS))
    ages_ms = draw(st.lists(st.integers(0, 500 * DAY_MS), min_size=num, max_size=num))
    kinds = st.sampled_from(["view", "purchase", "new kind"])
    return QueryFeatures(
        history_item_ids=[history],
        history_events=[draw(st.lists(kinds, min_size=num, max_size=num))],
        history_values=[draw(st.lists(st.floats(-5, 5), min_size=num, max_size=num))],
        history_at_ms=[sorted(requested_at_ms - age for age in ages_ms)],
        texts=[draw(st.sampled_from(["", "toy", "a boy story a"]))],
        categories=[[draw(st.sampled_from(["F", "M", "", "other"]))]],
        numbers=[[draw(st.one_of(st.floats(0, 100), st.just(math.nan)))]],
        requested_at_ms=[requested_at_ms],
    )
