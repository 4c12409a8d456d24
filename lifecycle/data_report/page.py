"""The whole page from its sections: one file that loads nothing.

Owns the order of the page and its head. The policy in the head forbids scripts and every request, so that even markup
that slipped through could do nothing.
"""

from collections.abc import Sequence
from pathlib import Path

from lifecycle.data_report.html import Html, Piece, element, joined, quoted, trusted
from lifecycle.data_report.section import Section

STYLESHEET = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(name: str, sections: Sequence[Section], *, lead: Sequence[Piece]) -> str:
    """The document.

    Args:
        name: of the dataset.
        sections: in order.
        lead: what stands under the title.
    """
    key_numbers = [number for section in sections for number in section.key_numbers]
    tiles = [
        element("li", element("b", number.value), element("span", number.label), element("small", number.context))
        for number in key_numbers
    ]
    brief = [
        element(
            "li",
            element("a", section.title, attributes={"href": f"#{section.anchor}"}),
            element("span", section.finding),
        )
        for section in sections
    ]
    links = [
        element("li", element("a", section.title, attributes={"href": f"#{section.anchor}"})) for section in sections
    ]
    body = element(
        "body",
        element(
            "header",
            element("div", "Data report", attributes={"class": "kicker"}),
            element("h1", quoted(name)),
            element("p", *lead, attributes={"class": "lead"}),
            element("ul", *tiles, attributes={"class": "tiles"}),
        ),
        element("nav", element("ul", *links), attributes={"aria-label": "Sections"}),
        element(
            "main",
            element("div", element("h3", "In short"), element("ul", *brief), attributes={"class": "brief"}),
            *(section.html() for section in sections),
        ),
        element(
            "footer",
            "Made by scripts/prepare_data.py from the tables beside this page. The same tables give the same page.",
        ),
    )
    document = element("html", _head(name), body, attributes={"lang": "en"})
    return "".join(("<!doctype html>\n", document, "\n"))


def _head(name: str) -> Html:
    return element(
        "head",
        element("meta", attributes={"charset": "utf-8"}),
        element("meta", attributes={"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("title", joined("Data report: ", quoted(name))),
        element("style", trusted(STYLESHEET.read_text(encoding="utf-8"))),
    )
