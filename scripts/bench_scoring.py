"""Measure our pairs a second beside those of sentence-transformers' CrossEncoder, and whether scores agree.

python scripts/bench_scoring.py [peer_python=PATH] [num_threads=2] [rounds=10]
"""

from pathlib import Path

import hydra
import pandas as pd
from composed import build, dataset_of, plain, protocol_of, spec_of
from omegaconf import DictConfig

from lifecycle.bench_scoring import ScoringBench, results
from lifecycle.bench_training import Race
from lifecycle.entry import plain_errors
from towers.text_encoder import checkpoint_directory


def run(cfg: DictConfig) -> None:
    out_dir, dataset = Path(cfg.out_dir).absolute(), dataset_of(cfg)
    ScoringBench(
        dataset=dataset,
        asked=protocol_of(cfg).asked(dataset, cfg.asked),
        spec=spec_of(cfg),
        checkpoint=checkpoint_directory(cfg.ranker.teacher.checkpoint),
        form=build(cfg.ranker.student).form,
        hidden=cfg.ranker.hidden,
        num_lists=cfg.num_lists,
        candidates_a_list=cfg.candidates_a_list,
        student_candidates=cfg.ranker.num_ranked,
        seed=cfg.seed,
    ).write(out_dir)
    content = plain(cfg, ("systems", "settings", "own", "ratios"))
    race = Race(
        systems={name: command for name, command in content["systems"].items() if command[0] is not None},
        settings={"folder": str(out_dir), **content["settings"]},
        own=content["own"],
        rounds=cfg.rounds,
        num_threads=cfg.num_threads,
        out_dir=out_dir,
    )
    rows = list(race.run())
    of = [(system, peer) for system, peer in content["ratios"] if peer in race.systems]
    tables = results(pd.DataFrame(rows), folder=out_dir, of=of, warm_up=cfg.warm_up)
    for name, table in tables.items():
        table.to_csv(out_dir / f"{name}.csv", index=False)
        print(f"{name}\n{table.to_string(index=False, float_format='{:.6g}'.format)}\n", flush=True)


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_scoring")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
