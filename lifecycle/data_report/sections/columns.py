"""Columns: what stands in each, and what is missing."""

from pathlib import Path

from features.events import TABLES
from lifecycle.data_report import figures
from lifecycle.data_report.columns import Column, missing_table, profile
from lifecycle.data_report.drawing import drawn_for_both
from lifecycle.data_report.html import (
    TIMES,
    Html,
    bar,
    count,
    counted,
    day,
    element,
    joined,
    minute,
    quoted,
    share,
    table,
    whole_share,
)
from lifecycle.data_report.section import Section, card, cards, note

COLUMNS_DRAWN = 24
FEW_MISSING = 0.01


def columns_section(tables_dir: Path) -> Section:
    """Every column of the prepared tables."""
    found = profile(tables_dir, TABLES)
    missing = missing_table(found)
    whole = [one for one in found if not one.num_missing]
    if len(missing):
        worst = missing.to_dict("records")[0]
        finding = joined(
            f"{counted(len(missing), 'column')} of {len(found)} {'misses' if len(missing) == 1 else 'miss'} something",
            ": " if len(missing) == 1 else ", most of all ",
            element("code", quoted(worst["column"])),
            f", in {share(worst['num_missing'], worst['num_rows'])} of its rows.",
        )
        rows = missing.to_dict("records")
        num_empty = sum(row["num_missing"] == row["num_rows"] for row in rows)
        num_fuller = sum(row["num_missing"] < FEW_MISSING * row["num_rows"] for row in rows)
        reading = (
            f"Nothing at all is said by {counted(num_empty, 'column')}; less than {whole_share(FEW_MISSING)} is "
            f"missing from {count(num_fuller)}."
        )
        drawing = drawn_for_both(
            lambda width: figures.missing_shares(missing.head(COLUMNS_DRAWN), width=width),
            name="missing",
            description="Share of rows missing, by column",
        )
        more = len(missing) - COLUMNS_DRAWN
        left_out = note(f"{counted(more, 'column')} more with less missing.") if more > 0 else joined()
        shown = [card("What is missing", reading=reading, content=joined(drawing, left_out), wide=True)]
    else:
        finding, shown = joined(f"Nothing is missing in any of {counted(len(found), 'column')}."), []
    header = ["column", "kind", "looks like", "rows", "missing", "distinct"]
    reading = f"{counted(len(whole), 'column')} of {len(found)} say something in every row."
    shown.append(
        card(
            "Every column",
            reading=reading,
            content=table(header, [_row(one) for one in found], num_text_columns=3),
            wide=True,
        )
    )
    return Section("columns", "Columns", finding, cards(*shown))


def _row(one: Column) -> tuple[Html | str, ...]:
    part = one.num_missing / one.num_rows if one.num_rows else 0.0
    missing = bar(part, share(one.num_missing, one.num_rows)) if one.num_missing else joined("0")
    name = joined(element("small", f"{one.table}."), element("code", quoted(one.name, length=40)))
    return name, one.kind, _looks(one), count(one.num_rows), missing, count(one.num_distinct)


def _looks(one: Column) -> Html:
    if one.kind == "instant" and one.quantiles:
        instant = minute if len({day(int(at_ms)) for at_ms in one.quantiles}) == 1 else day
        return joined(" … ".join(instant(int(at_ms)) for at_ms in one.quantiles))
    if one.quantiles:
        return joined(" … ".join(f"{number:.6g}" for number in one.quantiles))
    if one.frequent:
        named = (
            joined(quoted(value, length=28), " ", element("small", f"{count(number)}{TIMES}"))
            for value, number in one.frequent
        )
        return joined(*(joined(", ", part) if place else part for place, part in enumerate(named)))
    return joined("every value once" if one.num_distinct else "nothing")
