"""A log made larger or smaller than it is, with the same shape, for measuring how work grows with it.

Owns the copying of queries and items under new ids and the files they are written to: the atomic files of RecBole,
tab-separated with a type in every column's name, which the source of plain files reads as well.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from features.events import RawTables

CHUNK_ROWS = 1 << 20
SHIFT_S = 12 * 3600  # each copy of a query lives up to so much earlier or later, so that copies don't act as one
PLAIN = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
OWN_COLUMNS = ("item_id", "query_id", "available_from", "source_row")


@dataclass(frozen=True)
class ReplicatedLog:
    """What was written: `<name>.inter`, `<name>.item` and `<name>.user` in `folder`, which is called `name` too."""

    folder: Path
    num_events: int
    num_queries: int
    num_items: int


def replicate(raw: RawTables, *, copies: float, seed: int, folder: Path) -> ReplicatedLog:
    """Write `copies` of a log in order of time; below 1 it is the events of that share of the queries, drawn by seed.

    Every copy has queries and items of its own, and keeps which of its queries did what with which of its items.

    Args:
        raw: what a source read.
        copies: a whole number, or a share below 1.
        seed: of the shares drawn and of the shifts in time.
        folder: where the files go; it is made.

    Raises:
        ValueError: `copies` is neither.
    """
    if copies <= 0 or (copies > 1 and copies != int(copies)):
        raise ValueError(f"expected copies to be a whole number or a share below 1, got {copies}")
    draw = np.random.default_rng(seed)
    events = raw.events
    if copies < 1:
        queries = raw.queries["query_id"]
        kept = draw.permutation(len(queries))[: max(1, round(copies * len(queries)))]
        events = events.filter(pc.is_in(events["query_id"], value_set=queries.take(np.sort(kept))))
    num_copies = max(1, int(copies))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / folder.name
    _write_events(events, num_copies=num_copies, draw=draw, path=path.with_suffix(".inter"))
    num_items = _write_attributes(raw.items, events, "item_id", num_copies=num_copies, path=path.with_suffix(".item"))
    num_queries = _write_attributes(
        raw.queries, events, "query_id", num_copies=num_copies, path=path.with_suffix(".user")
    )
    return ReplicatedLog(
        folder=folder, num_events=events.num_rows * num_copies, num_queries=num_queries, num_items=num_items
    )


def _write_events(events: pa.Table, *, num_copies: int, draw: np.random.Generator, path: Path) -> None:
    query = events["query_id"].combine_chunks().dictionary_encode()
    shifts = draw.integers(-SHIFT_S, SHIFT_S, size=(num_copies, len(query.dictionary)))
    seconds = events["occurred_at"].cast(pa.int64()).to_numpy() // 1000
    at_s = (seconds + shifts[:, query.indices.to_numpy()]).ravel()  # [copies * events], copy after copy
    order = np.argsort(at_s, kind="stable")
    with path.open("wb") as file:
        file.write(b"query_id:token\titem_id:token\tvalue:float\ttimestamp:float\n")
        for begin in range(0, len(order), CHUNK_ROWS):
            places = order[begin : begin + CHUNK_ROWS]
            copy, row = np.divmod(places, events.num_rows)
            chunk = {
                "query_id": _own_ids(events["query_id"].take(row), copy),
                "item_id": _own_ids(events["item_id"].take(row), copy),
                "value": events["value"].take(row),
                "timestamp": at_s[places],
            }
            csv.write_csv(pa.table(chunk), file, PLAIN)


def _write_attributes(table: pa.Table, events: pa.Table, key: str, *, num_copies: int, path: Path) -> int:
    """Write the rows whose ids events name; their number."""
    table = table.filter(pc.is_in(table[key], value_set=pc.unique(events[key])))
    names = [name for name in table.column_names if name not in OWN_COLUMNS and not pa.types.is_list(table[name].type)]
    kinds = ["token" if pa.types.is_string(table[name].type) else "float" for name in names]
    header = [f"{key}:token", *(f"{name}:{kind}" for name, kind in zip(names, kinds, strict=True))]
    with path.open("wb") as file:
        file.write("\t".join(header).encode() + b"\n")
        for copy in range(num_copies):
            ids = _own_ids(table[key], np.full(table.num_rows, copy))
            csv.write_csv(pa.table([ids, *(table[name] for name in names)], names=[key, *names]), file, PLAIN)
    num_rows: int = table.num_rows * num_copies
    return num_rows


def _own_ids(ids: pa.ChunkedArray, copy: NDArray[np.int64]) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(ids, pa.array(copy).cast(pa.string()), "-")
