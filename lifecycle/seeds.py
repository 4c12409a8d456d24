"""The same run under several seeds: what a system reaches on average, and how far a lucky seed may lie from it."""

from collections.abc import Sequence

import numpy as np

from evaluation.report import Report


def seeds_table(reports: Sequence[Report], *, metrics: Sequence[str]) -> str:
    """Mean, and the lowest and highest of the seeds, for each system; then how often each comparison excluded 0."""
    lines = ["system".ljust(32) + "".join(metric.rjust(26) for metric in metrics)]
    for name in reports[0].systems:
        cells = []
        for metric in metrics:
            values = np.array([report.systems[name][metric].value for report in reports])
            cells.append(f"{values.mean():.3f} ({values.min():.3f}-{values.max():.3f})".rjust(26))
        lines.append(name.ljust(32) + "".join(cells))
    lines.append(f"mean (lowest-highest) of {len(reports)} seeds")
    for place, comparison in enumerate(reports[0].comparisons):
        own = [report.comparisons[place] for report in reports]
        excluded = sum(one.low > 0 or one.high < 0 for one in own)
        listed = ", ".join(f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})" for one in own)
        lines.append(
            f"{comparison.system} - {comparison.baseline}, {comparison.metric}: {listed}; "
            f"0 excluded for {excluded} of {len(own)} seeds"
        )
    return "\n".join(lines)
