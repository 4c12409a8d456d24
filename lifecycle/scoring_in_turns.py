"""Our two ways of scoring pairs, in turns beside a peer: the packed cross-encoder and the decomposed student as served.

Owns what a turn of each is: all pairs once. What they score is bench_scoring.py's.
"""

# Shapes: P pairs, N lists of C candidates, F dense features.

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

from features.text import TextTokenizer
from lifecycle.bench_scoring import CHECKPOINT, LISTS_FILE, SCORES_FILE, STUDENT, read_pairs
from lifecycle.turns import Turns
from ranking.packed import PackedEncoder
from ranking.teacher import pretrained_encoder
from serving.models import open_session
from serving.release import ITEM_STATES_FILE, RANKER_FILE
from serving.retrieval import TOKENIZER_FILE

FloatArray = NDArray[np.float32]


def score_in_turns(settings: Mapping[str, Any], *, own_dir: Path) -> None:
    """Score the same pairs turn after turn, until the turns end; what the last turn gave is in SCORES_FILE.

    Args:
        settings: `folder` of bench_scoring.py's files, `num_threads`, and `scorer`, packed or student.
        own_dir: where the scores go.
    """
    score = {"packed": packed, "student": student}[settings["scorer"]](settings)
    turns = Turns(turn_s=0.0)
    turns.begin()
    while True:
        scores = score()
        np.save(own_dir / SCORES_FILE, scores)
        turns.step(num_targets=scores.size)


def packed(settings: Mapping[str, Any]) -> Callable[[], FloatArray]:
    """From texts to scores [P] by the checkpoint."""
    folder = Path(settings["folder"])
    pairs, checkpoint = read_pairs(folder), folder / CHECKPOINT
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_FILE))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    torch.set_num_threads(settings["num_threads"])
    head = BertForSequenceClassification.from_pretrained(checkpoint, local_files_only=True)
    encoder = PackedEncoder(
        pretrained_encoder(checkpoint, pad_token=TextTokenizer(checkpoint / TOKENIZER_FILE).pad, dropout=0.0),
        num_workers=settings["num_threads"],
    )

    @torch.inference_mode()
    def score() -> FloatArray:
        rows = tokenizer.encode_batch(pairs)
        tokens, segments = (np.array([getattr(row, name) for row in rows]) for name in ("ids", "type_ids"))
        cls = torch.from_numpy(encoder.cls_states(tokens, segments))
        pooled = head.get_submodule("bert.pooler")(cls[:, None])  # [P, 1, H], of which it takes the first position
        scores: FloatArray = head.classifier(pooled).squeeze(1).numpy()
        return scores

    return score


def student(settings: Mapping[str, Any]) -> Callable[[], FloatArray]:
    """Scores [N, C] by the student's ONNX, one list a call, as a server calls it."""
    folder = Path(settings["folder"])
    session = open_session(folder / STUDENT / RANKER_FILE)
    states = np.load(folder / STUDENT / ITEM_STATES_FILE, mmap_mode="r")
    lists = np.load(folder / LISTS_FILE)
    contexts, rows, dense = (lists[name] for name in ("contexts", "candidate_rows", "dense"))

    def one(place: int) -> FloatArray:
        feeds = {
            "context_tokens": contexts[place : place + 1],
            "candidate_states": states[rows[place : place + 1]],
            "dense": dense[place : place + 1],
        }
        scores: FloatArray = session.run(None, feeds)[0]
        return scores

    def score() -> FloatArray:
        with ThreadPoolExecutor(settings["num_threads"]) as workers:
            return np.concatenate(list(workers.map(one, range(len(rows)))))

    return score
