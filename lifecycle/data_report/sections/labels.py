"""Labels: what they say, where they come from, and what better ones would cost."""

from lifecycle.data_report import counts, figures
from lifecycle.data_report.drawing import drawn
from lifecycle.data_report.html import THIN, Html, count, element, joined, quoted, share, table, whole_share
from lifecycle.data_report.log import Log
from lifecycle.data_report.section import KeyNumber, Report, Row, Section, card, cards, note, numbers_behind


def labels_section(log: Log, report: Report) -> Section:
    """Labels by split and source; of a log with at least one event."""
    labels = counts.label_sources(log)
    num = len(log)
    by_source = labels.groupby("source")["number"].sum().sort_values(ascending=False)
    positive = int(labels.loc[labels["says"] == "positive", "number"].sum())
    sources = ", ".join(f"{share(int(number), num)} {source}" for source, number in by_source.items())
    finding = f"{share(positive, num)} of the events are positive; by source, labels are {sources}."
    rows = [
        (row["split"], quoted(row["source"]), row["says"], count(row["number"]), share(row["number"], num))
        for row in labels.to_dict("records")
    ]
    drawing = drawn(
        lambda: figures.label_shares(labels),
        name="labels",
        description="What labels say and where they come from, by split",
    )
    behind = numbers_behind(table(["split", "source", "says", "events", "of all"], rows, num_text_columns=3))
    rule = note("The rule: ", element("code", quoted(str(report["labels"]), length=300)), ".")
    return Section(
        anchor="labels",
        key_numbers=(KeyNumber(share(positive, num), "positive labels", sources),),
        title="Labels",
        finding=joined(finding),
        content=cards(
            card(
                "Where labels come from",
                reading=_reading(by_source.to_dict(), positive, num),
                content=joined(drawing, behind, rule),
            ),
            _cost(),
        ),
    )


def _reading(by_source: Row, positive: int, num: int) -> str:
    explicit = int(by_source.get("explicit", 0))
    if explicit == num:
        negative = share(num - positive, num)
        return f"Every label was read from what a query said: {share(positive, num)} positive, {negative} negative."
    if not explicit:
        zero = num - positive
        ends = f"{share(zero, num)} are skipped" if zero else "nothing says what was not wanted"
        return f"No label was read from a value: that an event happened is what counts, and {ends}."
    return f"{share(explicit, num)} of the labels were read from what a query said, the others are implicit or assumed."


def _cost() -> Html:
    cost = counts.cost_of_labels()
    rows = [
        (f"±{THIN}{50 * row['width']:g} points", *(count(int(row[f"share_{part}"])) for part in counts.PROPORTIONS))
        for row in cost.to_dict("records")
    ]
    header = [f"{whole_share(0.95)} interval", *(f"at {whole_share(part)} relevant" for part in counts.PROPORTIONS)]
    row = cost[cost["width"] == 0.05].to_dict("records")[0]
    reading = (
        f"To know within ±{THIN}2.5 points what share of the served items is relevant, people would have to judge "
        f"{count(int(row['share_0.5']))} items drawn at random; half the width costs four times as many."
    )
    return card("What explicit labels would cost", reading=reading, content=table(header, rows))
