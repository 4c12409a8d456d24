"""The tuner of an index beside a sweep over everything: what each finds, and in how much processor time.

Owns the table. Both are measured again in turns once both have chosen, and on queries that neither saw.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lifecycle.made_up_embeddings import Clouds
from towers.index.operate import Stopwatch
from towers.index.recall import HeldOut
from towers.index.tune import Goals, swept, tuned

ROUNDS = 20


@dataclass(frozen=True)
class IndexTuningBench:
    """Items in clusters, with norms of a heavy tail, and queries of the same clusters.

    Attributes:
        tail: deviation of the norms' logarithm.
        num_queries: that tune, and as many that check.
    """

    goals: Goals
    num_items: int
    width: int
    tail: float
    num_queries: int
    seed: int

    def run(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """A row for each of tuner and sweep, and every operating point that they measured."""
        seen, unseen = self._held_out()
        found = {"tuner": tuned(seen, self.goals, seed=self.seed), "sweep": swept(seen, self.goals)}
        watch = Stopwatch(unseen)
        times = {name: np.array([]) for name in found}
        for _ in range(ROUNDS):
            for name, own in found.items():
                times[name] = np.append(times[name], watch.ms(own.index, turns=1))
        rows = []
        for name, own in found.items():
            recalls, throughput = unseen.recalls(own.index), times["sweep"] / times[name]
            rows.append(
                {
                    "search": name,
                    "chosen": own.chosen.said,
                    "ms": np.median(times[name]),
                    "speed_up": watch.exact_ms / np.median(times[name]),
                    "throughput_over_sweep": np.median(throughput),
                    "throughput_low": np.quantile(throughput, 0.25),
                    "throughput_high": np.quantile(throughput, 0.75),
                    "recall_unseen": recalls.mean(),
                    "recall_error": recalls.std() / np.sqrt(len(recalls)),
                    "indexes": len({(each.recipe, each.num_items) for each in own.points}),
                    "cpu_s": own.cpu_s,
                    "time_over_sweep": own.cpu_s / found["sweep"].cpu_s,
                }
            )
        points = [
            {"search": name, "said": each.said, "recall": each.recall, "low": each.low, "ms": each.ms}
            for name, own in found.items()
            for each in own.points
        ]
        return pd.DataFrame(rows), pd.DataFrame(points)

    def _held_out(self) -> tuple[HeldOut, HeldOut]:
        clouds = Clouds(width=self.width, generator=np.random.default_rng(self.seed))
        items, rows = clouds.items(self.num_items, tail=self.tail).embeddings, np.arange(self.num_items) + 1
        queries = clouds.queries(2 * self.num_queries).embeddings
        seen, unseen = (HeldOut(items, rows, own, self.goals.k) for own in np.split(queries, 2))
        return seen, unseen
