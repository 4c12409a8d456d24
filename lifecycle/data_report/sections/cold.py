"""Cold starts and repeats: what the measured events ask of a model that it has not seen."""

import pandas as pd

from lifecycle.cuts import FOLD
from lifecycle.data_report import counts, figures
from lifecycle.data_report.drawing import drawn
from lifecycle.data_report.html import Html, count, joined, share, table
from lifecycle.data_report.log import Log
from lifecycle.data_report.section import KeyNumber, Row, Section, card, cards, note, numbers_behind

KNOWN = {True: "train", False: "all before test"}


def cold_section(log: Log, *, leaves_out_repeats: bool) -> Section:
    """Shares of the measured events, in validation and test."""
    cold, repeats = counts.cold(log), counts.repeats(log)
    cold = cold[cold["num_targets"] > 0]
    again = {row["split"]: row for row in repeats.to_dict("records")}
    if cold.empty:
        finding = "No event is held out for validation or test, so nothing can be cold."
        return Section("cold", "Cold starts", joined(finding), joined())
    rows: dict[tuple[str, bool], Row] = {
        (row["split"], row["known"] == FOLD.name): row for row in cold.to_dict("records")
    }
    split = "test" if again["test"]["num_targets"] else "validation"
    own = again[split]
    num, num_repeats = own["num_targets"], own["num_repeats"]
    fold = rows[(split, True)]
    finding = (
        f"In {split}, {share(fold['num_cold_queries'], fold['num_queries'])} of the queries have no training event, "
        f"{share(fold['num_unseen'], num)} of the events are on items unseen in training, and "
        f"{share(num_repeats, num)} repeat an item of the query's own past."
    )
    return Section(
        anchor="cold",
        title="Cold starts",
        finding=joined(finding),
        content=joined(
            cards(_cold_card(rows), _repeats_card(repeats, split=split, leaves_out_repeats=leaves_out_repeats)),
            note(
                "Counted over targets: events with relevance above 0. “Knowing train” is the state in which candidates "
                "for the ranker are made, “knowing all before test” the one that is measured on test and released."
            ),
        ),
        key_numbers=(
            KeyNumber(
                share(fold["num_cold_queries"], fold["num_queries"]),
                f"cold queries in {split}",
                "without a training event",
            ),
            KeyNumber(share(fold["num_unseen"], num), f"unseen items in {split}", "of its events"),
            KeyNumber(share(num_repeats, num), f"repeats in {split}", "items of the query's past"),
        ),
    )


def _cold_card(rows: dict[tuple[str, bool], Row]) -> Html:
    bars, numbers = [], []
    for (split, is_fold), row in rows.items():
        for what, part, whole in (
            ("queries", row["num_cold_queries"], row["num_queries"]),
            ("events", row["num_unseen"], row["num_targets"]),
        ):
            name = f"cold queries,\n{split}" if what == "queries" else f"unseen items,\n{split}"
            bars.append((name, KNOWN[is_fold], part / whole, f"{share(part, whole)} of {count(whole)}"))
            text = "queries without an event" if what == "queries" else "events on items without one"
            numbers.append((f"{split}: {text}", KNOWN[is_fold], count(part), count(whole), share(part, whole)))
    bars.sort(key=lambda bar: bar[0])
    drawing = drawn(
        lambda: figures.cold_shares(pd.DataFrame(bars, columns=["what", "known", "share", "label"])),
        name="cold",
        description="Shares of cold queries and of events on unseen items",
    )
    behind = table(["", "knowing", "number", "of", "share"], numbers, num_text_columns=2)
    return card("What was never seen", reading=_refit_reading(rows), content=joined(drawing, numbers_behind(behind)))


def _refit_reading(rows: dict[tuple[str, bool], Row]) -> str:
    if ("test", False) not in rows:
        return "Test has no events, so what a refit before test would add cannot be said."
    fold, refit = rows[("test", True)], rows[("test", False)]
    queries = fold["num_cold_queries"] - refit["num_cold_queries"]
    items = fold["num_unseen"] - refit["num_unseen"]
    if not queries and not items:
        return "A refit on all events before test makes no cold test query and no unseen test item known."
    return (
        f"A refit on all events before test makes {count(queries)} of {count(fold['num_cold_queries'])} cold test "
        f"queries known, and the items of {count(items)} of {count(fold['num_unseen'])} test events on unseen ones."
    )


def _repeats_card(repeats: pd.DataFrame, *, split: str, leaves_out_repeats: bool) -> Html:
    shown = [row for row in repeats.to_dict("records") if row["num_targets"]]
    own = next(row for row in shown if row["split"] == split)
    does = "may be recommended again"
    if leaves_out_repeats:
        does = "are left out of lists" + (", so these events cannot be hit" if own["num_repeats"] else "")
    reading = (
        f"{share(own['num_repeats'], own['num_targets'])} of the {split} events are on an item that the query already "
        f"had; such items {does}. {share(own['num_first'], own['num_targets'])} are their query's first event: asked "
        "with an empty history."
    )
    rows = [
        (
            row["split"],
            count(row["num_targets"]),
            share(row["num_repeats"], row["num_targets"]),
            share(row["num_first"], row["num_targets"]),
        )
        for row in shown
    ]
    return card(
        "Repeats and first events",
        reading=reading,
        content=table(["split", "events", "repeats", "first of a query"], rows),
    )
