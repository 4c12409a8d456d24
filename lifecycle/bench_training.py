"""Trainings of several systems over the same events: how fast each learns, and what it then recommends.

Owns what is given to the systems and how their turns and lists become tables. How a system trains is its own.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.metrics import FloatArray, IntArray
from evaluation.report import intervals, query_metrics
from evaluation.significance import paired_difference
from features.dataset import Dataset
from features.requests import PastRequests
from features.vocab import PADDING
from lifecycle.bench_etl import ROOT, with_interpreter
from lifecycle.turns import Trainee

METRICS = ("ndcg@10", "recall@100")


@dataclass(frozen=True)
class Race:
    """What trains, and by which rules.

    Attributes:
        systems: a command by name; `{settings}` in it is a file of `settings` with the system's own.
        settings: what all are given, among it `events`, `turn_s` and `epochs`.
        own: settings of one system, by name.
        rounds: turns of each after which all are stopped; None: when each has trained its epochs and answered.
        num_threads: of each; one works at a time.
        out_dir: a folder of each system with its settings, its log and its lists.
    """

    systems: Mapping[str, Sequence[str]]
    settings: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]]
    rounds: int | None
    num_threads: int
    out_dir: Path

    def lists(self, system: str) -> Path:
        """Where a system leaves its lists."""
        return self.out_dir.absolute() / system / "lists.csv"

    def run(self) -> Iterator[dict[str, Any]]:
        """One row a turn."""
        with ExitStack() as started:
            racing = {name: started.enter_context(self._start(name)) for name in self.systems}
            for trainee in racing.values():
                trainee.prepare()
            round_number = 0
            while racing and round_number != self.rounds:
                # Each round begins with another one, so that none always works after the same one.
                names = list(racing)
                first = round_number % len(names)
                for name in names[first:] + names[:first]:
                    turn = racing[name].turn()
                    if turn is None:
                        del racing[name]
                    else:
                        yield {"system": name, "round": round_number, **asdict(turn)}
                round_number += 1

    def _start(self, name: str) -> Trainee:
        folder = self.lists(name).parent
        folder.mkdir(parents=True, exist_ok=True)
        content = {**self.settings, "lists": str(self.lists(name)), **self.own.get(name, {})}
        path = folder / "settings.json"
        path.write_text(json.dumps(content, indent=2))
        command = [part.format(settings=path, **content) for part in self.systems[name]]
        self.lists(name).unlink(missing_ok=True)
        return Trainee(
            name, with_interpreter(command), cwd=ROOT, log=folder / "training.log", num_threads=self.num_threads
        )


def write_events(dataset: Dataset, asked: PastRequests, *, splits: Collection[str], path: Path) -> int:
    """Write what the systems are given, and say how many events may be learnt from.

    The columns are query_id, item_id, place (the order of a query's events) and is_training; all else that a query did
    before it asked is history.
    """
    owner, places = asked.known_events(dataset)
    learnt = np.isin(dataset.events.splits[places], list(splits))
    query_ids = np.array(dataset.events.query_ids, dtype=np.object_)
    rows = dataset.event_rows()[places]
    table = {
        "query_id": query_ids[asked.queries[owner]],
        "item_id": [dataset.items.catalogue.item_id(int(row)) for row in rows],
        "place": places,
        "is_training": learnt.astype(np.int64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_csv(path, index=False)
    return int(learnt.sum())


def counted(turns: pd.DataFrame, *, warm_up: int) -> pd.DataFrame:
    """Turns of the rounds in which every system worked throughout, without the first `warm_up`.

    Args:
        turns: rows of Race.run.
        warm_up: rounds.
    """
    shortest = int(turns.groupby("system")["round"].max().min())  # of its last turn, which the training's end cut
    kept = turns[(turns["round"] >= warm_up) & (turns["round"] < shortest)]
    if kept.empty:
        raise ValueError(f"the shortest training ended in round {shortest}: train longer, or lower turn_s or warm_up")
    return kept.assign(targets_per_s=kept["num_targets"] / kept["wall_s"])


def speeds(turns: pd.DataFrame, *, num_targets: int) -> pd.DataFrame:
    """One row a system: median, lowest and highest targets a second, and what an epoch takes at the median.

    Args:
        turns: rows of `counted`.
        num_targets: of an epoch.
    """
    rows = []
    for system, own in turns.groupby("system", sort=False):
        rate = own["targets_per_s"]
        rows.append(
            {
                "system": system,
                "turns": len(own),
                "targets_per_s": rate.median(),
                "lowest": rate.min(),
                "highest": rate.max(),
                "targets_per_cpu_s": (own["num_targets"] / own["cpu_s"]).median(),
                "step_ms": (own["wall_s"] / own["num_steps"]).median() * 1e3,
                "epoch_s": num_targets / rate.median(),
                "waited_share": own["waited_s"].sum() / own["wall_s"].sum(),
                "peak_gb": own["peak_bytes"].max() / 1e9,
            }
        )
    return pd.DataFrame(rows)


def ratios(turns: pd.DataFrame, *, of: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """One row a pair of system and peer and a kind of second: targets in it by those of the other, in the same round.

    Args:
        turns: rows of `counted`.
        of: pairs.
    """
    rows = []
    for per in ("wall_s", "cpu_s"):
        rates = turns.assign(rate=turns["num_targets"] / turns[per]).pivot_table(
            index="round", columns="system", values="rate"
        )
        for system, peer in of:
            ratio = rates[system] / rates[peer]
            found = {"median": ratio.median(), "lowest": ratio.min(), "highest": ratio.max(), "rounds": len(ratio)}
            rows.append({"system": system, "peer": peer, "per": per, **found})
    return pd.DataFrame(rows)


def read_lists(path: Path, dataset: Dataset, asked: PastRequests, *, k: int) -> IntArray:
    """[Q, K] ItemRow of what a system recommends to each request, PADDING after its last; the file is one of lists."""
    table = pd.read_csv(path, dtype={"query_id": str, "item_id": str})
    place_of = {dataset.events.query_ids[query]: place for place, query in enumerate(asked.queries)}
    ranked = np.full((len(asked), k), PADDING, dtype=np.int64)
    places = table["query_id"].map(place_of).to_numpy()
    ranked[places, table["rank"].to_numpy() - 1] = dataset.items.catalogue.rows(table["item_id"].tolist())
    return ranked


def qualities(lists: Mapping[str, IntArray], asked: PastRequests, *, seed: int) -> pd.DataFrame:
    """One row a system: METRICS with their 95 % intervals.

    Args:
        lists: [Q, K] by system.
        asked: the Q requests.
        seed: of the resamples, the same for all.
    """
    rows = []
    for system, values in _values(lists, asked).items():
        found = intervals(values, generator=np.random.default_rng(seed))
        rows.append(
            {"system": system, "num_queries": len(asked), **{metric: str(own) for metric, own in found.items()}}
        )
    return pd.DataFrame(rows)


def differences(
    lists: Mapping[str, IntArray], asked: PastRequests, *, of: Sequence[tuple[str, str]], seed: int
) -> pd.DataFrame:
    """One row a pair of system and peer: METRICS of one less those of the other, paired, with 95 % intervals.

    Args:
        lists: [Q, K] by system; a pair without lists of both is left out.
        asked: the Q requests.
        of: pairs.
        seed: of the resamples, the same for all.
    """
    values, rows = _values(lists, asked), []
    for system, peer in of:
        if system in values and peer in values:
            row = {"system": system, "peer": peer}
            for metric in METRICS:
                generator = np.random.default_rng(seed)
                row[metric] = str(paired_difference(values[system][metric], values[peer][metric], generator=generator))
            rows.append(row)
    return pd.DataFrame(rows)


def _values(lists: Mapping[str, IntArray], asked: PastRequests) -> dict[str, dict[str, FloatArray]]:
    found = {
        system: query_metrics(ranked=ranked, relevant=asked.relevant, ks=(10, 100)) for system, ranked in lists.items()
    }
    return {system: {metric: own[metric] for metric in METRICS} for system, own in found.items()}
