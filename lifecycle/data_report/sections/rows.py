"""Rows: what was read, what was kept, and what was set aside with examples."""

from pathlib import Path

from features.events import TABLES
from lifecycle.data_report.html import NO_VALUE, Html, bar, count, counted, element, joined, quoted, share, table
from lifecycle.data_report.section import KeyNumber, Report, Section, card, cards, note
from lifecycle.data_report.set_aside import Example, examples

REASONS_SHOWN = 12


def rows_section(report: Report, tables_dir: Path) -> Section:
    """Rows of the three tables."""
    rows = {name: report["rows"][name] for name in TABLES}
    read, kept = (sum(own[word] for own in rows.values()) for word in ("read", "kept"))
    reasons = [(number, name, reason) for name, own in rows.items() for reason, number in own["set_aside"].items()]
    reasons.sort(key=lambda row: (-row[0], row[1], row[2]))
    if reasons:
        number, name, reason = reasons[0]
        finding = joined(
            f"{count(read - kept)} of {counted(read, 'row')} were set aside, most often {name} for “",
            quoted(reason),
            f"” ({count(number)}).",
        )
    else:
        finding = joined(f"All {counted(read, 'row')} that were read were kept.")
    reading = "Kept: " + ", ".join(f"{share(own['kept'], own['read'])} of {name}" for name, own in rows.items()) + "."
    by_table = table(
        ["table", "read", "kept", "set aside"],
        [
            (name, count(own["read"]), count(own["kept"]), _aside(own["read"] - own["kept"], own["read"]))
            for name, own in rows.items()
        ],
    )
    content = [cards(card("Read and kept", reading=reading, content=by_table), *_facts(report))]
    if reasons:
        found = {name: examples(tables_dir / "rejected" / f"{name}.parquet") for name in TABLES}
        shown = [
            _reason(name, reason, number, read=rows[name]["read"], some=found[name].get(reason, []))
            for number, name, reason in reasons[:REASONS_SHOWN]
        ]
        more = len(reasons) - len(shown)
        if more > 0:
            shown.append(note(f"{counted(more, 'rarer reason')} more: see tables/report.json."))
        content.append(element("div", *shown, attributes={"class": "reasons"}))
    events = rows["events"]
    return Section(
        anchor="rows",
        title="Rows",
        finding=finding,
        content=joined(*content),
        key_numbers=(
            KeyNumber(count(events["kept"]), "events", f"{share(events['kept'], events['read'])} of those read"),
        ),
    )


def _aside(number: int, read: int) -> Html:
    return joined(count(number), " ", element("small", share(number, read))) if number else joined("0")


def _facts(report: Report) -> list[Html]:
    facts = report.get("facts") or {}
    if not facts:
        return []
    rows = [(quoted(str(name).replace("_", " ")), count(number)) for name, number in facts.items()]
    return [
        card(
            "What the source says",
            reading=f"{counted(len(facts), 'count')} that only the source can know.",
            content=table(["", "number"], rows),
        )
    ]


def _reason(name: str, reason: str, number: int, *, read: int, some: list[Example]) -> Html:
    heading = element(
        "summary",
        element("b", quoted(reason)),
        f" {counted(number, 'row')} of {name} ",
        bar(number / max(read, 1), share(number, read)),
    )
    lines = [
        element(
            "li",
            element("small", f"row {NO_VALUE}" if one.source_row is None else f"row {count(one.source_row)}"),
            " ",
            element("code", quoted(one.content, length=400)),
        )
        for one in some
    ]
    return element("details", heading, element("ul", *lines), attributes={"open": "open"})
