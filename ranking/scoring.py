"""Scores of whole lists by a ranker as it was trained, its two parts apart.

Owns going through lists batch by batch. What is served scores by onnxruntime, serving/models.py.
"""

# Shapes: N lists of C candidates.

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ranking.data import RankerLists
from ranking.decomposed import DecomposedRanker
from ranking.model import Ranker
from ranking.texts import StateTexts, Texts, TokenTexts

BATCH_SIZE = 16


def texts_of(model: Ranker | DecomposedRanker, lists: RankerLists) -> Texts:
    """Texts of lists as this ranker reads them."""
    return StateTexts.read(model.encoder, lists) if isinstance(model, DecomposedRanker) else TokenTexts(lists)


@torch.inference_mode()
def scores_by_part(
    model: Ranker | DecomposedRanker, lists: RankerLists
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Dense part and text part of the scores, each [N, C]; their sum is the score."""
    texts, (num, num_candidates) = texts_of(model, lists), lists.candidate_rows.shape
    dense_part, text_part = np.zeros((2, num, num_candidates), dtype=np.float32)
    for start in tqdm(range(0, num, BATCH_SIZE), desc="scores by part", unit="batch", disable=None):
        own = np.arange(start, min(start + BATCH_SIZE, num))
        dense = torch.from_numpy(lists.dense[own])
        places = np.tile(np.arange(num_candidates), (len(own), 1))
        dense_part[own] = model.dense_part(dense)[1].numpy()
        text_part[own] = model(*texts.of(own, places), dense).numpy() - dense_part[own]
    return dense_part, text_part
