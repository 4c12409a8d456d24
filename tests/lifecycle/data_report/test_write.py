"""The numbers that a page shows, of a dataset small enough to count by hand."""

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import pyarrow as pa
import pytest

from features.columns import FeatureColumns
from features.errors import FeaturesError, SchemaMismatch
from features.labels import RatingLabels
from features.split import TimeSplit
from lifecycle.data_report.write import write_data_report

# In time: 6 train, 1 ranking, 1 validation, 2 test. p is new in test, q repeats a there; c was seen in ranking alone.
# Three rows more are set aside.
EVENTS = [
    ("q", "a", 0, "rating", 5.0),
    ("q", "b", 1, "rating", 5.0),
    ("r", "a", 2, "rating", 1.0),
    ("r", "b", 3, "rating", 5.0),
    ("s", "a", 4, "rating", 5.0),
    ("s", "a", 5, "rating", 5.0),
    ("s", "c", 6, "rating", 5.0),
    ("r", "d", 7, "rating", 5.0),
    ("q", "a", 8, "rating", 5.0),
    ("p", "c", 9, "rating", 5.0),
    ("q", "z", 3, "rating", 5.0),
    ("q", "a", -30_000, "rating", 5.0),
    ("q", "y", 3, "rating", 5.0),
]
SPLIT = TimeSplit(train=0.6, ranking=0.1, validation=0.1)


def text_of(path: Path) -> str:
    """What a reader sees, spaces as spaces, each section on a line of its own."""
    page = path.read_text(encoding="utf-8")
    page = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.DOTALL).replace("<section", "\n<section")
    return re.sub("[ \u00a0\u202f]+", " ", unescape(re.sub("<[^>]+>", "", page)))


@pytest.fixture(scope="module")
def text(
    prepare_into: Callable[..., Path], no_columns: FeatureColumns, tmp_path_factory: pytest.TempPathFactory
) -> str:
    data_dir = prepare_into(
        tmp_path_factory.mktemp("data"),
        EVENTS,
        items=list("abcdef"),
        item_columns={"year": pa.array([1990, None, 1992, None, None, 1995], pa.int32())},
        labels=RatingLabels(threshold=4),
        split=SPLIT,
    )
    return text_of(write_data_report(data_dir, columns=replace(no_columns, history_length=2, item_numbers=("year",))))


@pytest.mark.parametrize(
    "sentence",
    [
        # 13 events, 6 items and 4 queries were read
        "3 of 23 rows were set aside, most often events for “unknown item” (2).",
        "Kept: 76.9 % of events, 100 % of items, 100 % of queries.",
        "row 10 query_id=q, item_id=z, event=rating, value=5, occurred_at=2024-10-07 00:00:00.000Z",
        "10 events from 4 Oct 2024 to 13 Oct 2024: 9 days.",
        "Cut in time for all queries alike after 60.0 % of the events: ranking at 10 Oct 2024, validation at "
        "11 Oct 2024, test at 12 Oct 2024.",
        "Every event is of one kind: “rating”. No two events of a query share an instant.",
        "Times are days: all events are of the hour 00:00 UTC, most on a Friday (20.0 %).",
        # a has 5 of 10, b 2, c 2, d 1; the top 1 %, 10 % and 20 % of four items are one item
        "Of the events, 50.0 % fall on the most popular 1 % of items (1), 50.0 % on the top 10 % (1) and "
        "50.0 % on the top 20 % (1).",
        # ascending 1, 2, 2, 5: 2 (1 + 4 + 6 + 20) / (4 * 10) - 5 / 4 = 0.30
        "The Gini coefficient is 0.30: it would be 0 if every item had the same number of events, and 0.75 if one of "
        "the 4 had them all.",
        "The most popular item has 5 events, the median one 2; 2 items of the catalogue (33.3 %) have none.",
        # histories of 3, 3, 3 and 1
        "The median query has 3 events; one in ten has at most 1, one in ten at least 3, the longest 3.",
        "75.0 % of the queries have more than the newest 2 events that the query tower sees, 0 % more than the 1,000 "
        "that are stored.",
        "In test, 50.0 % of the queries have no training event, 50.0 % of the events are on items unseen in training, "
        "and 50.0 % repeat an item of the query's own past.",
        "A refit on all events before test makes 0 of 1 cold test queries known, and the items of 1 of 1 test events "
        "on unseen ones.",
        "such items are left out of lists, so these events cannot be hit. 50.0 % are their query's first event",
        "90.0 % of the events are positive; by source, labels are 100 % explicit.",
        "people would have to judge 1,537 items drawn at random",
        "2 columns of 11 miss something, most of all items.available_from, in 100 % of its rows.",
        "Nothing at all is said by 1 column; less than 1 % is missing from 0.",
    ],
)
def test_a_sentence_says_what_was_counted(text: str, sentence: str) -> None:
    assert sentence in text


def test_the_top_of_the_page_has_the_key_numbers(text: str) -> None:
    top = text.split("In short")[0]
    for number in (
        "10events76.9 % of those read",
        "9 daysof events4 Oct 2024 to 13 Oct 2024",
        "6items33.3 % without an event",
        "50.0 %of events on the top tenthof the items; Gini 0.30",
        "4queriesmedian: 3 events",
        "50.0 %cold queries in test",
        "50.0 %unseen items in test",
        "50.0 %repeats in test",
        "90.0 %positive labels100 % explicit",
    ):
        assert number in top
    assert re.search(r"\d of 2\dfeatures drift", top)


def test_where_items_repeat_the_page_says_so(prepared: Callable[..., Path], no_columns: FeatureColumns) -> None:
    path = write_data_report(prepared(EVENTS, split=SPLIT), columns=replace(no_columns, repeats=True))
    assert "such items may be recommended again." in text_of(path)


def test_a_dataset_without_histories_says_so(prepared: Callable[..., Path], no_columns: FeatureColumns) -> None:
    path = write_data_report(prepared(EVENTS, split=SPLIT), columns=replace(no_columns, stored_history=0))
    assert "What a query did is no feature of this dataset: no history is stored." in text_of(path)


def test_a_page_needs_prepared_tables(tmp_path: Path, no_columns: FeatureColumns) -> None:
    with pytest.raises(FeaturesError, match=r"no prepared data in .*run scripts/prepare_data"):
        write_data_report(tmp_path, columns=no_columns)


def test_a_column_that_the_tables_lack_is_named(prepared: Callable[..., Path], no_columns: FeatureColumns) -> None:
    data_dir = prepared(EVENTS)
    with pytest.raises(SchemaMismatch, match=r"dataset\.columns\.queries names \['age'\].*it has \['query_id'\]"):
        write_data_report(data_dir, columns=replace(no_columns, query_numbers=("age",)))
    assert not (data_dir / "report.html").exists()


def test_a_failure_leaves_the_former_page(prepared: Callable[..., Path], no_columns: FeatureColumns) -> None:
    data_dir = prepared(EVENTS)
    former = write_data_report(data_dir, columns=no_columns).read_bytes()
    with pytest.raises(SchemaMismatch):
        write_data_report(data_dir, columns=replace(no_columns, item_texts=("title",)))
    assert (data_dir / "report.html").read_bytes() == former
    assert [path.name for path in data_dir.iterdir() if path.is_file()] == ["report.html"]
