"""RecBole's SASRec, trained in turns; scripts/bench_training.py runs it in RecBole's environment.

python scripts/peers/recbole_sasrec.py SETTINGS.json

RecBole makes a row of every target, with the 50 events before it.
Source: recbole 1.2.1, recbole/quick_start/quick_start.py, without its validation and its reports.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from recbole.config import Config  # type: ignore[import-not-found]
from recbole.data import create_dataset  # type: ignore[import-not-found]
from recbole.data.dataloader import TrainDataLoader  # type: ignore[import-not-found]
from recbole.data.interaction import Interaction  # type: ignore[import-not-found]
from recbole.trainer import Trainer  # type: ignore[import-not-found]
from recbole.utils import get_model, init_seed  # type: ignore[import-not-found]

from lifecycle.turns import Turns


class InTurns:
    """A loader whose next batch is asked for when the step before has ended."""

    def __init__(self, loader: Any, turns: Turns) -> None:
        self.loader = loader
        self.turns = turns

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            yield batch
            self.turns.step(num_targets=len(batch))


class TrainerInTurns(Trainer):  # type: ignore[misc]
    """RecBole's, whose epochs are made of turns."""

    turns: Turns

    def _train_epoch(self, train_data: Any, *rest: Any, **named: Any) -> Any:
        return super()._train_epoch(InTurns(train_data, self.turns), *rest, **named)


def top_items(model: Any, data: Any, events: pd.DataFrame, *, length: int, k: int) -> pd.DataFrame:
    """The k items that score highest for each query after all its events, without those it had."""
    known = events[events["item_id"].isin(data.field2token_id["item_id"])]
    rows = []
    for query, own in known.groupby("query_id", sort=False):
        had = torch.tensor(data.token2id("item_id", own["item_id"].to_numpy()))
        history = torch.nn.functional.pad(had[-length:], (0, max(length - len(had), 0)))
        asked = {model.ITEM_SEQ: history[None], model.ITEM_SEQ_LEN: torch.tensor([min(len(had), length)])}
        scores = model.full_sort_predict(Interaction(asked))[0]
        scores[had], scores[0] = float("-inf"), float("-inf")  # 0 is padding
        best = data.id2token("item_id", scores.topk(k).indices.numpy())
        rows += [(query, item, rank) for rank, item in enumerate(best, start=1)]
    return pd.DataFrame(rows, columns=["query_id", "item_id", "rank"])


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    sys.argv = sys.argv[:1]  # which RecBole reads too
    events = pd.read_csv(settings["events"], dtype={"query_id": str, "item_id": str})
    folder = Path(settings["lists"]).parent / "log"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)  # it writes TensorBoard's files here
    names = {"query_id": "query_id:token", "item_id": "item_id:token", "place": "place:float"}
    known = events[events["is_training"] == 1].rename(columns=names)[list(names.values())]
    known.to_csv(folder / "log.inter", sep="\t", index=False)
    content = {
        "data_path": str(folder.parent),
        "checkpoint_dir": str(folder),
        "load_col": {"inter": list(names)},
        **{"USER_ID_FIELD": "query_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "place"},
        "eval_args": {"split": {"RS": [1, 0, 0]}, "group_by": None, "order": "TO", "mode": "full"},
        "train_neg_sample_args": None,
        "use_gpu": False,
        "seed": settings["seed"],
        "epochs": settings["epochs"],
        "MAX_ITEM_LIST_LENGTH": settings["history_length"],
        "hidden_size": settings["width"],
        "n_layers": settings["num_blocks"],
        "n_heads": settings["num_heads"],
        "train_batch_size": settings["batch_size"],
        **settings["own"],
    }
    config = Config(model="SASRec", dataset="log", config_dict=content)
    init_seed(config["seed"], config["reproducibility"])
    training = create_dataset(config).build()[0]
    model = get_model("SASRec")(config, training)
    trainer = TrainerInTurns(config, model)
    trainer.turns = Turns(turn_s=settings["turn_s"])
    trainer.turns.begin()
    trainer.fit(TrainDataLoader(config, training, None, shuffle=True), saved=False, verbose=False)
    trainer.turns.end()
    model.eval()
    with torch.no_grad():
        lists = top_items(model, training, events, length=settings["history_length"], k=settings["k"])
    lists.to_csv(settings["lists"], index=False)


if __name__ == "__main__":
    main()
