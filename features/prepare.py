"""Raw log -> clean tables on disk, in one call.

Owns the order of the parts, the layout of the folder and its atomic replacement. The parts know nothing of disk.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from features import etl
from features.engines import DUCKDB, Engine
from features.errors import SourceDamaged
from features.events import TABLES, RawTables, Source, Validated, count_reasons, set_aside, validate
from features.labels import Labels
from features.split import SPLITS, Split

log = logging.getLogger(__name__)

PARTS = ("read", "validate", "order and label", "split", "write")
REPLACED = "replaced by a later row of the same action"
Report = dict[str, Any]


def prepare(
    *,
    source: Source,
    labels: Labels,
    split: Split,
    out_dir: Path,
    name: str,
    engine: Engine = DUCKDB,
    now_at_ms: int | None = None,
    progress: bool = True,
) -> Report:
    """Read, validate, order, label and split a dataset; write its tables and `report.json` to `out_dir`.

    The folder appears whole or not at all: everything is written beside it and renamed at the end, replacing what was
    there. The same input gives the same bytes.

    Args:
        source: the dataset.
        labels: relevance of its events.
        split: what each part of the project may know.
        out_dir: the folder to make or replace.
        name: the dataset's name in the report.
        engine: what runs the ETL; the result is the same on each.
        now_at_ms: events after this instant are set aside; by default the clock's.
        progress: show a bar, where standard error is a terminal.

    Returns:
        What `report.json` says.

    Raises:
        FeaturesError: the engine cannot start, the source cannot be read, breaks its schema, or the split leaks.
    """
    now_at_ms = time.time_ns() // 1_000_000 if now_at_ms is None else now_at_ms
    bar = tqdm(total=len(PARTS), desc=f"prepare {name}", unit="part", disable=None if progress else True)
    with bar, engine.started() as run_etl, _replacing(out_dir) as folder:
        with _part("read", bar):
            raw = source.read()
        with _part("validate", bar):
            valid = validate(raw, now_at_ms=now_at_ms)
            _refuse_no_events(valid, file=raw.files.get("events", name))
        with _part("order and label", bar):
            events = labels.label(run_etl(etl.ordered_events, valid.events))
            rejected = {**valid.rejected, "events": _with_replaced(valid, events)}
        with _part("split", bar):
            events = split.assign(events)
            split.check(events)
        with _part("write", bar):
            clean = {"events": events, "items": valid.items, "queries": valid.queries}
            for table in TABLES:
                _write(getattr(raw, table), folder / "raw" / f"{table}.parquet")
                _write(rejected[table], folder / "rejected" / f"{table}.parquet")
                _write(clean[table], folder / f"{table}.parquet")
            _write(run_etl(etl.item_days, events), folder / "item_days.parquet")
            report = _report(raw=raw, clean=clean, rejected=rejected)
            report = {"dataset": name, "labels": repr(labels), "split": repr(split), **report}
            text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
            (folder / "report.json").write_text(text, encoding="utf-8")
    _tell(report, out_dir)
    return report


def _refuse_no_events(valid: Validated, *, file: str) -> None:
    rejected = valid.rejected["events"]
    if valid.events.num_rows:
        return
    if not rejected.num_rows:
        raise SourceDamaged(f"{file} holds no event: expected at least one row after the header")
    first = {name: value for name, value in rejected.slice(0, 1).to_pylist()[0].items() if value is not None}
    shown = ", ".join(f"{name} {str(value)[:60]!r}" for name, value in first.items() if name != "reason")
    raise SourceDamaged(
        f"{file}: none of its {rejected.num_rows} events is good: {count_reasons(rejected)}; the first one, "
        f"{first['reason']!r}, is {shown}; check the mapping of columns, the unit of time and the delimiter"
    )


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Every option is given: the same rows must give the same bytes, whatever another pyarrow takes for its default.
    pq.write_table(
        table.combine_chunks(), path, compression="zstd", compression_level=3, version="2.6", row_group_size=1 << 20
    )


def _with_replaced(valid: Validated, events: pa.Table) -> pa.Table:
    """Rejected events, with those that the ETL replaced by a later row."""
    if events.num_rows == valid.events.num_rows:
        return valid.rejected["events"].sort_by("source_row")
    gone = pc.invert(pc.is_in(valid.events["source_row"], value_set=events["source_row"]))
    replaced = valid.events.filter(gone)
    as_raw = replaced["occurred_at_ms"].cast(pa.timestamp("ms", tz="UTC"))
    replaced = replaced.set_column(replaced.column_names.index("occurred_at_ms"), "occurred_at", as_raw)
    reasons = pa.repeat(pa.scalar(REPLACED), replaced.num_rows)
    both = [valid.rejected["events"], set_aside(replaced, reasons=reasons)]
    return pa.concat_tables(both, promote_options="default").sort_by("source_row")


def _report(*, raw: RawTables, clean: Mapping[str, pa.Table], rejected: Mapping[str, pa.Table]) -> Report:
    rows = {
        table: {
            "read": clean[table].num_rows + rejected[table].num_rows,
            "kept": clean[table].num_rows,
            "set_aside": count_reasons(rejected[table]),
        }
        for table in TABLES
    }
    events = clean["events"].select(["query_id", "item_id", "occurred_at_ms", "split"])
    splits = {}
    for part in SPLITS:
        of_part = events.filter(pc.equal(events["split"], part))
        splits[part] = {
            "events": of_part.num_rows,
            "queries": pc.count_distinct(of_part["query_id"]).as_py(),
            "items": pc.count_distinct(of_part["item_id"]).as_py(),
            **_window(of_part),
        }
    return {"rows": rows, "facts": dict(raw.facts), "splits": splits, "window": _window(events)}


def _window(events: pa.Table) -> dict[str, int | None]:
    ends = pc.min_max(events["occurred_at_ms"]).as_py()
    return {"first_at_ms": ends["min"], "last_at_ms": ends["max"]}


def _tell(report: Report, out_dir: Path) -> None:
    for table, rows in report["rows"].items():
        aside = ", ".join(f"{count} {reason}" for reason, count in rows["set_aside"].items()) or "none"
        log.info("%s: %d read, %d kept; set aside: %s", table, rows["read"], rows["kept"], aside)
    if report["facts"]:
        log.info("facts: %s", ", ".join(f"{name} {value}" for name, value in report["facts"].items()))
    log.info("split: %s", ", ".join(f"{part} {counts['events']}" for part, counts in report["splits"].items()))
    log.info("tables and report.json lie in %s", out_dir)


@contextmanager
def _part(name: str, bar: "tqdm[Any]") -> Iterator[None]:
    bar.set_postfix_str(name)
    started = time.perf_counter()
    yield
    bar.update()
    log.info("%s: %.1f s", name, time.perf_counter() - started)


@contextmanager
def _replacing(out_dir: Path) -> Iterator[Path]:
    """A folder beside `out_dir` that takes its place if the block ends well, and is removed if not."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out_dir)
    fresh, old = (out_dir.with_name(f".{out_dir.name}.{word}-{os.getpid()}") for word in ("partial", "replaced"))
    try:
        fresh.mkdir()
        yield fresh
        if out_dir.exists():
            out_dir.rename(old)
        fresh.rename(out_dir)
    except BaseException:  # Ctrl-C too must leave the old folder or none, never half of one
        if old.exists() and not out_dir.exists():
            old.rename(out_dir)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(out_dir: Path) -> None:
    """Remove what runs left that were killed without a chance to tidy up."""
    for word in ("partial", "replaced"):
        for path in out_dir.parent.glob(f".{out_dir.name}.{word}-*"):
            pid = path.name.rpartition("-")[2]
            if pid.isdecimal() and not _is_another_run(int(pid)):
                shutil.rmtree(path, ignore_errors=True)


def _is_another_run(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)  # signal 0 only asks whether there is such a process
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
