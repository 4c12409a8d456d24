"""Exact comparison of two paths part by part: which feature differs, in how many events, and where first.

Owns counting, and finding the feature behind a wrong array; report and wording are parity.py's. Everything must be
equal to the last bit, unless a tolerance is stated. Memory does not grow with what is compared.
"""

# Shapes: N events in a part, F columns of an array that are features of their own.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.parity import Arrays, FieldParity, ParityReport

MAX_EXAMPLES = 3


@dataclass
class _Count:
    num_different: int = 0
    examples: list[str] = field(default_factory=list)


class ParityTally:
    """Counts while parts of two paths come in.

    Args:
        columns: for an array whose last axis stacks features, their names; any other array is one feature.
        offline_name: what to call one path in messages.
        serving_name: and the other.
        tolerances: of arrays whose floats may differ by so much.
    """

    def __init__(
        self,
        *,
        columns: Mapping[str, Sequence[str]],
        offline_name: str = "offline",
        serving_name: str = "online",
        tolerances: Mapping[str, float] | None = None,
    ) -> None:
        self._columns = columns
        self._tolerances = tolerances or {}
        self._names = (offline_name, serving_name)
        self._num_events: dict[str, int] = {}
        self._counts: dict[str, _Count] = {}

    def add(self, *, offline: Arrays, serving: Arrays, keys: Sequence[str]) -> None:
        """Compare one part.

        Args:
            offline: arrays [N, ...] of one path by name.
            serving: of the other.
            keys: [N] what to call each event in an example.
        """
        for name in sorted(offline.keys() | serving.keys()):
            columns = self._columns.get(name)
            for feature in [name] if columns is None else [f"{name}.{column}" for column in columns]:
                self._num_events[feature] = self._num_events.get(feature, 0) + len(keys)
            if name in offline and name in serving:
                first, second = np.asarray(offline[name]), np.asarray(serving[name])
                if not _is_same(first, second):
                    self._find(name, first, second, keys=keys)
            else:
                self._cannot_compare(name, f"missing from {self._names[name in offline]}", keys=keys)

    @property
    def report(self) -> ParityReport:
        """What was counted so far."""
        features = dict(sorted(self._num_events.items()))
        counts = {name: self._counts.get(name, _Count()) for name in features}
        return ParityReport(
            fields=tuple(
                FieldParity(
                    name=name,
                    num_compared=num_events,
                    num_different=counts[name].num_different,
                    max_abs_difference=None,
                    unit="events",
                    examples=tuple(counts[name].examples),
                )
                for name, num_events in features.items()
            ),
            offline_name=self._names[0],
            serving_name=self._names[1],
        )

    def _find(self, name: str, first: NDArray[Any], second: NDArray[Any], *, keys: Sequence[str]) -> None:
        """Which features of an array differ, and where."""
        if first.shape != second.shape or first.dtype != second.dtype:
            problem = f"{first.dtype} {list(first.shape)} against {second.dtype} {list(second.shape)}"
            self._cannot_compare(name, problem, keys=keys)
            return
        differs = _bits(first) != _bits(second)
        if name in self._tolerances:
            with np.errstate(invalid="ignore"):  # inf - inf is nan, which is within no tolerance
                differs &= ~(np.abs(first - second) <= self._tolerances[name])
            if not differs.any():
                return
        columns = self._columns.get(name)
        if columns is None:
            self._find_events(name, differs, first, second, keys=keys)
            return
        for place, column in enumerate(columns):
            own = (..., place)
            if differs[own].any():
                self._find_events(f"{name}.{column}", differs[own], first[own], second[own], keys=keys)

    def _find_events(
        self,
        feature: str,
        differs: NDArray[np.bool_],
        first: NDArray[Any],
        second: NDArray[Any],
        *,
        keys: Sequence[str],
    ) -> None:
        events = np.flatnonzero(differs.reshape(len(keys), -1).any(axis=1))
        self._count(feature, len(events))
        for event in events[: MAX_EXAMPLES - len(self._counts[feature].examples)]:
            place = tuple(int(at) for at in np.argwhere(differs[event])[0])
            at = f" at {list(place)}" if place else ""
            values = [
                f"{path} {np.asarray(array[(event, *place)]).item()!r}"
                for path, array in zip(self._names, (first, second), strict=True)
            ]
            self._counts[feature].examples.append(f"{keys[event]}{at}: {', '.join(values)}")

    def _cannot_compare(self, name: str, problem: str, *, keys: Sequence[str]) -> None:
        if name in self._columns:  # it has no line of its own where its columns can be told apart
            self._num_events[name] = self._num_events.get(name, 0) + len(keys)
        self._count(name, len(keys))
        if len(self._counts[name].examples) < MAX_EXAMPLES:
            self._counts[name].examples.append(problem)

    def _count(self, feature: str, num: int) -> None:
        self._counts.setdefault(feature, _Count()).num_different += num


def _is_same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and bool((_bits(first) == _bits(second)).all())


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """Floats as integers: nan equals itself, and 0.0 is not -0.0."""
    if array.dtype.kind != "f":
        return array
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
