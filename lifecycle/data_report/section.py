"""What every section of the page is made of: a heading, a finding, cards, and numbers for the top of the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lifecycle.data_report.html import Html, Piece, element, joined

Report = Mapping[str, Any]  # what prepare writes to report.json
Row = Mapping[Any, Any]  # of a table, by column


@dataclass(frozen=True)
class KeyNumber:
    """A number for the top of the page, with what it counts and a word of context."""

    value: str
    label: str
    context: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: what a link names it by.
        finding: what it comes to, in a sentence made from the numbers.
        key_numbers: what of it belongs to the top of the page.
    """

    anchor: str
    title: str
    finding: Html
    content: Html
    key_numbers: tuple[KeyNumber, ...] = ()

    def html(self) -> Html:
        """The section's markup."""
        heading = element("h2", element("a", self.title, attributes={"href": f"#{self.anchor}"}))
        finding = element("p", self.finding, attributes={"class": "finding"})
        return element("section", heading, finding, self.content, attributes={"id": self.anchor})


def card(title: str, *, reading: Piece, content: Html, wide: bool = False) -> Html:
    """A plot or a table with its title and what it says in a sentence."""
    caption = element("figcaption", element("h3", title), element("p", reading))
    return element("figure", caption, content, attributes={"class": "card wide" if wide else "card"})


def cards(*content: Html) -> Html:
    """Cards side by side where there is room."""
    return element("div", *content, attributes={"class": "cards"})


def numbers_behind(table: Html) -> Html:
    """A plot's table, folded away."""
    return element("details", element("summary", "Numbers"), table)


def note(*content: Piece) -> Html:
    """A remark in small print."""
    return element("p", joined(*content), attributes={"class": "note"})
