"""The teacher: a pretrained cross-encoder, and its scores kept on disk by content.

Owns loading the checkpoint and the score cache. A pair that was scored once by the same weights is never scored again,
whatever run asks, and a run that was killed goes on from what it had scored.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoConfig, AutoModel

from ranking.model import ClsEncoder, Ranker, bert_sizes
from ranking.packed import packed_scorer

logger = logging.getLogger(__name__)

# Tokens [P, S] and what is read of pairs as numbers [P, F] (dense features, and embeddings behind them where a teacher
# reads these: embedded.py) -> scores [P], by weights as they were when it was made.
PairScorer = Callable[[NDArray[np.int32], NDArray[np.float32]], NDArray[np.float32]]


def pretrained_encoder(
    directory: Path,
    *,
    pad_token: int,
    dropout: float,
    num_layers: int | None = None,
    trainable_layers: int | None = None,
) -> ClsEncoder:
    """An encoder with the weights of a BERT checkpoint in Hugging Face format.

    Args:
        directory: the checkpoint.
        pad_token: id of [PAD].
        dropout: while training.
        num_layers: keep the first ones only; None keeps all.
        trainable_layers: the last ones that training changes; None trains all, embeddings included.
    """
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    if config.model_type != "bert":
        raise ValueError(f"{directory}: the ranker reads BERT checkpoints; this one is of type {config.model_type!r}")
    encoder = ClsEncoder(sizes=bert_sizes(config, num_layers=num_layers), pad_token=pad_token, dropout=dropout)
    encoder.load_bert(AutoModel.from_pretrained(directory, local_files_only=True).state_dict())
    if trainable_layers is not None:
        encoder.requires_grad_(False)
        for layer in encoder.layers[max(len(encoder.layers) - trainable_layers, 0) :]:
            layer.requires_grad_(True)
    return encoder


def eager_scorer(model: Ranker) -> PairScorer:
    """Rows as they are, by torch, where the model is."""
    return partial(score_pairs, model)


def teacher_scorer(model: Ranker, *, num_workers: int | None = None) -> PairScorer:
    """Rows without their padding on a CPU, as they are where the model is on an accelerator or reads no text.

    Args:
        model: as it is now.
        num_workers: threads on a CPU; None: as many as there are cores.
    """
    if model.encoder is None or model.dense_mean.device.type != "cpu":
        return eager_scorer(model)
    return packed_scorer(model, num_workers=num_workers)


class ScoreCache:
    """Scores of (tokens, dense) pairs by one set of weights, in a sqlite file that many runs share.

    Args:
        path: the file.
        open_scorer: what computes missing scores; called once, and only if any is missing.
    """

    def __init__(self, path: Path, *, open_scorer: Callable[[Ranker], PairScorer] = eager_scorer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.open_scorer = open_scorer

    def score(
        self, model: Ranker, tokens: NDArray[np.int32], dense: NDArray[np.float32], *, batch_size: int = 1024
    ) -> NDArray[np.float32]:
        """Scores [...] of pairs: tokens [..., S], dense [..., F]. What is missing is scored and kept by the batch."""
        shape = tokens.shape[:-1]
        tokens, dense = tokens.reshape(-1, tokens.shape[-1]), dense.reshape(-1, dense.shape[-1])
        weights = _weights_hash(model)
        keys = [_pair_key(weights, tokens[n], dense[n]) for n in range(len(tokens))]
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS scores (pair BLOB PRIMARY KEY, score REAL) WITHOUT ROWID")
            known = _read(connection, keys)
            missing = [n for n, key in enumerate(keys) if key not in known]
            logger.info("teacher: %d of %d pairs are in %s", len(keys) - len(missing), len(keys), self.path)
            if missing:
                score = self.open_scorer(model)
            for start in tqdm(range(0, len(missing), batch_size), desc="teacher scores", unit="batch"):
                places = missing[start : start + batch_size]
                scores = score(tokens[places], dense[places])
                fresh = {keys[n]: float(own) for n, own in zip(places, scores, strict=True)}
                connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", fresh.items())
                connection.commit()
                known |= fresh
        return np.array([known[key] for key in keys], dtype=np.float32).reshape(shape)


@torch.inference_mode()
def score_pairs(model: Ranker, tokens: NDArray[np.int32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores [P] of pairs in one pass: tokens [P, S], dense [P, F]."""
    device = model.dense_mean.device
    scores: NDArray[np.float32] = (
        model.eval()(
            torch.from_numpy(tokens.astype(np.int64)).unsqueeze(1).to(device),
            torch.from_numpy(dense).unsqueeze(1).to(device),
        )
        .squeeze(1)
        .cpu()
        .numpy()
    )
    return scores


def _weights_hash(model: Ranker) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _pair_key(weights: bytes, tokens: NDArray[np.int32], dense: NDArray[np.float32]) -> bytes:
    return hashlib.blake2b(weights + tokens.tobytes() + dense.tobytes(), digest_size=16).digest()


def _read(connection: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, float]:
    known: dict[bytes, float] = {}
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        marks = ",".join("?" * len(some))
        known |= dict(connection.execute(f"SELECT pair, score FROM scores WHERE pair IN ({marks})", some))
    return known
