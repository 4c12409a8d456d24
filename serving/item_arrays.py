"""All that serving knows of some items, a row each: what an added or updated item brings with it.

Owns how they lie in a log of changes: an npz without pickle. How they are made of raw columns is item_embedder.py's,
how a release grows by them retrieval.py's. Loaded inside Triton.
"""

# Shapes: M items, D and L widths of learned and linear embeddings, E of texts, Si tokens and W width of an item's
# states.

import io
import json
import zipfile
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.transforms import ItemInputs
from serving.errors import ReleaseDamaged

FloatArray = NDArray[np.float32]

_INPUTS = tuple(field.name for field in fields(ItemInputs))
_ARRAYS = ("learned", "linear", "text", "as_new", "states")
_NAMES = "names"


@dataclass(frozen=True, eq=False)
class ItemArrays:
    """M items.

    Attributes:
        item_ids: distinct.
        titles: what a person calls each.
        inputs: of rankers and towers, [M, ...] each.
        learned: [M, D] by the item tower, of which histories are made.
        linear: [M, L].
        text: [M, E]; of no width where queries have no text.
        as_new: [M, D or the blend's learned_width] what stands for `learned` in the index while an item has no event.
        states: [M, Si, W] of a ranker that reads items beforehand; W is 0 without one.
        facts: JSON that each was made of, for a release that is to make its own arrays of them; (): nobody kept it.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    inputs: ItemInputs
    learned: FloatArray
    linear: FloatArray
    text: FloatArray
    as_new: FloatArray
    states: NDArray[np.int8]
    facts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.item_ids)

    def to_bytes(self) -> bytes:
        """For a log."""
        names = json.dumps([self.item_ids, self.titles, self.facts]).encode()
        arrays: dict[str, Any] = {_NAMES: np.frombuffer(names, np.uint8)}
        arrays |= {name: getattr(self.inputs, name) for name in _INPUTS}
        arrays |= {name: getattr(self, name) for name in _ARRAYS}
        content = io.BytesIO()
        np.savez(content, **arrays)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The reverse of `to_bytes`.

        Raises:
            ReleaseDamaged: it is something else.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                item_ids, titles, facts = json.loads(arrays[_NAMES].tobytes())
                return cls(
                    item_ids=tuple(item_ids),
                    titles=tuple(titles),
                    facts=tuple(facts),
                    inputs=ItemInputs(**{name: arrays[name] for name in _INPUTS}),
                    **{name: arrays[name] for name in _ARRAYS},
                )
        except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ReleaseDamaged(
                f"a logged change holds no items of this version ({type(error).__name__}: {error}); begin another log"
            ) from error
