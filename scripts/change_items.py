"""Change items of a release while it is served: the next request knows.

python scripts/change_items.py added=new.jsonl [deleted='["12"]'] [restored='["12"]'] [triton=null]
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from lifecycle.change_items import by_grpc, by_log, change_items, read_items
from lifecycle.entry import plain_errors


def run(cfg: DictConfig) -> None:
    release_dir = Path(cfg.release_dir)
    with by_log(release_dir) if cfg.triton is None else by_grpc(cfg.triton, release_dir) as change:
        number = change_items(
            change,
            items=read_items(Path(cfg.added)) if cfg.added else [],
            deleted_ids=[str(item_id) for item_id in cfg.deleted],
            restored_ids=[str(item_id) for item_id in cfg.restored],
        )
    print(f"change {number}; answers that know of it carry this number or a later one")


@hydra.main(version_base="1.3", config_path="../conf", config_name="change_items")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()
