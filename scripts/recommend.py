"""Ask a running gateway.

python scripts/recommend.py query_id=196 k=10 [text="french film of 1966"] [http=127.0.0.1:8080]
"""

import hydra
from omegaconf import DictConfig

from lifecycle.ask import ask_http, reply_text
from lifecycle.entry import plain_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="recommend")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        reply = ask_http(str(cfg.query_id), k=cfg.k, requested_at_ms=cfg.requested_at_ms, http=cfg.http, text=cfg.text)
        print(reply_text(reply))


if __name__ == "__main__":
    main()
