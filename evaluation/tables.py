"""A report as tables that people read: systems by metrics, slice after slice.

Owns the layout. What a report holds is report.py's.
"""

from collections.abc import Mapping, Sequence

from evaluation.report import Comparison, Report
from evaluation.significance import Interval

TABLE_METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10")

Systems = Mapping[str, Mapping[str, Interval]]


def text_table(report: Report, *, metrics: Sequence[str] = TABLE_METRICS) -> str:
    """Systems by metrics as aligned plain text, notes below; then the other slices."""
    parts = [[*_aligned(report.systems, metrics), *_footer(report)]]
    for name, own in report.slices.items():
        parts.append(["", _title(report, name), *_aligned(own.systems, metrics), *_differences(own.comparisons)])
    return "\n".join(line for part in parts for line in part)


def markdown_table(report: Report, *, metrics: Sequence[str] = TABLE_METRICS) -> str:
    """Systems by metrics as a Markdown table, notes below; then the other slices."""
    parts = [[*_marked(report.systems, metrics), "", *_footer(report)]]
    for name, own in report.slices.items():
        differences = _differences(own.comparisons)
        parts.append(["", _title(report, name), "", *_marked(own.systems, metrics), "", *differences])
    return "\n".join(line for part in parts for line in part)


def groups_text(report: Report, *, metric: str = "ndcg@10") -> str:
    """One metric of every system, a column a group, a table for each way of cutting; then what the lists show."""
    lines: list[str] = []
    for kind, groups in report.groups.items():
        head = ["system", *groups]
        counts = ["queries", *(str(part.num_queries) for part in groups.values())]
        body = (
            [
                [system, *(f"{part.systems[system][metric].value:.3f}" for part in groups.values())]
                for system in next(iter(groups.values())).systems
            ]
            if groups
            else []
        )
        lines += [f"{metric} by {kind}", *_columns([head, counts, *body]), ""]
    names = list(next(iter(report.variety.values()), {}))
    shown = [[system, *(f"{own[name]:.3f}" for name in names)] for system, own in report.variety.items()]
    lines += ["share of the catalogue in anyone's list, bits an item shown", *_columns([["system", *names], *shown])]
    return "\n".join(lines)


def _aligned(systems: Systems, metrics: Sequence[str]) -> list[str]:
    return _columns(_cells(systems, metrics))


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _marked(systems: Systems, metrics: Sequence[str]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in _cells(systems, metrics)]
    return [head, "|" + " --- |" * (len(metrics) + 1), *body]


def _cells(systems: Systems, metrics: Sequence[str]) -> list[list[str]]:
    body = [
        [system, *(str(values[metric]) if metric in values else "-" for metric in metrics)]
        for system, values in systems.items()
    ]
    return [["system", *metrics], *body]


def _title(report: Report, name: str) -> str:
    own = report.slices[name]
    note = f" ({own.note})" if own.note else ""
    return f"{name}{note}: n = {own.num_queries} queries, {own.num_pairs} pairs"


def _footer(report: Report) -> list[str]:
    summary = (
        f"{report.dataset}, {report.split}, {report.slice}, n = {report.num_queries} queries, 95 % bootstrap intervals."
    )
    notes = [f"{system}: {note}." for system, note in report.notes.items()]
    return [summary, *notes, *_differences(report.comparisons)]


def _differences(comparisons: Sequence[Comparison]) -> list[str]:
    return [
        f"{one.system} - {one.baseline}, {one.metric}, paired, n = {one.num_queries}: "
        f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
        for one in comparisons
    ]
