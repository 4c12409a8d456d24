"""Prepared tables -> `report.html`, a page about the data for people.

Owns which sections the page has and the seed of what is drawn at random. Each section is a module of sections/.
"""

import json
import logging
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from features.columns import FeatureColumns
from features.errors import FeaturesError, SchemaMismatch
from lifecycle.data_report.drift import DERIVED_EVENTS, RAW_EVENTS, derived_drift, draw, ranked, raw_drift
from lifecycle.data_report.html import Piece, element, quoted
from lifecycle.data_report.log import Log
from lifecycle.data_report.over_time import has_calendar
from lifecycle.data_report.page import page
from lifecycle.data_report.section import Report, Section
from lifecycle.data_report.sections.cold import cold_section
from lifecycle.data_report.sections.columns import columns_section
from lifecycle.data_report.sections.drift import drift_section
from lifecycle.data_report.sections.labels import labels_section
from lifecycle.data_report.sections.rows import rows_section
from lifecycle.data_report.sections.spread import items_section, queries_section
from lifecycle.data_report.sections.time import time_section

logger = logging.getLogger(__name__)

FILE_NAME = "report.html"
SEED = 0


def write_data_report(data_dir: Path, *, columns: FeatureColumns) -> Path:
    """Write `<data_dir>/report.html` from `<data_dir>/tables`; the same tables give the same bytes.

    Args:
        data_dir: what prepare_data fills.
        columns: which columns become features.

    Returns:
        Where the page lies.

    Raises:
        FeaturesError: there are no prepared tables.
        SchemaMismatch: the tables lack a column that is to become a feature.
    """
    started = time.perf_counter()
    tables_dir, path = data_dir / "tables", data_dir / FILE_NAME
    if not (tables_dir / "report.json").is_file():
        raise FeaturesError(f"no prepared data in {tables_dir}: run scripts/prepare_data.py")
    report: Report = json.loads((tables_dir / "report.json").read_text(encoding="utf-8"))
    _check_columns(tables_dir, columns)
    log = Log.read(tables_dir / "events.parquet")
    sections = [rows_section(report, tables_dir), *_of_events(log, report, tables_dir=tables_dir, columns=columns)]
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page(str(report["dataset"]), sections, lead=_lead(report)), encoding="utf-8")
    partial.replace(path)
    logger.info("data report: %s, %.1f s", path, time.perf_counter() - started)
    return path


def _check_columns(tables_dir: Path, columns: FeatureColumns) -> None:
    for table, named in (
        ("items", (*columns.item_texts, *columns.item_categories, *columns.item_numbers)),
        ("queries", (columns.query_text, *columns.query_categories, *columns.query_numbers)),
    ):
        present = pq.read_schema(tables_dir / f"{table}.parquet").names
        lacking = sorted({name for name in named if name} - {*present})
        if lacking:
            raise SchemaMismatch(
                f"dataset.columns.{table} names {lacking}, which the {table} table lacks; it has {present}: "
                "correct the names, or what the source yields"
            )


def _of_events(log: Log, report: Report, *, tables_dir: Path, columns: FeatureColumns) -> list[Section]:
    num_items, num_queries = (
        pq.read_metadata(tables_dir / f"{table}.parquet").num_rows for table in ("items", "queries")
    )
    generator = np.random.default_rng(SEED)
    drift = []
    for measure, num in ((raw_drift, RAW_EVENTS), (derived_drift, DERIVED_EVENTS)):
        sample = draw(log, num=num, generator=generator)
        if sample.has_both:
            drift.append(measure(log, sample, tables_dir=tables_dir, columns=columns, generator=generator))
    return [
        time_section(log),
        items_section(log, num_items=num_items),
        queries_section(
            log,
            num_queries=num_queries,
            history_length=columns.history_length,
            stored_history=columns.stored_history,
        ),
        cold_section(log, leaves_out_repeats=columns.stored_history > 0 and not columns.repeats),
        labels_section(log, report),
        columns_section(tables_dir),
        drift_section(ranked(*drift, calendar=has_calendar(log))),
    ]


def _lead(report: Report) -> list[Piece]:
    return [
        "Labels ",
        element("code", quoted(str(report["labels"]), length=300)),
        ", split ",
        element("code", quoted(str(report["split"]), length=300)),
        ".",
    ]
