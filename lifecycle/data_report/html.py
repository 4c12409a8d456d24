"""Pieces of a page that cannot be unsafe: text is escaped unless it is Html already.

Owns escaping, and how numbers, shares and instants are written. Knows nothing of what a page says.
"""

import html
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from features.events import LAST_READABLE_MS

# Control characters, and those that turn the direction of the text around them: shown as what they are, a fault.
UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff0-\ufffb]")
VOID = frozenset({"meta", "link", "br", "hr"})
NO_VALUE = "\u2013"  # a dash
TIMES = "\u00d7"
THIN, FIXED = "\u202f", "\u00a0"  # spaces that no line breaks at; the thin one stands between a number and its unit
# Written out, as what strftime writes depends on the machine's language.
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Html(str):
    """Markup. Made by the functions of this module alone; `joined` puts it together."""

    __slots__ = ()

    def __format__(self, format_spec: str) -> str:
        """Refused: in an f-string markup would become text, and be escaped a second time."""
        raise TypeError("markup does not go into an f-string: give its pieces to joined()")


Piece = str  # Html is put in as it is, any other string is escaped


def shown(text: str, *, length: int = 80) -> str:
    """Text from the data as people can see it: what cannot be shown replaced, the end of a long one left out."""
    cut = text if len(text) <= length else text[: length - 1] + "…"
    return UNSHOWABLE.sub("\ufffd", cut.replace("\n", "⏎").replace("\t", " "))


def element(name: str, *content: Piece, attributes: Mapping[str, str] | None = None) -> Html:
    """An element with its content, escaped piece by piece."""
    opened = "".join([name, *(f' {key}="{html.escape(value)}"' for key, value in (attributes or {}).items())])
    if name in VOID:
        return Html(f"<{opened}>")
    return Html("".join((f"<{opened}>", joined(*content), f"</{name}>")))


def joined(*pieces: Piece) -> Html:
    """Pieces one after the other, escaped where they are no Html."""
    return Html("".join(piece if isinstance(piece, Html) else html.escape(piece) for piece in pieces))


def quoted(text: str, *, length: int = 80) -> Html:
    """A value from the data, kept apart from the direction of the text around it."""
    return element("bdi", shown(text, length=length))


def trusted(markup: str) -> Html:
    """Markup that is safe by its origin: a stylesheet of ours, a drawing in which text is escaped already."""
    return Html(markup)


def table(header: Sequence[Piece], rows: Sequence[Sequence[Piece]], *, num_text_columns: int = 1) -> Html:
    """A table whose first columns are text and whose others are numbers; it scrolls sideways where it is too wide."""

    def cells(tag: str, row: Sequence[Piece]) -> Html:
        classes = [{} if place < num_text_columns else {"class": "number"} for place in range(len(row))]
        return element("tr", *(element(tag, cell, attributes=own) for cell, own in zip(row, classes, strict=True)))

    body = element("tbody", *(cells("td", row) for row in rows))
    whole = element("table", element("thead", cells("th", header)), body)
    return element("div", whole, attributes={"class": "scroll", "tabindex": "0"})


def bar(share: float, text: Piece) -> Html:
    """A number with a bar behind it as long as a share of the cell."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}%"
    return element("span", text, attributes={"class": "bar", "style": f"--share:{width}"})


def count(number: int) -> str:
    """A whole number with separators."""
    return f"{number:,}"


def counted(number: int, one: str, many: str = "") -> str:
    """A whole number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share(part: float, whole: float = 1.0) -> str:
    """A share in per cent; a dash where there is no whole."""
    if whole == 0:
        return NO_VALUE
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return f"<{THIN}0.1{THIN}%"
    if 99.9 < percent < 100:
        return f">{THIN}99.9{THIN}%"
    return f"{percent:.1f}{THIN}%" if 0 < percent < 100 else f"{percent:.0f}{THIN}%"


def whole_share(part: float) -> str:
    """A share that is a round number of per cent."""
    return f"{100 * part:g}{THIN}%"


def day(at_ms: int) -> str:
    """The UTC day of an instant, without a place to break the line; a number where that is no readable date."""
    if not 0 <= at_ms <= LAST_READABLE_MS:
        return f"{at_ms:,} ms"
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{at.day}{FIXED}{MONTHS[at.month - 1]}{FIXED}{at.year}"


def minute(at_ms: int) -> str:
    """The UTC day and minute of an instant."""
    if not 0 <= at_ms <= LAST_READABLE_MS:
        return f"{at_ms:,} ms"
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{day(at_ms)}{FIXED}{at.hour:02}:{at.minute:02}"
