"""Our tuned index beside peers on the same vectors: recall against time, and the speed at given recalls.

Owns the order of the runs, what is kept of them, and the tables. Each search runs in a process of its own, one at a
time, on one thread, in turns with exact search; so speeds are over exact search of the same process and moment.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.index_plots import speeds_figure
from evaluation.plots import save_plot
from lifecycle.bench_etl import ROOT
from lifecycle.index_vectors import Vectors
from lifecycle.search_points import ASKED_FILE, ITEMS_FILE, TUNED_FILE

logger = logging.getLogger(__name__)

OURS = "twostage"
REQUIREMENTS = Path("requirements/peers/index.txt")
POINTS_FILE, SETTINGS_FILE, DONE_FILE = "points.csv", "settings.json", "done"
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class SearchFailed(ChildProcessError):
    """A search that is measured ended with an error; the message names its log."""


@dataclass(frozen=True)
class IndexBench:
    """What is measured.

    Attributes:
        vectors: by name.
        peers: by name `builds` and `efforts`, each effort of each build being a point.
        builds: by name of vectors and then of the peer, other builds; a list that is empty leaves the peer out.
        targets: recalls that our tuner is given and speeds are read off at.
        k: length of the lists.
        num_queries: at most: recall is measured on all of the second half.
        num_tuned: of the first half, that our tuner sees.
        turns: of each point.
        seed: of the tuner's sample.
    """

    vectors: Mapping[str, Vectors]
    peers: Mapping[str, Mapping[str, Any]]
    builds: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    targets: Sequence[float]
    k: int
    num_queries: int
    num_tuned: int
    turns: int
    seed: int

    def run(self, out_dir: Path, *, peers_python: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        """All points, and the fastest that reach each target; points that a former run measured alike are kept.

        Args:
            out_dir: a folder of each kind of vectors, with one of each search.
            peers_python: with the peers.

        Raises:
            SearchFailed: one did.
        """
        tables = []
        for name, own in self.vectors.items():
            folder = out_dir / name
            shape = self._written(own, folder)
            for search, (command, settings) in self._searches(name, peers_python).items():
                settings = {"vectors": str(folder), "shape": shape, "k": self.k, "turns": self.turns, **settings}
                table = self._measured(folder / search, command=command, settings=settings)
                tables.append(table.assign(vectors=name, search=search))
        points = pd.concat(tables, ignore_index=True)
        for name in self.vectors:
            own_points = points[points["vectors"] == name]
            figure = speeds_figure(own_points, name=name, k=self.k, targets=self.targets)
            save_plot(figure, table=own_points, path=out_dir / f"{name}.png")
        return points, fastest(points, targets=self.targets)

    def _searches(self, vectors: str, peers_python: Path) -> dict[str, tuple[list[str], dict[str, Any]]]:
        """Commands and settings by name."""
        ours = {"targets": list(self.targets), "num_tuned": self.num_tuned, "seed": self.seed}
        found = {OURS: ([sys.executable, "scripts/search_in_turns.py"], ours)}
        for name, own in self.peers.items():
            builds = self.builds.get(vectors, {}).get(name, own["builds"])
            if builds:
                settings = {"peer": name, "builds": builds, "efforts": own["efforts"]}
                found[name] = ([str(peers_python), "scripts/peers/index_search.py"], settings)
        return found

    def _written(self, vectors: Vectors, folder: Path) -> list[int]:
        """Number of items, their width, and number of queries of each half."""
        folder.mkdir(parents=True, exist_ok=True)
        said, path = f"{vectors} {self.num_queries}", folder / "vectors.txt"
        if not path.is_file() or path.read_text() != said:
            logger.info("%s: drawing", folder.name)
            items, queries = vectors.draw(self.num_queries)
            half = len(queries) // 2
            for name, own in ((ITEMS_FILE, items), (TUNED_FILE, queries[:half]), (ASKED_FILE, queries[half:])):
                np.save(folder / name, own)
            path.write_text(said)
        items, queries = (np.load(folder / name, mmap_mode="r") for name in (ITEMS_FILE, ASKED_FILE))
        return [*items.shape, len(queries)]

    def _measured(self, folder: Path, *, command: list[str], settings: dict[str, Any]) -> pd.DataFrame:
        folder.mkdir(exist_ok=True)
        said, done = json.dumps(settings, indent=2), folder / DONE_FILE
        if not done.is_file() or done.read_text() != said:
            done.unlink(missing_ok=True)
            path, log = folder / SETTINGS_FILE, folder / "log"
            path.write_text(said)
            logger.info("%s: %s, see %s", folder.parent.name, folder.name, log)
            environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
            with log.open("w") as output:
                ended = subprocess.run(
                    [*command, str(path.absolute())], cwd=ROOT, env=environment, stdout=output, stderr=output
                )
            if ended.returncode != 0:
                raise SearchFailed(
                    f"{folder.name} ended with code {ended.returncode}; see {log}. What was measured before it is kept"
                )
            done.write_text(said)
        return pd.read_csv(folder / POINTS_FILE)


def fastest(points: pd.DataFrame, *, targets: Sequence[float]) -> pd.DataFrame:
    """Of each kind of vectors, search and target the point with the highest speed-up that reaches it, if there is one.

    Args:
        points: vectors, search, recall, speed_up and what else is known.
        targets: recalls.
    """
    rows = []
    for target in targets:
        reaching = points[points["recall"] >= target]
        best = reaching.loc[reaching.groupby(["vectors", "search"], sort=False)["speed_up"].idxmax()]
        rows.append(best.assign(target=target))
    first = ["vectors", "target", "search"]
    table = pd.concat(rows, ignore_index=True)
    return table[[*first, *(name for name in table if name not in first)]].sort_values(first, ignore_index=True)


def peers_environment(folder: Path) -> Path:
    """The interpreter of an environment with the peers, which is made where it is missing.

    Raises:
        SearchFailed: it could not be made; the message has the commands.
    """
    python = folder / "bin" / "python"
    if not python.is_file():
        logger.info("making an environment for the peers: %s", folder)
        commands = (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", "-r", str(ROOT / REQUIREMENTS)],
        )
        for command in commands:
            if subprocess.run(command).returncode != 0:
                said = " && ".join(" ".join(own) for own in commands)
                raise SearchFailed(f"the peers could not be installed: {said}; then give peers_python={python}")
    return python
