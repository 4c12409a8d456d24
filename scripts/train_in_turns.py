"""Train the towers in turns, beside peers; scripts/bench_training.py runs it.

python scripts/train_in_turns.py lists=PATH [turn_s=5]
"""

from pathlib import Path

import hydra
from composed import build, columns_of, dataset_of, protocol_of
from omegaconf import DictConfig

from features.pairs import ranker_feature_names
from features.spec import TextLayout
from lifecycle.entry import plain_errors
from lifecycle.towers_in_turns import TowersInTurns
from lifecycle.turns import Turns
from serving.retrieval import score_names


def run(cfg: DictConfig) -> None:
    columns = columns_of(cfg)
    text: TextLayout = build(cfg.features.text)
    names = ranker_feature_names(
        retrievers=score_names(query_text=columns.has_query_text(text)),
        item_categories=columns.item_categories,
        item_numbers=columns.item_numbers,
    )
    TowersInTurns(
        dataset=dataset_of(cfg),
        protocol=protocol_of(cfg),
        columns=columns,
        spec=columns.spec(text=text, ranker_features=names),
        text_encoder=build(cfg.features.encoder),
        build_model=build(cfg.towers),
        loss=build(cfg.loss),
        negatives=build(cfg.negatives),
        optimisation=build(cfg.optimisation),
        build_trainer=build(cfg.trainer),
        splits=list(cfg.splits),
        asked=cfg.asked,
    ).run(Turns(turn_s=cfg.turn_s), lists=Path(cfg.lists), k=cfg.k)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_in_turns")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
