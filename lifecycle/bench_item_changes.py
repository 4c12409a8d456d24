"""How soon a change of items is acknowledged and found: two Tritons serve a release, one is changed, the other asked.

Owns the made-up items and what is counted. The release is a copy: the log of the one that serves stays as it is.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from features.transforms import QueryFeatures
from serving.client import RecommendClient
from serving.item_wire import ChangeRequest, ItemFacts
from serving.items_client import ItemsClient
from serving.model_repository import build_model_repository
from serving.release import Release
from serving.settings import TritonSettings
from serving.triton import TritonServer

DEADLINE_S = 30.0
WARM_UP = 5  # changes that are not counted


@dataclass(frozen=True)
class ItemChangesBench:
    """Changes of each size, one after the other, each followed by requests until one knows of it.

    Attributes:
        sizes: items that a change adds, and the next one deletes.
        rounds: of each size.
    """

    settings: TritonSettings
    sizes: Sequence[int]
    rounds: int

    def run(
        self, requests: Sequence[QueryFeatures], *, release_dir: Path, spec_hash: str, out_dir: Path
    ) -> pd.DataFrame:
        """A row a change.

        Columns: items, kind, acknowledged_ms and found_ms (until the other server's answer that knows of it is there,
        both from when the change was handed in), answers (that this took; 1: the first after it was acknowledged).
        """
        release = self._copy(release_dir, out_dir)
        titles = list(Release.open(release).titles.values())
        rows = []
        with ExitStack() as stack:
            first, other = (stack.enter_context(self._server(release, out_dir / name)) for name in ("first", "other"))
            writer = stack.enter_context(ItemsClient(address=first.grpc_address, deadline_s=DEADLINE_S))
            reader = stack.enter_context(RecommendClient(address=other.grpc_address, deadline_s=DEADLINE_S))
            asked = cycle(requests)

            def measured(request: ChangeRequest) -> dict[str, float]:
                began = time.perf_counter()
                number = writer.change(request, spec_hash=spec_hash)
                acknowledged, answers = time.perf_counter(), 0
                for query in asked:
                    answer = reader.recommend(query, k=10, spec_hash=spec_hash)[0]
                    answers += 1
                    if answer.changes >= number:
                        break
                return {
                    "acknowledged_ms": 1000.0 * (acknowledged - began),
                    "found_ms": 1000.0 * (time.perf_counter() - began),
                    "answers": answers,
                }

            for _ in range(WARM_UP):  # connections, models, the log
                measured(ChangeRequest(items=_made_up(titles, 1, name="warm")))
            for size in self.sizes:
                for round_ in tqdm(range(self.rounds), desc=f"changes of {size}", unit="change"):
                    items = _made_up(titles, size, name=f"{size}.{round_}")
                    ids = tuple(item.item_id for item in items)
                    rows.append({"items": size, "kind": "added", **measured(ChangeRequest(items=items))})
                    rows.append({"items": size, "kind": "deleted", **measured(ChangeRequest(deleted_ids=ids))})
        return pd.DataFrame(rows)

    def _copy(self, release_dir: Path, out_dir: Path) -> Path:
        release = out_dir / "release"
        for old in (release, out_dir / "release.deltas"):
            shutil.rmtree(old, ignore_errors=True)
        return Path(shutil.copytree(release_dir, release))

    def _server(self, release_dir: Path, work_dir: Path) -> TritonServer:
        work_dir.mkdir(parents=True, exist_ok=True)
        build_model_repository(release_dir=release_dir, repository_dir=work_dir / "models", settings=self.settings)
        return TritonServer(settings=self.settings, repository_dir=work_dir / "models", work_dir=work_dir)


def summarised(changes: pd.DataFrame) -> pd.DataFrame:
    """Medians and worst by size and kind."""
    grouped = changes.groupby(["items", "kind"])
    table = grouped[["acknowledged_ms", "found_ms"]].agg(["median", "max"]).round(1)
    table.columns = table.columns.map("_".join)
    return table.assign(changes=grouped.size(), answers_most=grouped["answers"].max()).reset_index()


def _made_up(titles: Sequence[str], num: int, *, name: str) -> tuple[ItemFacts, ...]:
    """Items with titles of two that there are."""
    generator = np.random.default_rng(list(name.encode()))
    halves = generator.choice(len(titles), size=(num, 2))
    return tuple(
        ItemFacts(f"made up {name}.{place}", title=f"{titles[one]}, {titles[other]}", texts={"title": titles[one]})
        for place, (one, other) in enumerate(halves.tolist())
    )
