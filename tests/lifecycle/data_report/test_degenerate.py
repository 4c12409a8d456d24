"""The page of datasets that lack what most have, or that mean harm."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from features.columns import FeatureColumns
from features.labels import ActionLabels, RatingLabels
from features.sources.files import FIRST_MADE_AT_MS
from features.split import TimeSplit
from lifecycle.data_report.write import write_data_report

ANCHORS = ("rows", "time", "items", "queries", "cold", "labels", "columns", "drift")
SCRIPT = "<script>alert(1)</script>"
VOID = {"meta", "link", "br", "hr"}


class Outline(HTMLParser):
    """Tags that a page opens, whether each is closed in its turn, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.policy = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline_of(path: Path) -> Outline:
    outline = Outline(path.read_text(encoding="utf-8"))
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids), "an id stands twice"
    assert tuple(name for name in outline.ids if name in ANCHORS) == ANCHORS
    return outline


DAILY = [(f"q{place % 4}", f"i{place % 7}", place / 3) for place in range(40)]
DEGENERATE: dict[str, dict[str, Any]] = {
    "one event": {"events": [("q", "a", 0)]},
    "three events of one query": {"events": [("q", "a", 0), ("q", "b", 1), ("q", "a", 2)]},
    "no event in test": {"events": [("q", "a", 0), ("p", "b", 1), ("p", "a", 2)]},
    "one instant": {"events": [("q", f"i{place}", 5) for place in range(12)]},
    "one item": {"events": [(f"q{place}", "a", place) for place in range(9)]},
    "instants made from an order": {"events": DAILY, "first_at_ms": FIRST_MADE_AT_MS},
    "the first days of 1970": {"events": DAILY, "first_at_ms": 0},
    "a century": {"events": [(f"q{place % 3}", f"i{place}", place * 1000) for place in range(20)], "first_at_ms": 0},
    "a split in time": {"events": DAILY, "split": TimeSplit(train=0.5, ranking=0.2, validation=0.2)},
    "only negatives": {"events": DAILY, "labels": RatingLabels(threshold=5)},
    "many kinds": {
        "events": [(*row, f"_kind {place % 9} $x^$") for place, row in enumerate(DAILY)],
        "labels": ActionLabels(relevance={"_kind 0 $x^$": 2}, otherwise=0),
    },
    "kinds that are called like columns": {
        "events": [(*row, ("start_ms", "train", "split")[place % 3]) for place, row in enumerate(DAILY)],
    },
    "items and queries without events": {
        "events": DAILY,
        "items": [f"i{place}" for place in range(50)],
        "queries": [f"q{place}" for place in range(50)],
    },
    "rows that were set aside": {"events": [*DAILY, ("q0", "i0", -30_000), ("q0", "i0", 0), ("", "i0", 1)]},
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_every_dataset_has_a_whole_page(name: str, prepared: Callable[..., Path], no_columns: FeatureColumns) -> None:
    outline = outline_of(write_data_report(prepared(**DEGENERATE[name]), columns=no_columns))
    assert re.findall(r"\b(?:nan|inf|NaT|<NA>)\b", " ".join(outline.text)) == []


def test_columns_that_say_nothing_are_compared_as_far_as_they_go(
    prepared: Callable[..., Path], no_columns: FeatureColumns
) -> None:
    nothing = {
        "tags": pa.array([[], None, ["x"], [], [], [], []], pa.list_(pa.string())),
        "weight": pa.array([None, float("nan"), None, None, None, None, None], pa.float64()),
        "colour": pa.array([None, "", " ", None, None, None, None], pa.string()),
        "stock": pa.array([1, 2, None, 4, 5, 6, 7], pa.int32()),
    }
    columns = replace(no_columns, item_categories=("tags", "colour"), item_numbers=("weight", "stock"))
    outline = outline_of(write_data_report(prepared(DAILY, item_columns=nothing), columns=columns))
    assert "items.weight" in outline.text
    assert "weight (KS)" not in outline.text  # nothing to compare
    assert "stock (KS)" in outline.text


def test_text_from_the_data_never_becomes_markup(prepared: Callable[..., Path], no_columns: FeatureColumns) -> None:
    events = [(f"{SCRIPT}{place % 3}", f"<b>{place % 5}", place, ("<i>", '"&amp;')[place % 2]) for place in range(30)]
    events += [("<img src=x onerror=alert(1)>", "<b>0", 3, "<i>"), (SCRIPT + "0", "<b>0", -30_000, "<i>\x00\u202e")]
    hostile = {"<h1>": pa.array([f"</table>{SCRIPT}", "\u202eabc", "\x00", "a" * 1_000_000, "$\\frac$"], pa.string())}
    data_dir = prepared(
        events,
        items=[f"<b>{place}" for place in range(5)],
        queries=[f"{SCRIPT}{place}" for place in range(3)],
        item_columns=hostile,
        labels=ActionLabels(relevance={"<i>": 1}, otherwise=0),
        name=SCRIPT,
    )
    path = write_data_report(data_dir, columns=replace(no_columns, item_categories=("<h1>",)))
    outline = outline_of(path)
    assert {"script", "img", "b>", "i"} & {*outline.tags} == set()
    assert outline.tags.count("h1") == 1
    page = path.read_text(encoding="utf-8")
    assert "\x00" not in page
    assert "\u202e" not in page
    assert f"{SCRIPT}0" in outline.text
    assert outline.policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_a_page_loads_nothing_and_the_same_tables_give_the_same_bytes(
    prepared: Callable[..., Path], no_columns: FeatureColumns
) -> None:
    data_dir = prepared(DAILY)
    first = write_data_report(data_dir, columns=no_columns).read_bytes()
    assert write_data_report(data_dir, columns=no_columns).read_bytes() == first
    assert len(first) < 3_000_000
    page = first.decode("utf-8")
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert [link for link in links if not link.startswith("#")] == []
    assert re.findall(r"url\((?!#)", page) == []
    assert "@import" not in page
