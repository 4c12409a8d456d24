"""What a teacher reads of the towers' embeddings, behind the dense features of a pair.

Owns what becomes of the two embeddings of a pair. Whose towers they are of is lifecycle's business: a teacher learns on
the embeddings of one training of the towers, and those of another, rotated at random, would tell it nothing.
"""

# Shapes: N lists, C candidates a list, R rows of the item table, F dense features, D width of the towers' embeddings.

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ranking.data import RankerLists
from ranking.model import Ranker

FloatArray = NDArray[np.float32]


def pair_embeddings(queries: FloatArray, items: FloatArray) -> FloatArray:
    """Products by coordinate of two embeddings of unit length, times D: their mean is the cosine. 0 where one is 0.

    Args:
        queries: [N, D].
        items: [N, C, D].

    Returns:
        [N, C, D], NaN where an embedding has one.
    """
    return _unit(queries)[:, None] * _unit(items) * np.float32(items.shape[-1])


def read_by(teacher: Ranker, lists: RankerLists, *, item_embeddings: FloatArray) -> RankerLists:
    """Lists as this teacher reads them: dense [N, C, F + D] if it reads embeddings, else as they are.

    Args:
        teacher: of F dense features.
        lists: whose query embeddings are of the towers that the teacher learnt on.
        item_embeddings: [R, D] of the same towers.

    Raises:
        ValueError: the teacher learnt on embeddings of another width.
    """
    if not teacher.embedding_width:
        return lists
    widths = {lists.query_embeddings.shape[-1], item_embeddings.shape[-1]}
    if widths != {teacher.embedding_width}:
        raise ValueError(
            f"the teacher learnt on towers of width {teacher.embedding_width}; these embeddings have "
            f"{' and '.join(map(str, sorted(widths)))}: train it again with scripts/train_ranker.py"
        )
    embedded = pair_embeddings(lists.query_embeddings, item_embeddings[lists.candidate_rows])
    return replace(lists, dense=np.concatenate([lists.dense, embedded], axis=-1))


def _unit(embeddings: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    units: FloatArray = np.divide(embeddings, np.maximum(lengths, 1e-6), dtype=np.float32)
    return units
