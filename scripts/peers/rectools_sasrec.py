"""RecTools' SASRec, trained in turns; scripts/bench_training.py runs it in RecTools' environment.

python scripts/peers/rectools_sasrec.py SETTINGS.json

RecTools learns the newest 50 targets of each query. To see all of them in an epoch, as the others do, it is given a
query's events in windows of 51, of which neighbours share one event.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from rectools import Columns  # type: ignore[import-not-found]
from rectools.dataset import Dataset  # type: ignore[import-not-found]
from rectools.models import SASRecModel  # type: ignore[import-not-found]

from lifecycle.lightning_turns import TakesTurns
from lifecycle.turns import Turns


def windows(events: pd.DataFrame, *, length: int) -> pd.DataFrame:
    """Each query's events in windows of `length` targets, cut from the newest backwards, as queries of their own."""
    parts = []
    for query, own in events.groupby("query_id", sort=False):
        for number, stop in enumerate(range(len(own), 1, -length)):
            parts.append(own.iloc[max(stop - length - 1, 0) : stop].assign(query_id=f"{query}/{number}"))
    return pd.concat(parts)


def dataset(events: pd.DataFrame) -> Any:
    columns = {"query_id": Columns.User, "item_id": Columns.Item, "place": Columns.Datetime}
    table = events[list(columns)].rename(columns=columns)
    table[Columns.Datetime] = pd.to_datetime(table[Columns.Datetime], unit="s")
    return Dataset.construct(table.assign(**{Columns.Weight: 1.0}))


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    pl.seed_everything(settings["seed"], verbose=False)
    events = pd.read_csv(settings["events"], dtype={"query_id": str, "item_id": str})
    turns = TakesTurns(Turns(turn_s=settings["turn_s"]), num_targets=lambda batch: int((batch["y"] != 0).sum()))

    def trainer() -> pl.Trainer:  # SASRecModel's own, with the turns
        return pl.Trainer(
            max_epochs=settings["epochs"],
            callbacks=[turns],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        session_max_len=settings["history_length"],
        n_factors=settings["width"],
        n_blocks=settings["num_blocks"],
        n_heads=settings["num_heads"],
        batch_size=settings["batch_size"],
        get_trainer_func=trainer,
        **settings["own"],
    )
    known = events[events["is_training"] == 1]
    model.fit(dataset(windows(known, length=settings["history_length"])))
    lists = model.recommend(events["query_id"].unique(), dataset(events), k=settings["k"], filter_viewed=True)
    columns = {Columns.User: "query_id", Columns.Item: "item_id", Columns.Rank: "rank"}
    lists.rename(columns=columns)[list(columns.values())].to_csv(settings["lists"], index=False)


if __name__ == "__main__":
    main()
