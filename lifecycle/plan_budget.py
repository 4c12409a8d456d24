"""What a latency budget buys on this machine: of what a ranker bench measured here, what fits beside all other stages.

Owns the timing of the other stages, and the page. Which rows fit is evaluation/frontier.py's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.frontier import affordable
from features.dataset import Dataset
from serving.pipeline import Pipeline
from serving.settings import PipelineSettings

NUM_TIMED, WARM_UP = 40, 5
RANK = "rank"


@dataclass(frozen=True)
class BudgetPlan:
    """Where a bench and a release lie.

    Attributes:
        bench_dir: holds frontier.csv of scripts/bench_ranker.py, run on this machine.
        release_dir: the release whose stages are timed.
        settings: how much it retrieves and ranks.
        dataset: whose test requests it is asked.
    """

    bench_dir: Path
    release_dir: Path
    settings: PipelineSettings
    dataset: Dataset

    def page(self, *, latency_ms: float, num_shown: int) -> str:
        """What the other stages take, what is left of the budget, and the best that fits, best first.

        Raises:
            ValueError: there is no frontier, or the budget does not pay for the other stages and a ranker.
        """
        file = self.bench_dir / "frontier.csv"
        if not file.is_file():
            raise ValueError(f"{file} is missing: run scripts/bench_ranker.py on this machine, or set bench_dir")
        if not latency_ms > 0:
            raise ValueError(f"latency_ms must be above 0; got {latency_ms:g}")
        others = self.other_stages_ms()
        left = latency_ms - sum(others.values())
        if left < 0:
            raise ValueError(
                f"all stages but the ranker take {sum(others.values()):.1f} ms here, more than "
                f"latency_ms={latency_ms:g}: retrieve fewer candidates (serving.pipeline.num_candidates), or allow more"
            )
        choices = affordable(pd.read_csv(file), budget_ms=left)
        if not choices:
            raise ValueError(f"no ranker of {file} fits the {left:.1f} ms that other stages leave: allow more")
        lines = [f"{name:<18}{ms:8.2f} ms" for name, ms in others.items()]
        lines += [f"{'left for ranking':<18}{left:8.2f} ms of {latency_ms:g}", ""]
        lines.append(f"{'ranker':<22}{'candidates':>10}{'ms':>8}   {'NDCG@10 (95 %)':<22}settings of run_pipeline.py")
        lines += [
            f"{own.ranker:<22}{own.num_reordered:>10}{own.ms:>8.1f}   "
            f"{f'{own.value:.3f} ({own.low:.3f}-{own.high:.3f})':<22}{own.served_by}"
            for own in choices[:num_shown]
        ]
        return "\n".join(lines)

    def other_stages_ms(self) -> dict[str, float]:
        """Median ms of every stage but the ranker's, one request after the other in this process."""
        pipeline = Pipeline.open(self.release_dir, settings=self.settings)
        places = self.dataset.events.places(["test"])
        spread = places[np.linspace(0, len(places) - 1, NUM_TIMED + WARM_UP).astype(np.int64)]
        taken = [
            pipeline.recommend(self.dataset.before(spread[n : n + 1], length=None), k=10).stage_ms
            for n in range(len(spread))
        ][WARM_UP:]
        return {name: float(np.median([own[name] for own in taken])) for name in taken[0] if name != RANK}
