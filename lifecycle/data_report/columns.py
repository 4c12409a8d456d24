"""What stands in each column of the prepared tables, and what is missing from it.

Owns what counts as missing: null, not a number, blank text, or an empty list. Reads a column at a time.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

# What the preparation adds, and what leads back to the raw file: never missing, nothing to learn from.
LEFT_OUT = ("source_row", "position", "split")
NUM_FREQUENT = 3


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        kind: number, instant, text or list.
        num_distinct: values that are not missing; of a list, its elements.
        frequent: the most frequent values with the number of rows that have them, if any comes twice.
        quantiles: least, middle and greatest of a number or an instant in ms; empty for text.
    """

    table: str
    name: str
    kind: str
    num_rows: int
    num_missing: int
    num_distinct: int
    frequent: tuple[tuple[str, int], ...]
    quantiles: tuple[float, ...]


def profile(tables_dir: Path, tables: tuple[str, ...]) -> list[Column]:
    """Every column of the tables, in their order."""
    found = []
    for table in tables:
        file = pq.ParquetFile(tables_dir / f"{table}.parquet")
        for field in file.schema_arrow:
            if field.name not in LEFT_OUT:
                found.append(_column(table, field.name, file.read(columns=[field.name])[field.name]))
    return found


def missing_table(columns: list[Column]) -> pd.DataFrame:
    """One row a column with something missing, the most first: column (with its table), num_missing, num_rows."""
    rows = [(f"{one.table}.{one.name}", one.num_missing, one.num_rows) for one in columns if one.num_missing]
    rows.sort(key=lambda row: (-row[1] / row[2], row[0]))
    return pd.DataFrame(rows, columns=["column", "num_missing", "num_rows"])


def is_missing(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """[rows] true where a column says nothing."""
    missing = pc.is_null(column, nan_is_null=True)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), False))
    elif pa.types.is_list(column.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(pc.list_value_length(column), 0), False))
    mask: NDArray[np.bool_] = missing.to_numpy().astype(np.bool_)
    return mask


def _column(table: str, name: str, column: pa.ChunkedArray) -> Column:
    missing = is_missing(column)
    values = column.filter(pa.array(~missing))
    kind = _kind(column.type)
    quantiles: tuple[float, ...] = ()
    if kind in ("number", "instant"):
        numbers = values.cast(pa.int64() if kind == "instant" else pa.float64()).to_numpy()
        if len(numbers):
            quantiles = tuple(np.quantile(numbers, [0.0, 0.5, 1.0], method="nearest").astype(np.float64).tolist())
    elif kind == "list":
        values = pc.list_flatten(values)
    counts = values.value_counts()
    pairs = sorted(_most(counts), key=lambda pair: (-pair[1], pair[0]))[:NUM_FREQUENT]
    return Column(
        table=table,
        name=name,
        kind="instant" if name.endswith("_at_ms") else kind,
        num_rows=len(column),
        num_missing=int(missing.sum()),
        num_distinct=len(counts),
        frequent=tuple(pairs) if kind in ("text", "list") and pairs and pairs[0][1] > 1 else (),
        quantiles=quantiles,
    )


def _most(counts: pa.StructArray) -> list[tuple[str, int]]:
    """The values with the highest counts: at least NUM_FREQUENT and whatever ties with the last of them."""
    number = pc.struct_field(counts, "counts").to_numpy()
    if not len(number):
        return []
    least = np.sort(number)[-min(NUM_FREQUENT, len(number))]
    # Of ties without end (every title comes once) the first in the file are as good as any.
    places = np.flatnonzero(number >= least)[:1000]
    values = pc.struct_field(counts, "values").take(pa.array(places)).to_pylist()
    return [(str(value), int(count)) for value, count in zip(values, number[places], strict=True)]


def _kind(value_type: pa.DataType) -> str:
    if pa.types.is_timestamp(value_type):
        return "instant"
    if pa.types.is_list(value_type):
        return "list"
    is_number = pa.types.is_integer(value_type) or pa.types.is_floating(value_type)
    return "number" if is_number else "text"
