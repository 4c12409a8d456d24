"""What a ranker's text part reads of sampled lists, while it is trained and scored.

Owns the two ways: tokens of whole rows, or states that frozen lower layers made of each context and each item once. The
second never runs those layers in a step.
"""

# Shapes: N lists of C candidates, P samples of K places, S tokens of a row, Sc and Si of its context and candidate, U
# different candidate texts, H width of states.

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ranking.data import RankerLists
from ranking.decomposed import DecomposedEncoder

IntArray = NDArray[np.int64]


class Texts(Protocol):
    """Texts of N lists."""

    def of(self, lists: IntArray, places: IntArray) -> tuple[Tensor, ...]:
        """What the ranker takes before the dense features: of lists [P], and candidates at places [P, K] of each."""
        ...


@dataclass(frozen=True)
class TokenTexts:
    """Tokens of whole rows."""

    lists: RankerLists

    def of(self, lists: IntArray, places: IntArray) -> tuple[Tensor, ...]:
        """[P, K, S]."""
        return (torch.from_numpy(self.lists.tokens[lists[:, None], places].astype(np.int64)),)


@dataclass(frozen=True)
class StateTexts:
    """States of the lower layers, in fp16 until they are asked for."""

    contexts: NDArray[np.float16]  # [N, Sc, H]
    items: NDArray[np.float16]  # [U, Si, H]
    item_of: IntArray  # [N, C]

    @classmethod
    def read(cls, encoder: DecomposedEncoder, lists: RankerLists) -> "StateTexts":
        """Have the lower layers read each list's context and each different candidate text once."""
        split = encoder.num_context_tokens
        contexts, context_of = np.unique(lists.tokens[:, 0, :split], axis=0, return_inverse=True)
        flat = lists.tokens[:, :, split:].reshape(-1, lists.tokens.shape[2] - split)
        texts, item_of = np.unique(flat, axis=0, return_inverse=True)
        return cls(
            contexts=encoder.states_of(contexts, of_context=True)[context_of.ravel()],
            items=encoder.states_of(texts, of_context=False),
            item_of=item_of.reshape(lists.candidate_rows.shape),
        )

    def of(self, lists: IntArray, places: IntArray) -> tuple[Tensor, ...]:
        """[P, Sc, H] and [P, K, Si, H]."""
        items = self.items[self.item_of[lists[:, None], places]]
        return torch.from_numpy(self.contexts[lists]).float(), torch.from_numpy(items).float()
