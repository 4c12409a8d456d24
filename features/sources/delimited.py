"""Lines of delimited text -> Arrow columns, every line accounted for.

Owns the reading of tokens; what they mean is the dataset's business. A line that does not fit becomes an unparsed row.
"""

import pyarrow as pa
import pyarrow.compute as pc

WHOLE_NUMBER = r"^[+-]?[0-9]{1,15}$"  # 15 digits of seconds still fit int64 as ms
NUMBER = r"^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,4})?|[+-]?(inf|infinity|nan))$"
REPLACEMENT = "\ufffd"  # what stands in a decoded text where its bytes were not UTF-8


def read_lines(content: bytes, *, columns: list[str], delimiter: str) -> tuple[pa.Table, pa.Table]:
    """Divide lines into tokens; the first line is a header and is skipped, and so is an empty last one.

    Returns:
        The tokens, a string column for each of `columns` plus `raw` (the line) and `source_row` (from 0, after the
        header); and the lines that have another number of tokens or are not UTF-8, as `raw`, `source_row`, `reason`.
    """
    text = content.decode("utf-8", errors="replace").replace("\r\n", "\n").removesuffix("\n")
    lines = pa.chunked_array([pa.array(text.split("\n")[1:], pa.string())])
    tokens = pc.split_pattern(lines, delimiter)
    not_utf8 = pc.match_substring(lines, REPLACEMENT)
    bad = pc.or_(not_utf8, pc.not_equal(pc.list_value_length(tokens), len(columns)))
    good = pc.invert(bad)
    reason = pc.if_else(not_utf8, "not UTF-8", f"not {len(columns)} tokens")
    source_row = pa.chunked_array([pa.array(range(len(lines)), pa.int64())])
    rows = pa.table({"raw": lines, "source_row": source_row})
    columns_of_tokens = [pc.list_element(tokens.filter(good), place) for place in range(len(columns))]
    table = pa.table(columns_of_tokens, names=columns)
    for name in rows.column_names:
        table = table.append_column(name, rows[name].filter(good))
    return table, rows.append_column("reason", reason).filter(bad)


def numbers(tokens: pa.ChunkedArray) -> pa.ChunkedArray:
    """As float64; null where the token is no number. `inf` and `nan` are numbers here."""
    try:
        return tokens.cast(pa.float64())  # seven times as fast, and fails as a whole
    except pa.ArrowInvalid:
        return _parsed(tokens, NUMBER, pa.float64())


def whole_numbers(tokens: pa.ChunkedArray) -> pa.ChunkedArray:
    """As int64; null where the token is no whole number of at most 15 digits."""
    return _parsed(tokens, WHOLE_NUMBER, pa.int64())


def _parsed(tokens: pa.ChunkedArray, pattern: str, number_type: pa.DataType) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(tokens)
    matches = pc.match_substring_regex(trimmed, pattern, ignore_case=True)
    # Arrow's cast knows no leading plus sign.
    plain = pc.if_else(matches, pc.utf8_ltrim(trimmed, "+"), pa.scalar(None, pa.string()))
    return plain.cast(number_type)
