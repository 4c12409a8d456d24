"""Drift: which features lie elsewhere in test than in train."""

import pandas as pd

from evaluation.drift import NUM_SPLITS
from lifecycle.data_report import figures
from lifecycle.data_report.drawing import drawn_for_both
from lifecycle.data_report.html import Html, bar, count, counted, element, joined, quoted, shown, table
from lifecycle.data_report.section import KeyNumber, Row, Section, card, cards, note

FEATURES_DRAWN = 40
ORIGINS = {
    "event": "event",
    "clock": "clock, UTC",
    "item": "item's column",
    "query": "query's column",
    "history": "query's history",
    "request": "instant of the request",
    "tick": "item at the last tick",
}
STEADY_NAMED = 6
MEASURES = {"KS": "Kolmogorov-Smirnov", "JS": "Jensen-Shannon"}
NUMBER_BEHIND = {"KS": "the largest gap between shares", "JS": "the distance of shares"}


def drift_section(table_of_drift: pd.DataFrame) -> Section:
    """Features by drift; the table is `ranked`."""
    if table_of_drift.empty:
        finding = "Train or test has no events, so there is nothing to compare."
        return Section("drift", "Drift", joined(finding), joined())
    rows: list[Row] = list(table_of_drift.to_dict("records"))
    num_drifting = sum(row["excess"] > 0 for row in rows)
    first = rows[0]
    if num_drifting:
        finding = joined(
            f"{num_drifting} of {counted(len(rows), 'feature')} lie further apart in train and test than chance would "
            "have them, most of all ",
            element("code", quoted(first["feature"])),
            f": {first['value']:.2f} where a random split shows {first['random_split']:.2f} (",
            quoted(first["moved"]),
            ", train → test).",
        )
    else:
        finding = joined(
            f"None of {counted(len(rows), 'feature')} lies further apart in train and test than chance would have it."
        )
    num_train, num_test = (max(row[f"num_{side}"] for row in rows) for side in ("train", "test"))
    drawing = drawn_for_both(
        lambda width: figures.drift(table_of_drift.head(FEATURES_DRAWN), width=width),
        name="drift",
        description="Drift of each feature from train to test, beside that of a random split",
    )
    numbers = [
        (
            element("code", quoted(row["feature"])),
            ORIGINS[row["origin"]],
            quoted(row["moved"], length=60),
            row["measure"],
            bar(row["value"], f"{row['value']:.3f}"),
            f"{row['random_split']:.3f}",
            f"{count(row['num_train'])} / {count(row['num_test'])}",
        )
        for row in rows
    ]
    header = ["feature", "comes from", "what moved", "measure", "drift", "random split", "n train / test"]
    return Section(
        anchor="drift",
        title="Drift",
        finding=finding,
        content=joined(
            cards(
                card("By feature", reading=_reading(num_drifting, rows), content=drawing, wide=True),
                card(
                    "Every feature",
                    reading=_steady_reading(rows),
                    content=table(header, numbers, num_text_columns=4),
                    wide=True,
                ),
            ),
            note(_method(num_train, num_test)),
        ),
        key_numbers=(KeyNumber(f"{num_drifting} of {len(rows)}", "features drift", "beyond a random split"),),
    )


def _method(num_train: int, num_test: int) -> str:
    return (
        f"Compared are up to {count(num_train)} events of train with {count(num_test)} of test, drawn with a fixed "
        "seed where there are more. Numbers: Kolmogorov-Smirnov (KS), the largest difference between the shares of "
        "both sides at or below one number. Categories: Jensen-Shannon (JS) distance of the shares of each value. Both "
        "run from 0, the same distribution, to 1, nothing in common. Two samples of one distribution differ too: "
        f"“random split” is the largest of {NUM_SPLITS} random splits of the same events into sides of the same sizes, "
        "which chance exceeds 1 time in 20. Events are shuffled one by one, so for what a query or an item keeps over "
        "its events the reference is on the low side. Derived features are as models read them: counts and days of a "
        "history by ln(1 + n), known just before the event; those of an item as of the last refresh tick, without the "
        "events of test, as an evaluation on test has them."
    )


def _reading(num_drifting: int, rows: list[Row]) -> Html:
    if not num_drifting:
        return joined("No bar passes the mark of its random split.")
    first = rows[0]
    return joined(
        "The coloured part of a bar is what chance does not explain; it is longest for ",
        element("code", quoted(first["feature"])),
        f" ({MEASURES[first['measure']]}: {NUMBER_BEHIND[first['measure']]}).",
    )


def _steady_reading(rows: list[Row]) -> str:
    steady = [shown(row["feature"], length=30) for row in rows if row["excess"] <= 0]
    if not steady:
        return "Every feature moved."
    others = " and others" if len(steady) > STEADY_NAMED else ""
    return f"{counted(len(steady), 'feature')} moved no more than chance: {', '.join(steady[:STEADY_NAMED])}{others}."
