"""How much of an index one search reads.

Owns the settings that need no rebuilding, whatever the type of the index; what each builder passes is its default.
"""

from dataclasses import asdict, dataclass
from math import inf

from towers.errors import UnfitPieces


@dataclass(frozen=True)
class Effort:
    """Recall and time grow with each; None: the type has no such setting.

    Attributes:
        lists: inverted lists read for each query (nprobe).
        beam: candidates a graph keeps for each query (efSearch; itopk_size of CAGRA).
        refine: candidates scored again by the stored embeddings, a multiple of k.
        scanned: items that are scored, the heaviest first; k at least.
    """

    lists: int | None = None
    beam: int | None = None
    refine: float | None = None
    scanned: int | None = None

    def __post_init__(self) -> None:
        """Refuse what reads nothing."""
        for name, value in asdict(self).items():
            if value is not None and not 1 <= value < inf:
                raise UnfitPieces(f"expected {name} of at least 1, and finite; got {value}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the settings that there are."""
        return tuple(name for name, value in asdict(self).items() if value is not None)
