"""Search collections in the BEIR layout: queries and documents with text, and graded judgements of pairs.

Owns the meaning of `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`. A judgement is an event of the query whose value
is its grade. Judgements have no time: each part of the collection (train, dev, test) is given an instant of its own,
a day after the one before, so that a split by instants follows the parts.

Source of the layout: Thakur et al., NeurIPS 2021, "BEIR: a heterogeneous benchmark for zero-shot evaluation".
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import FeaturesError, SourceDamaged, SourceMissing
from features.events import INSTANT, RawTables
from features.sources.delimited import numbers, read_lines

EVENT = "judged"
DAY_MS = 86_400_000
FIRST_AT_MS = 946_684_800_000  # 2000-01-01
# Parts in order of their instants; `ranking` is cut out of train.
PARTS = ("train", "ranking", "validation", "test")
QRELS = {"train": "train", "validation": "dev", "test": "test"}
TEXTS = pa.list_(pa.string())
JUDGEMENT = ["query_id", "item_id", "value"]
TREC_JUDGEMENT = ["query_id", "iteration", "item_id", "value"]


@dataclass(frozen=True)
class SearchCollection:
    """A directory with corpus.jsonl, queries.jsonl (each plain or .gz) and qrels/train.tsv, dev.tsv, test.tsv.

    Without dev.tsv a share of the training queries becomes the validation part.

    Args:
        directory: of the collection.
        item_categories: keys of a document's `metadata` that hold a text or a list of texts.
        item_numbers: keys of a document's `metadata` that hold a number.
        ranking_share: share of the training queries whose judgements the ranker learns from.
        validation_share: share of the training queries held out where there is no dev.tsv.
        seed: of these shares.
    """

    directory: Path | str
    item_categories: Sequence[str] = ()
    item_numbers: Sequence[str] = ()
    ranking_share: float = 0.3
    validation_share: float = 0.1
    seed: int = 1

    def __post_init__(self) -> None:
        shares = self.ranking_share, self.validation_share
        if min(shares) < 0 or sum(shares) >= 1:
            raise FeaturesError(
                f"search: ranking_share and validation_share must be >= 0 and leave some to train; got {shares}"
            )

    def read(self) -> RawTables:
        """Read the three tables.

        Raises:
            SourceMissing: a file is not there.
            SourceDamaged: a file is something else.
        """
        items, bad_items = self._documents()
        queries, bad_queries = self._queries()
        events, bad_events = self._judgements()
        judged = set(events["query_id"].unique().to_pylist())
        return RawTables(
            events=events,
            items=items,
            queries=queries,
            unparsed={"events": bad_events, "items": bad_items, "queries": bad_queries},
            facts={"queries_without_judgement": len(set(queries["query_id"].to_pylist()) - judged)},
        )

    def _documents(self) -> tuple[pa.Table, pa.Table]:
        path = _existing(Path(self.directory), "corpus.jsonl")
        columns: dict[str, list[Any]] = {
            name: [] for name in ("item_id", "title", "text", *self.item_categories, *self.item_numbers, "source_row")
        }
        bad = _Unparsed("item_id")
        for row, line, document in _json_lines(path, bad):
            metadata = document.get("metadata") or {}
            values: dict[str, object] = {
                "item_id": _text(document.get("_id")),
                "title": _text(document.get("title")),
                "text": _text(document.get("text")),
            }
            if not isinstance(metadata, dict):
                bad.add(row, line, "metadata is no object")
                continue
            try:
                values |= {name: _values(metadata.get(name)) for name in self.item_categories}
                values |= {name: _number(metadata.get(name)) for name in self.item_numbers}
            except ValueError as error:
                bad.add(row, line, str(error))
                continue
            for name, value in values.items():
                columns[name].append(value)
            columns["source_row"].append(row)
        types: dict[str, pa.DataType] = dict.fromkeys(columns, pa.string())
        types |= dict.fromkeys(self.item_categories, TEXTS) | dict.fromkeys(self.item_numbers, pa.float64())
        types["source_row"] = pa.int64()
        items = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
        return items.append_column("available_from", pa.nulls(items.num_rows, INSTANT)), bad.table()

    def _queries(self) -> tuple[pa.Table, pa.Table]:
        bad = _Unparsed("query_id")
        rows = [
            (_text(query.get("_id")), _text(query.get("text")), row)
            for row, _, query in _json_lines(_existing(Path(self.directory), "queries.jsonl"), bad)
        ]
        ids, texts, places = zip(*rows, strict=True) if rows else ((), (), ())
        queries = {
            "query_id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.string()),
            "source_row": pa.array(places, pa.int64()),
        }
        return pa.table(queries), bad.table()

    def _judgements(self) -> tuple[pa.Table, pa.Table]:
        good, bad, first_row = [], [], 0
        for part, stem in QRELS.items():
            path = Path(self.directory) / "qrels" / f"{stem}.tsv"
            if part == "validation" and not path.is_file():
                continue
            table, unparsed, num_rows = _read_qrels(path, first_row=first_row)
            good.append(table.append_column("part", pa.repeat(pa.scalar(part), table.num_rows)))
            bad.append(unparsed)
            first_row += num_rows
        events = pa.concat_tables(good)
        part = self._divided(events, has_dev=len(good) == len(QRELS))
        at_ms = FIRST_AT_MS + DAY_MS * pc.index_in(part, value_set=pa.array(PARTS)).to_numpy().astype(np.int64)
        events = events.drop_columns("part").append_column("occurred_at", pa.array(at_ms).cast(INSTANT))
        events = events.append_column("event", pa.repeat(pa.scalar(EVENT), events.num_rows))
        return events, pa.concat_tables(bad, promote_options="default")

    def _divided(self, events: pa.Table, *, has_dev: bool) -> pa.Array:
        """Part of each judgement: the training queries are divided by shares, each query wholly."""
        part = events["part"].combine_chunks()
        query_ids = np.sort(pc.unique(events["query_id"].filter(pc.equal(part, "train"))).to_numpy(False).astype(str))
        order = np.random.default_rng(self.seed).permutation(query_ids)
        num_ranking = round(self.ranking_share * len(order))
        num_validation = 0 if has_dev else round(self.validation_share * len(order))
        ranking, validation = order[:num_ranking], order[num_ranking : num_ranking + num_validation]
        is_train = pc.equal(part, "train")
        for name, ids in (("ranking", ranking), ("validation", validation)):
            chosen = pc.and_(is_train, pc.is_in(events["query_id"], value_set=pa.array(ids.tolist(), pa.string())))
            part = pc.if_else(chosen.combine_chunks(), pa.scalar(name), part)
        return part


def _read_qrels(path: Path, *, first_row: int) -> tuple[pa.Table, pa.Table, int]:
    """Good and bad judgements of a file, and its number of rows; BEIR's three columns or TREC's four."""
    if not path.is_file():
        raise SourceMissing(
            f"search: no file {path}; a collection has qrels/train.tsv, qrels/test.tsv and maybe dev.tsv"
        )
    content = path.read_bytes()
    header = content.partition(b"\n")[0].decode("utf-8", errors="replace").strip().split("\t")
    if len(header) not in (len(JUDGEMENT), len(TREC_JUDGEMENT)):
        raise SourceDamaged(
            f"search: {path} begins {header[:5]}; expected a line of three columns by tabs (query-id, corpus-id, "
            "score), or of four as TREC has them"
        )
    columns = JUDGEMENT if len(header) == len(JUDGEMENT) else TREC_JUDGEMENT
    if header[-1].lstrip("-").isdecimal():  # no header, as TREC has it; `read_lines` skips the first line
        content = b"\t".join(name.encode() for name in columns) + b"\n" + content
    lines, unparsed = read_lines(content, columns=columns, delimiter="\t")
    value = numbers(lines["value"])
    known = pc.is_valid(value)
    table = lines.select(["query_id", "item_id"]).append_column("value", value)
    table = table.append_column("source_row", pc.add(lines["source_row"], first_row)).filter(known)
    misread = lines.append_column("reason", pa.repeat(pa.scalar("score is no number"), lines.num_rows))
    misread = misread.filter(pc.invert(known))
    bad = pa.concat_tables([unparsed, misread], promote_options="default")
    place = bad.column_names.index("source_row")
    bad = bad.set_column(place, "source_row", pc.add(bad["source_row"], first_row))
    return table, bad.select([name for name in bad.column_names if name != "iteration"]), len(lines) + len(unparsed)


class _Unparsed:
    """Lines that are no document or query, with their reasons."""

    def __init__(self, id_column: str) -> None:
        self.id_column = id_column
        self.rows: list[tuple[str, str, int]] = []

    def add(self, row: int, line: str, reason: str) -> None:
        self.rows.append((line, reason, row))

    def table(self) -> pa.Table:
        lines, reasons, rows = zip(*self.rows, strict=True) if self.rows else ((), (), ())
        return pa.table(
            {
                self.id_column: pa.nulls(len(lines), pa.string()),
                "raw": pa.array(lines, pa.string()),
                "reason": pa.array(reasons, pa.string()),
                "source_row": pa.array(rows, pa.int64()),
            }
        )


def _existing(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            return path
    raise SourceMissing(
        f"search: no file {directory / name} (or .gz); set dataset.source.directory to a collection in the BEIR "
        "layout, or make the example: python scripts/make_film_search.py"
    )


def _json_lines(path: Path, bad: _Unparsed) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Row, line and object of every line that is one; others go to `bad`."""
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    try:
        with opened as lines:
            for row, encoded in enumerate(lines):
                line = encoded.decode("utf-8", errors="replace").strip()
                if not line:
                    continue
                try:
                    document = json.loads(encoded)
                except (ValueError, RecursionError):
                    bad.add(row, line, "no JSON in UTF-8")
                    continue
                if isinstance(document, dict):
                    yield row, line, document
                else:
                    bad.add(row, line, "no JSON object")
    except (OSError, EOFError, zlib.error) as error:
        raise SourceDamaged(f"search: {path} cannot be read to its end ({error}); fetch it again") from error


def _text(value: object) -> str | None:
    return value.encode("utf-8", errors="replace").decode() if isinstance(value, str) else None


def _values(value: object) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) for one in values):
        raise ValueError("a category in metadata is neither a text nor a list of texts")
    return [text for one in values if (text := _text(one))]


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number in metadata is no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number in metadata is beyond 64 bits") from None
