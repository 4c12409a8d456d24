"""How much each of several scores counts in a ranked list: by lists that none of them has learnt from.

Owns nothing of the loss, which is the fusion's (towers/retrievers/fusion_fit.py).
"""

# Shapes: N lists of C candidates, J scores.

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranking.data import RankerLists
from towers.retrievers.fusion_fit import fit_weights


def list_weights(scores: Sequence[NDArray[np.float32]], lists: RankerLists) -> NDArray[np.float64]:
    """Weights [J] of at least 0 of scores [N, C] under which what was chosen leads its list.

    Raises:
        NothingToFit: no list has both a chosen and another candidate.
    """
    owners, places = np.nonzero(lists.present)
    columns = np.stack([own[owners, places] for own in scores], axis=1).astype(np.float64)
    return fit_weights(columns, relevant=lists.relevance[owners, places] > 0, owners=owners)
