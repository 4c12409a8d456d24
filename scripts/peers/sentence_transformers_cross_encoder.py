"""sentence-transformers' CrossEncoder, predicting in turns; scripts/bench_scoring.py runs it.

python scripts/peers/sentence_transformers_cross_encoder.py SETTINGS.json
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from lifecycle.turns import Turns


def main() -> None:
    path = Path(sys.argv[1])
    settings = json.loads(path.read_text())
    torch.set_num_threads(settings["num_threads"])
    folder = Path(settings["folder"])
    pairs = [tuple(pair) for pair in json.loads((folder / "pairs.json").read_text())]
    model = CrossEncoder(str(folder / "checkpoint"), device="cpu", local_files_only=True)
    turns = Turns(turn_s=0.0)
    turns.begin()
    while True:
        scores = model.predict(
            pairs, batch_size=settings["batch_size"], activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        np.save(path.parent / "scores.npy", scores)
        turns.step(num_targets=len(pairs))


if __name__ == "__main__":
    main()
