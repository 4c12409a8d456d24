"""One inner product of several parts: learned, linear and text embeddings, and item popularity as of a refresh tick.

Owns the layout of the embeddings that the index holds, and how much each part counts. The last coordinate is an item's
bias, what its popularity is worth; it alone changes with a tick, and with it the index (towers/index/search.py).

    item    learned [D]            | linear [E]               | text [T]            | popularity, weighted
    query   weight * learned [D]   | weighted sum of bags [E] | weight * text [T]   | 1

Texts are embedded by one sentence encoder on both sides; T is 0 where queries say nothing.

numpy only: it runs while serving.
"""

# Shapes: N queries, I items, D, E and T widths of the learned, the linear and the text embeddings, B bags, P counts,
# F statistics.

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.statistics import STATISTICS
from towers.retrievers.bags import NUM_BAGS

FloatArray = NDArray[np.float32]

POPULARITY = tuple(name for name in STATISTICS if name.startswith("count_"))
_COLUMNS = [STATISTICS.index(name) for name in POPULARITY]


@dataclass(frozen=True)
class Blend:
    """How much each part of the score counts.

    Attributes:
        learned: of the learned embeddings.
        bags: [B] of the linear embeddings, for each sum over a history.
        popularity: [P] of the logarithm of each of POPULARITY.
        text: of the text embeddings.
        learned_width: of the learned embeddings only so many first coordinates; None: all.
    """

    learned: float = 1.0
    bags: tuple[float, ...] = (0.0,) * NUM_BAGS
    popularity: tuple[float, ...] = (0.0,) * len(POPULARITY)
    text: float = 0.0
    learned_width: int | None = None

    def __post_init__(self) -> None:
        """Refuse weights of another layout."""
        if len(self.bags) != NUM_BAGS or len(self.popularity) != len(POPULARITY):
            raise ValueError(
                f"expected {NUM_BAGS} weights of bags and {len(POPULARITY)} of popularity; got {len(self.bags)} and "
                f"{len(self.popularity)}: build the index again, scripts/build_index.py"
            )
        if not np.isfinite(self.weights).all():
            raise ValueError(f"the weights of a blend must be finite; got {self.weights}")

    @property
    def weights(self) -> NDArray[np.float64]:
        """[1 + B + P + 1] all of them, in the order of the fields."""
        return np.array([self.learned, *self.bags, *self.popularity, self.text])

    @classmethod
    def of_weights(cls, weights: NDArray[np.floating[Any]], *, learned_width: int | None = None) -> Self:
        """The reverse of `weights`; the last one, of texts, may be missing."""
        learned, *others = (float(weight) for weight in weights)
        first = NUM_BAGS + len(POPULARITY)
        return cls(
            learned=learned,
            bags=tuple(others[:NUM_BAGS]),
            popularity=tuple(others[NUM_BAGS:first]),
            text=others[first] if len(others) > first else 0.0,
            learned_width=learned_width,
        )

    def write(self, path: Path) -> None:
        """Write a json file."""
        path.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The reverse of `write`.

        Raises:
            ValueError: it is of another layout.
        """
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            learned=float(document["learned"]),
            bags=tuple(map(float, document["bags"])),
            popularity=tuple(map(float, document["popularity"])),
            text=float(document.get("text", 0.0)),  # without it: of a release from before there was this part
            learned_width=document["learned_width"],
        )

    @property
    def learned_alone(self) -> Self:
        """The same layout with the other parts at nothing."""
        return type(self)(learned_width=self.learned_width)

    @property
    def text_alone(self) -> Self:
        """The same layout with nothing but what texts say: the sentence encoder's own similarity."""
        return type(self)(learned=0.0, text=1.0, learned_width=self.learned_width)

    def query_embeddings(self, learned: FloatArray, bags: FloatArray, text: FloatArray) -> FloatArray:
        """[N, D], [N, B, E] and [N, T] -> [N, D + E + T + 1]."""
        # A sum row by row and no product of matrices: its last bits would depend on how many ask at once.
        linear = (np.array(self.bags, dtype=np.float32)[:, None] * bags).sum(axis=1)
        ones = np.ones((len(learned), 1), dtype=np.float32)
        learned, text = np.float32(self.learned) * learned[:, : self.learned_width], np.float32(self.text) * text
        return np.concatenate([learned, linear, text, ones], axis=1)

    def item_embeddings(
        self, learned: FloatArray, linear: FloatArray, text: FloatArray, statistics: FloatArray
    ) -> FloatArray:
        """[I, D], [I, E], [I, T] and the items' statistics as of a tick [I, F] -> [I, D + E + T + 1]."""
        bias = self.item_bias(statistics)[:, None]
        return np.concatenate([learned[:, : self.learned_width], linear, text, bias], axis=1)

    def item_bias(self, statistics: FloatArray) -> FloatArray:
        """What the items' popularity is worth, [..., I, F] -> [..., I]."""
        weighted = popularity(statistics).astype(np.float64) * np.array(self.popularity)
        bias: FloatArray = weighted.sum(axis=-1).astype(np.float32)
        return bias


def popularity(statistics: FloatArray) -> FloatArray:
    """Logarithms of an item's events of each window as of a tick: [..., F] -> [..., P]."""
    result: FloatArray = np.log1p(statistics[..., _COLUMNS])
    return result
