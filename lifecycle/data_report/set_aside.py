"""Rows that the preparation did not keep: how many, why, and a few of them as they stood.

Owns how a row is shown. Why it was set aside is features/events.py's business.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NUM_EXAMPLES = 3
BATCH_ROWS = 65_536
EXAMPLE_LENGTH = 240


@dataclass(frozen=True)
class Example:
    """A row that was set aside.

    Attributes:
        source_row: its place in the raw file, from 0; None where it has none.
        content: the row as it stood where it could not be read, else its columns by name.
    """

    source_row: int | None
    content: str


def examples(rejected: Path) -> dict[str, list[Example]]:
    """The first rows of each reason in a rejected table, read in batches: however many there are, few are held."""
    found: dict[str, list[Example]] = {}
    num_found: Counter[str] = Counter()
    for batch in pq.ParquetFile(rejected).iter_batches(batch_size=BATCH_ROWS):
        wanted = []
        for place, reason in enumerate(batch.column("reason").to_pylist()):
            if num_found[reason] < NUM_EXAMPLES:
                num_found[reason] += 1
                wanted.append(place)
        for row in batch.take(pa.array(wanted, pa.int64())).to_pylist():
            found.setdefault(row["reason"], []).append(_example(row))
    return found


def _example(row: dict[str, object]) -> Example:
    source_row, raw = row["source_row"], row["raw"]
    if raw is not None:
        content = str(raw)
    else:
        known = {name: value for name, value in row.items() if name not in ("raw", "reason", "source_row")}
        content = ", ".join(f"{name}={'nothing' if value is None else value}" for name, value in known.items())
    short = content if len(content) <= EXAMPLE_LENGTH else content[:EXAMPLE_LENGTH] + "…"
    return Example(source_row=source_row if isinstance(source_row, int) else None, content=short)
