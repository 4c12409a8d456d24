"""The same run under several seeds: what a system reaches on average, and how far a lucky seed may lie from it."""

from collections.abc import Sequence

import numpy as np

from evaluation.report import Report, SliceReport


def seeds_table(reports: Sequence[Report], *, metrics: Sequence[str]) -> str:
    """Mean, and the lowest and highest of the seeds, for each system; then how often each comparison excluded 0.

    The main slice first, then each other one under its name.
    """
    lines = _part_table(reports, metrics=metrics)
    for name in reports[0].slices:
        lines += ["", name, *_part_table([report.slices[name] for report in reports], metrics=metrics)]
    return "\n".join(lines)


def _part_table(parts: Sequence[Report] | Sequence[SliceReport], *, metrics: Sequence[str]) -> list[str]:
    lines = ["system".ljust(32) + "".join(metric.rjust(26) for metric in metrics)]
    for name in parts[0].systems:
        cells = []
        for metric in metrics:
            values = np.array([part.systems[name][metric].value for part in parts])
            cells.append(f"{values.mean():.3f} ({values.min():.3f}-{values.max():.3f})".rjust(26))
        lines.append(name.ljust(32) + "".join(cells))
    lines.append(f"mean (lowest-highest) of {len(parts)} seeds")
    for place, comparison in enumerate(parts[0].comparisons):
        own = [part.comparisons[place] for part in parts]
        excluded = sum(one.low > 0 or one.high < 0 for one in own)
        listed = ", ".join(f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})" for one in own)
        lines.append(
            f"{comparison.system} - {comparison.baseline}, {comparison.metric}: {listed}; "
            f"0 excluded for {excluded} of {len(own)} seeds"
        )
    return lines
