"""Measure every system on the test events, by one evaluator.

python scripts/evaluate.py [lists=DIR]     DIR also gets each system's top 200 as parquet
"""

from pathlib import Path

import hydra
from composed import dataset_of, plain, protocol_of
from omegaconf import DictConfig

from lifecycle.candidates import StageOne
from lifecycle.cuts import FOLD, REFIT
from lifecycle.entry import plain_errors
from lifecycle.evaluate import Evaluation
from lifecycle.steps import Step, read_step

LIFECYCLE = (
    *("baselines", "calibrated", "candidates", "chosen", "cuts", "evaluate", "groups", "leaks", "list_files"),
    *("measure", "report_files", "slices", "systems"),
)
SOURCES = (
    *("evaluation", "features", "ranking", "towers/index", "towers/retrievers"),
    *(f"lifecycle/{name}.py" for name in LIFECYCLE),
    *("serving/candidates.py", "serving/retrieval.py", "serving/models.py", "serving/postprocess.py"),
)


def run(cfg: DictConfig) -> None:
    inputs = [Path(cfg[name]) for name in ("data_dir", "towers_dir", "index_dir", "ranker_dir")]

    def work(directory: Path) -> None:
        fold, refit = (
            StageOne.open(cut, towers_dir=Path(cfg.towers_dir), index_dir=Path(cfg.index_dir)) for cut in (FOLD, REFIT)
        )
        records = [read_step(path) for path in inputs]
        Evaluation(
            dataset=dataset_of(cfg),
            protocol=protocol_of(cfg),
            fold=fold,
            refit=refit,
            towers_dir=Path(cfg.towers_dir),
            ranker_dir=Path(cfg.ranker_dir),
            num_candidates=cfg.serving.pipeline.num_candidates,
            num_ranked=cfg.serving.pipeline.num_ranked,
            teacher_queries=cfg.teacher_queries,
            teacher_cache=Path(cfg.teacher_cache),
            leak_requests=cfg.leak_requests,
            seed=cfg.seed,
            seconds={record["name"]: record["seconds"] for record in records},
            lists_dir=Path(cfg.lists) if cfg.lists else None,
        ).run(directory)

    Step(
        name="evaluate",
        directory=Path(cfg.evaluation_dir),
        config={**plain(cfg, ("teacher_queries", "leak_requests", "seed")), **plain(cfg.serving, ("pipeline",))},
        inputs=inputs,
        sources=SOURCES,
        outputs=[] if cfg.lists is None else [Path(cfg.lists)],
    ).run(work)


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
