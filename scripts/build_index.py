"""Blend the towers' embeddings, build the index of each cut over them, and fit how the retrievers are fused.

python scripts/build_index.py [index=ivf_flat | index_choice=DIR] [blend=learned] [retrieval.quotas.popularity=50]
"""

from collections.abc import Sequence
from pathlib import Path

import hydra
from composed import build, dataset_of, file_stamps, plain, protocol_of
from composed_steps import index_builder_of
from omegaconf import DictConfig, OmegaConf

from features.dataset import Dataset
from lifecycle.build_index import IndexStep
from lifecycle.cuts import CUTS, Cut
from lifecycle.entry import plain_errors
from lifecycle.steps import Step

LIFECYCLE = ("build_index", "candidates", "fit_blend", "fit_fusion", "fit_new_items", "index_queries")
SERVED = ("serving/candidates.py", "serving/retrieval.py", "serving/models.py", "towers/index", "towers/retrievers")
SOURCES = ("features", *(f"lifecycle/{name}.py" for name in LIFECYCLE), *SERVED)
SETTINGS = ("index", "index_choice", "index_recall", "blend", "retrieval", "dataset")


def index_step(cfg: DictConfig, dataset: Dataset, *, towers_dir: Path, cuts: Sequence[Cut] = CUTS) -> IndexStep:
    """What the config says, on the prepared log or another one."""
    return IndexStep(
        dataset=dataset,
        protocol=protocol_of(cfg),
        towers_dir=towers_dir,
        **index_builder_of(cfg),
        blend_fit=build(cfg.blend),
        fusion_fit=build(cfg.retrieval),
        recall_gate=build(cfg.index_recall),
        tuning_dir=Path(cfg.index_choice) if cfg.index_choice else None,
        cuts=cuts,
    )


def run(cfg: DictConfig) -> None:
    towers_dir, tuning = Path(cfg.towers_dir), file_stamps(OmegaConf.create({"path": cfg.index_choice}))
    Step(
        name="build_index",
        directory=Path(cfg.index_dir),
        config={**plain(cfg, SETTINGS), "features": plain(cfg.features, ["columns"]), "tuning": tuning},
        inputs=[Path(cfg.data_dir), towers_dir],
        sources=SOURCES,
    ).run(lambda directory: index_step(cfg, dataset_of(cfg), towers_dir=towers_dir).run(directory))


@hydra.main(version_base="1.3", config_path="../conf", config_name="build_index")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
