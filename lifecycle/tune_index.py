"""The fastest index of a catalogue within latency, memory and recall; what was chosen, as files.

Owns the files and which queries decide: every other validation request tunes the index of the refit, which is what is
released; the rest say what recall the choice has on queries that it was not tuned on. The search is
towers/index/tune.py's.

    choice.yaml    of the index, as conf/index/*.yaml; scripts/build_index.py index_choice=<directory> builds it
    tuning.json    goals, recall on unseen queries, forecast, every operating point
    curve.csv, curve.png    recall against time of the chosen index, and the best points of the others
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from evaluation.index_plots import curve_figure
from evaluation.plots import save_plot
from features.dataset import Dataset
from features.protocol import RequestProtocol
from lifecycle.candidates import StageOne
from lifecycle.cuts import REFIT
from lifecycle.index_queries import held_out
from towers.errors import UnfitPieces
from towers.index.recall import HeldOut
from towers.index.tune import Forecast, Goals, Point, Tuning, curve, forecast, tuned

logger = logging.getLogger(__name__)

CHOICE_FILE, TUNING_FILE, CURVE_FILE = "choice.yaml", "tuning.json", "curve.png"
FEWEST = 20  # queries that tune


@dataclass(frozen=True)
class IndexTuning:
    """Everything that is needed.

    Attributes:
        goals: of the index.
        max_queries: half of them tune.
        forecast_factor: memory and time of building are forecast for so many times the items.
        seed: draws samples of the items.
    """

    dataset: Dataset
    protocol: RequestProtocol
    towers_dir: Path
    index_dir: Path
    goals: Goals
    max_queries: int
    forecast_factor: int
    seed: int

    def run(self, out_dir: Path) -> str:
        """Write the files and return a page for people.

        Raises:
            GoalsNotMet: no index is within all goals; nothing is written.
            UnfitPieces: validation has too few requests.
        """
        stage_one = StageOne.open(REFIT, towers_dir=self.towers_dir, index_dir=self.index_dir)
        known = held_out(
            stage_one, dataset=self.dataset, protocol=self.protocol, k=self.goals.k, max_queries=self.max_queries
        )
        if len(known.queries) < 2 * FEWEST:
            raise UnfitPieces(
                f"an index is tuned on {2 * FEWEST} held-out queries at least; got {len(known.queries)}: raise "
                "max_queries, or choose by hand (index=)"
            )
        seen, unseen = (replace(known, queries=known.queries[start::2]) for start in (0, 1))
        tuning = tuned(seen, self.goals, seed=self.seed)
        foreseen = forecast(tuning.chosen, seen, factor=self.forecast_factor, seed=self.seed)
        return write_tuning(out_dir, tuning, goals=self.goals, seen=seen, unseen=unseen, foreseen=foreseen)


def write_tuning(
    out_dir: Path, tuning: Tuning, *, goals: Goals, seen: HeldOut, unseen: HeldOut, foreseen: Forecast
) -> str:
    """Write the files and return a page for people."""
    out_dir.mkdir(parents=True, exist_ok=True)
    chosen, recalls = tuning.chosen, unseen.recalls(tuning.index)
    recall, error = float(recalls.mean()), float(recalls.std() / np.sqrt(len(recalls)))
    if recall < goals.recall:
        logger.warning("recall on unseen queries is %.4f, below %g: tune on more queries", recall, goals.recall)
    config = chosen.recipe.config(chosen.num_items, chosen.effort)
    comment = f"# Chosen by scripts/tune_index.py for {goals}, {chosen.num_items} items.\n"
    (out_dir / CHOICE_FILE).write_text(comment + yaml.safe_dump(config, sort_keys=False))
    document = {
        "goals": asdict(goals),
        "index": config,
        "chosen": _row(chosen),
        "unseen_queries": {"num": len(recalls), "recall": recall, "standard_error": error},
        "exact_ms": tuning.exact_ms,
        "forecast": asdict(foreseen),
        "tuning_cpu_s": tuning.cpu_s,
        "points": [_row(point) for point in tuning.points],
    }
    (out_dir / TUNING_FILE).write_text(json.dumps(document, indent=2))
    on_curve = curve(tuning, seen)
    table = _table(on_curve, [own for own in tuning.points if own.num_items == chosen.num_items], chosen)
    figure = curve_figure(table, target=goals.recall, exact_ms=tuning.exact_ms, num_queries=len(seen.queries))
    save_plot(figure, table=table, path=out_dir / CURVE_FILE)
    return "\n".join(
        (
            chosen.said,
            f"exact search {tuning.exact_ms:.3f} ms, {tuning.exact_ms / chosen.ms:.1f} times as long (processor time)",
            f"recall@{unseen.k} on {len(recalls)} queries that it was not tuned on: {recall:.4f} "
            f"(95 % interval {recall - 1.96 * error:.4f} to {min(recall + 1.96 * error, 1):.4f})",
            f"forecast, not measured, for {foreseen.num_items} items with these settings: "
            f"{foreseen.num_bytes / 1e9:.3f} GB, built in {foreseen.build_s:.0f} processor seconds",
            f"build it: scripts/build_index.py index_choice={out_dir}",
        )
    )


def _table(on_curve: Sequence[Point], others: Sequence[Point], chosen: Point) -> pd.DataFrame:
    rows = [{**_row(own), "on_curve": True, "is_chosen": own.effort == chosen.effort} for own in on_curve]
    rows += [{**_row(own), "on_curve": False, "is_chosen": False} for own in others if np.isfinite(own.ms)]
    return pd.DataFrame(rows)


def _row(point: Point) -> dict[str, Any]:
    row = asdict(point)
    return {**row.pop("recipe"), **row.pop("effort"), **row, "ms": point.ms if np.isfinite(point.ms) else None}
