"""What types of index cost as the number of items grows: building, memory, file, and a query at one recall.

Owns the points, each of which is measured in a process of its own, and the figure.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluation.plots import BLUE, VERMILION, uncluttered
from lifecycle.made_up_embeddings import Clouds
from lifecycle.measured_process import peak_bytes
from towers.index.operate import Efforts, Stopwatch, one_thread
from towers.index.recall import HeldOut
from towers.index.recipes import Recipe
from towers.index.search import ItemIndex

ROUNDS = 9
COSTS = {
    "build_cpu_s": "building, processor s",
    "index_bytes": "index in memory, bytes",
    "ms": "a query, processor ms",
}
# Okabe and Ito, as in evaluation/plots.py.
COLOURS = ("black", BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00")


@dataclass(frozen=True)
class IndexScaleBench:
    """Items in clusters, with norms of a heavy tail.

    Attributes:
        recipes: of indexes, by a name.
        sizes: numbers of items by the same names.
        width: of the embeddings.
        tail: deviation of the norms' logarithm.
        num_queries: that the least effort is sought on, and as many that recall and time are measured on.
        k: length of a list.
        recall: that the least effort is sought for.
        seed: of all that is drawn.
    """

    recipes: Mapping[str, Recipe]
    sizes: Mapping[str, Sequence[int]]
    width: int
    tail: float
    num_queries: int
    k: int
    recall: float
    seed: int

    def rows(self) -> Iterator[dict[str, object]]:
        """One for each index and size, the smallest first."""
        points = sorted((num, name) for name, sizes in self.sizes.items() for num in sizes)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            for num, name in points:
                yield pool.submit(self.measured, name, num).result()

    def measured(self, name: str, num: int) -> dict[str, object]:
        """A row, in this process, whose memory is the point's."""
        clouds = Clouds(width=self.width, generator=np.random.default_rng(self.seed))
        items, rows = clouds.items(num, tail=self.tail).embeddings, np.arange(num) + 1
        with one_thread():
            began = time.process_time()
            index = self.recipes[name].builder(num).build(items, rows)
            build_cpu_s = time.process_time() - began
        peak = peak_bytes(os.getpid())
        seen, unseen = (HeldOut(items, rows, clouds.queries(self.num_queries).embeddings, self.k) for _ in range(2))
        found, best = Efforts(index, seen, target=self.recall).least()
        index = index.with_effort(min(found or [best], key=lambda own: own.at_once_ms).effort)
        del seen  # with its copy of the items
        recalls, watch = unseen.recalls(index), Stopwatch(unseen)
        times = [watch.ms(index, turns=1) for _ in range(ROUNDS)]
        low, ms, high = np.quantile(times, [0.25, 0.5, 0.75])
        return {
            "index": name,
            "num_items": num,
            "width": self.width,
            "build_cpu_s": build_cpu_s,
            "build_peak_bytes": peak,
            "index_bytes": index.num_bytes,
            "bytes_an_item": index.num_bytes / num,
            "file_bytes": _file_bytes(index),
            "effort": " ".join(f"{own}={getattr(index.effort, own)}" for own in index.effort.names),
            "recall": recalls.mean(),
            "recall_error": 1.96 * recalls.std() / np.sqrt(len(recalls)),
            "ms": ms,
            "ms_low": low,
            "ms_high": high,
            "exact_ms": watch.exact_ms,
            "speed_up": watch.exact_ms / ms,
        }


def _file_bytes(index: ItemIndex) -> int:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        index.write(path)
        return path.stat().st_size


def scale_figure(rows: pd.DataFrame, *, finding: str) -> Figure:
    """A panel for each cost, both axes logarithmic.

    Args:
        rows: of IndexScaleBench.
        finding: the title.
    """
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axes, (cost, label) in zip(figure.subplots(1, len(COSTS)), COSTS.items(), strict=True):
        for (name, own), colour in zip(rows.groupby("index", sort=True), COLOURS, strict=False):
            sizes, values = own["num_items"].to_numpy(), own[cost].to_numpy()
            axes.plot(sizes, values, "o-", color=colour, markersize=4, label=name)
            if f"{cost}_low" in own:
                axes.vlines(sizes, own[f"{cost}_low"].to_numpy(), own[f"{cost}_high"].to_numpy(), color=colour)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("items")
        axes.set_ylabel(label)
        uncluttered(axes)
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(finding, x=0.01, ha="left", fontsize=11)
    return figure


def finding(rows: pd.DataFrame) -> str:
    """What the largest size costs by the fastest index beside exact search."""
    largest = rows[rows["num_items"] == rows["num_items"].max()]
    fastest = largest.sort_values("ms").to_dict("records")[0]
    return (
        f"{fastest['num_items']:,} items: {fastest['index']} answers a query in {fastest['ms']:.2f} ms at recall "
        f"{fastest['recall']:.3f}, exact search in {fastest['exact_ms']:.1f} ms (bars: quartiles of {ROUNDS} turns)"
    )
