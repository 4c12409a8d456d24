import pytest

from lifecycle.data_report.html import bar, count, counted, day, element, joined, minute, quoted, share, shown, table


def test_text_is_escaped_and_markup_of_ours_is_not() -> None:
    assert element("p", "a < b & ", element("b", '"c"')) == "<p>a &lt; b &amp; <b>&quot;c&quot;</b></p>"
    assert joined("<", element("i", "x"), ">") == "&lt;<i>x</i>&gt;"


def test_markup_that_would_become_text_is_refused() -> None:
    with pytest.raises(TypeError, match=r"give its pieces to joined\(\)"):
        joined(f"see {element('b', 'x')}")


def test_attributes_are_escaped() -> None:
    assert element("a", "x", attributes={"href": '"><script>'}) == '<a href="&quot;&gt;&lt;script&gt;">x</a>'


def test_a_value_from_the_data_cannot_turn_or_fill_the_page() -> None:
    assert quoted("a\u202eb\x00c") == "<bdi>a\ufffdb\ufffdc</bdi>"
    assert shown("x" * 100, length=10) == "x" * 9 + "…"
    assert shown("two\nlines\tand a tab") == "two⏎lines and a tab"


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(0, 7, "0 %"), (7, 7, "100 %"), (1, 3, "33.3 %"), (1, 5_000, "< 0.1 %"), (4_999, 5_000, "> 99.9 %"), (0, 0, "–")],  # noqa: RUF001
)
def test_shares_are_never_rounded_to_none_or_all(part: int, whole: int, expected: str) -> None:
    assert share(part, whole).replace("\u202f", " ") == expected


def test_numbers_and_instants_are_written_for_people() -> None:
    assert count(1_234_567) == "1,234,567"
    assert [counted(1, "query", "queries"), counted(2, "query", "queries"), counted(0, "row")] == [
        "1 query",
        "2 queries",
        "0 rows",
    ]
    assert day(0).replace("\u00a0", " ") == "1 Jan 1970"
    assert minute(86_399_999).replace("\u00a0", " ") == "1 Jan 1970 23:59"
    assert day(10**17) == "100,000,000,000,000,000 ms"


def test_the_text_columns_of_a_table_are_left_and_the_others_right() -> None:
    assert '<td>a</td><td class="number">1</td>' in table(["name", "n"], [("a", "1")])


def test_a_bar_stays_in_its_cell() -> None:
    assert '"--share:100.0%"' in bar(3.0, "300 %")
