"""Measure how fast the towers learn beside RecTools' and RecBole's SASRec, and what each then recommends.

python scripts/bench_training.py [rectools_python=PATH] [recbole_python=PATH] [settings.epochs=10] [rounds=8]
"""

from pathlib import Path

import hydra
import pandas as pd
from composed import dataset_of, plain, protocol_of
from omegaconf import DictConfig

from lifecycle.bench_training import Race, counted, differences, qualities, ratios, read_lists, speeds, write_events
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    out_dir, dataset = Path(cfg.out_dir).absolute(), dataset_of(cfg)
    asked = protocol_of(cfg).asked(dataset, cfg.asked)
    num_targets = write_events(dataset, asked, splits=list(cfg.splits), path=out_dir / "events.csv")
    content = plain(cfg, ("systems", "settings", "own", "ratios"))
    systems = {name: command for name, command in content["systems"].items() if command[0] is not None}
    race = Race(
        systems=systems,
        settings={"events": str(out_dir / "events.csv"), **content["settings"]},
        own=content["own"],
        rounds=cfg.rounds,
        num_threads=cfg.num_threads,
        out_dir=out_dir,
    )
    rows = []
    for turn in race.run():
        rows.append(turn)
        pd.DataFrame(rows).to_csv(out_dir / "turns.csv", index=False)
    turns = counted(pd.DataFrame(rows), warm_up=cfg.warm_up)
    answered = [name for name in systems if race.lists(name).is_file()]
    lists = {name: read_lists(race.lists(name), dataset, asked, k=cfg.settings.k) for name in answered}
    pairs = [(system, peer) for system, peer in content["ratios"] if system in systems and peer in systems]
    tables = {
        "speeds": speeds(turns, num_targets=num_targets),
        "ratios": ratios(turns, of=pairs),
        "qualities": qualities(lists, asked, seed=cfg.settings.seed),
        "differences": differences(lists, asked, of=pairs, seed=cfg.settings.seed),
    }
    for name, table in tables.items():
        table.to_csv(out_dir / f"{name}.csv", index=False)
        print(f"{name}\n{table.to_string(index=False, float_format='{:.3f}'.format)}\n", flush=True)


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench_training")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
