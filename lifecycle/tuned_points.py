"""Operating points of the indexes that our tuner chooses, measured as peers are.

Owns which ones: for each recall that is asked for, the tuner's choice, and that index searched by less and by more.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lifecycle.search_points import ASKED_FILE, TUNED_FILE, Course, FloatArray, IntArray, Search, read_vectors
from towers.index.recipes import SEARCH_SETTINGS
from towers.index.search import ItemIndex
from towers.index.tune import Goals, around, tuned


def measure_tuned(settings: Mapping[str, Any], *, own_dir: Path) -> None:
    """Tune for each target on queries of their own, and measure on all others.

    Args:
        settings: `vectors` (folder), `k`, `turns`, `seed`, `targets`, recalls, and `num_tuned`, queries.
        own_dir: where the points go.
    """
    folder, k = Path(settings["vectors"]), settings["k"]
    tuned_on = read_vectors(folder, queries=TUNED_FILE, k=k)
    tuned_on = replace(tuned_on, queries=tuned_on.queries[: settings["num_tuned"]])
    course = Course(read_vectors(folder, queries=ASKED_FILE, k=k), turns=settings["turns"], path=own_dir / "points.csv")
    for target in settings["targets"]:
        began = time.process_time()
        tuning = tuned(tuned_on, Goals(target, k, latency_ms=np.inf, memory_gb=np.inf), seed=settings["seed"])
        print(f"{target}: {tuning.chosen.said}; tuned in {time.process_time() - began:.0f} s", flush=True)
        recipe = tuning.chosen.recipe
        built = {"type": recipe.type, "apart": recipe.apart, **recipe.settings(len(tuned_on.rows))}
        for effort in around(tuning.chosen.effort, num_lists=tuning.index.num_lists):
            searched = {SEARCH_SETTINGS[name]: getattr(effort, name) for name in effort.names}
            course.measure(
                search_of(tuning.index.with_effort(effort), k=k),
                settings={**built, **searched, "tuned": target if effort == tuning.chosen.effort else ""},
                build_s=tuning.chosen.build_s,
            )


def search_of(index: ItemIndex, *, k: int) -> Search:
    """A search by an index."""

    def search(query: FloatArray) -> IntArray:
        rows: IntArray = index.search(query, k=k).rows[0]
        return rows

    return search
