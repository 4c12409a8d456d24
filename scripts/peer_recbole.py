"""RecBole's own preparation of a folder of atomic files; scripts/bench_etl.py runs it in RecBole's environment.

python scripts/peer_recbole.py FOLDER OUT_DIR MODEL

Does what `recbole.quick_start.run_recbole` does before its data loaders: reads the files, drops rows without an id,
maps ids and attributes to integers, fills what is missing, saves the data set; then orders it by time and splits it at
shares of the events. With a sequential MODEL each event also gets the 50 events before it (`data_augmentation`).
Source: recbole 1.2.1, recbole/data/dataset/dataset.py and sequential_dataset.py.
"""

import sys
from pathlib import Path

from recbole.config import Config  # type: ignore[import-not-found]
from recbole.data import create_dataset  # type: ignore[import-not-found]


def main() -> None:
    folder, out_dir, model = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    settings = {
        "data_path": str(folder.parent),
        "checkpoint_dir": str(out_dir),
        "save_dataset": True,
        "USER_ID_FIELD": "query_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["query_id", "item_id", "value", "timestamp"], "user": "*", "item": "*"},
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": None, "order": "TO", "mode": "full"},
        "train_neg_sample_args": None if model == "SASRec" else {"distribution": "uniform", "sample_num": 1},
        "use_gpu": False,
    }
    sys.argv = sys.argv[:1]  # which RecBole reads too
    config = Config(model=model, dataset=folder.name, config_dict=settings)
    dataset = create_dataset(config)
    num_events = len(dataset.inter_feat)
    parts = dataset.build()
    print(f"{num_events} events; {' / '.join(str(len(part.inter_feat)) for part in parts)} rows in its splits")


if __name__ == "__main__":
    main()
