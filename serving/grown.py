"""A table of items that grows while it is served: the release's array, mapped and never written to, and rows beside it.

Owns the gathering. It stands where an array [R, ...] stood that is only ever asked for rows, hence the type it goes by.
numpy only.
"""

# Shapes: R rows of the release's table, T rows that are other or more, M rows that come in one change.

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grown(Generic[Scalar]):
    """An array some rows of which are others.

    Attributes:
        base: [R, ...].
        rows: [T] ascending.
        values: [T, ...] what stands there; a row that neither has is never asked for.
    """

    base: NDArray[Scalar]
    rows: IntArray
    values: NDArray[Scalar]

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""
        return (max(len(self.base), int(self.rows[-1]) + 1), *self.base.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.integer[Any]]) -> NDArray[Scalar]:
        """Of rows of any shape: a copy."""
        found: NDArray[Scalar] = self.base[np.minimum(rows, len(self.base) - 1)]
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        is_other = self.rows[places] == rows
        found[is_other] = self.values[places[is_other]]
        return found


def grown(table: NDArray[Scalar], rows: IntArray, values: NDArray[Scalar]) -> NDArray[Scalar]:
    """The same table with these values [M, ...] in these rows [M], distinct: it costs a copy of what stands beside it.

    Raises:
        ValueError: the values are of another shape or type than the table's.
    """
    earlier = cast("NDArray[Scalar] | Grown[Scalar]", table)
    base = earlier.base if isinstance(earlier, Grown) else earlier
    if values.shape != (len(rows), *base.shape[1:]) or values.dtype != base.dtype:
        raise ValueError(
            f"expected {base.dtype} {[len(rows), *base.shape[1:]]} for rows of this table; "
            f"got {values.dtype} {list(values.shape)}"
        )
    if isinstance(earlier, Grown):
        kept = ~np.isin(earlier.rows, rows)
        rows, values = np.concatenate([earlier.rows[kept], rows]), np.concatenate([earlier.values[kept], values])
    if not len(rows):
        return table
    order = np.argsort(rows)
    return cast("NDArray[Scalar]", Grown(base, rows[order], values[order]))
