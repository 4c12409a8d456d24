"""Are two sets of named arrays the same? The question behind every train/serve and export gate.

Owns the comparison of two whole sets, the report and its wording. What streams is tally.py's. Knows nothing of where
the arrays come from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import ParityFailed

Arrays = Mapping[str, NDArray[Any]]

# Ids, flags and strings are equal or not; int32 against int64 of the same values is equal.
EXACT_KINDS = {"i": "integer", "u": "integer", "b": "flag", "S": "bytes", "U": "string", "O": "object", "M": "time"}


@dataclass(frozen=True)
class FieldParity:
    """One array of both paths, compared.

    Attributes:
        num_different: not equal to the last bit; of floats this alone is no failure where a tolerance holds.
        max_abs_difference: floats only; inf where one side is nan or infinite and the other is not. None where
            everything must be equal.
        problem: why values could not be compared at all.
        unit: what was counted.
        examples: the first that differ, in words.
    """

    name: str
    num_compared: int
    num_different: int
    max_abs_difference: float | None
    problem: str = ""
    unit: str = "values"
    examples: tuple[str, ...] = ()

    def failure(self, *, float_tolerance: float) -> str:
        """What is wrong with this field, or an empty string."""
        if self.problem:
            return self.problem
        if self.max_abs_difference is None:
            differ = f"{self.num_different} of {self.num_compared} {self.unit} differ"
            return "\n    ".join([differ, *self.examples]) if self.num_different else ""
        if self.max_abs_difference <= float_tolerance:
            return ""
        return f"largest difference {self.max_abs_difference:.3g}, allowed {float_tolerance:.3g}"


@dataclass(frozen=True)
class ParityReport:
    """Every field of the two paths, in the order of their names."""

    fields: tuple[FieldParity, ...]
    offline_name: str = "offline"
    serving_name: str = "serving"

    def check(self, *, float_tolerance: float = 1e-4) -> None:
        """Pass silently, or raise with one line for every field that differs.

        Raises:
            ParityFailed: an id, flag or string differs, a float differs by more than the tolerance, a field is
                missing, or nothing was compared.
        """
        if not sum(field.num_compared for field in self.fields) and not any(field.problem for field in self.fields):
            raise ParityFailed(f"nothing was compared: {self.offline_name} and {self.serving_name} hold no values")
        failures = {field.name: field.failure(float_tolerance=float_tolerance) for field in self.fields}
        lines = [f"  {name}: {failure}" for name, failure in failures.items() if failure]
        if lines:
            raise ParityFailed(
                f"{len(lines)} of {len(self.fields)} fields differ between {self.offline_name} and "
                f"{self.serving_name}:\n" + "\n".join(lines)
            )

    def __str__(self) -> str:
        return "\n".join(
            f"{field.name}: {field.num_compared} {'' if field.unit == 'values' else field.unit + ' '}compared, "
            + (
                field.problem
                or f"{field.num_different} differ"
                + ("" if field.max_abs_difference is None else f", by at most {field.max_abs_difference:.3g}")
            )
            for field in self.fields
        )


def compare(
    *, offline: Arrays, serving: Arrays, offline_name: str = "offline", serving_name: str = "serving"
) -> ParityReport:
    """Compare arrays of the same name, value by value; the names of the paths are used in messages."""
    fields = []
    for name in sorted(offline.keys() | serving.keys()):
        if name not in offline or name not in serving:
            absent = offline_name if name not in offline else serving_name
            fields.append(_incomparable(name, f"missing from {absent}"))
        else:
            fields.append(_compare_field(name, np.asarray(offline[name]), np.asarray(serving[name])))
    return ParityReport(fields=tuple(fields), offline_name=offline_name, serving_name=serving_name)


def _incomparable(name: str, problem: str) -> FieldParity:
    return FieldParity(name=name, num_compared=0, num_different=0, max_abs_difference=None, problem=problem)


def _compare_field(name: str, first: NDArray[Any], second: NDArray[Any]) -> FieldParity:
    if first.shape != second.shape:
        return _incomparable(name, f"shape {first.shape} against {second.shape}")
    if first.dtype.kind == "f" and second.dtype.kind == "f":
        return _compare_floats(name, first.astype(np.float64), second.astype(np.float64))
    kinds = [EXACT_KINDS.get(array.dtype.kind) for array in (first, second)]
    # Strings arrive as objects from tables and as fixed width from lists: comparable, value by value.
    if None in kinds or (kinds[0] != kinds[1] and set(kinds) != {"string", "object"}):
        return _incomparable(name, f"type {first.dtype} against {second.dtype}")
    return FieldParity(
        name=name, num_compared=first.size, num_different=int(np.sum(first != second)), max_abs_difference=None
    )


def _compare_floats(name: str, first: NDArray[np.float64], second: NDArray[np.float64]) -> FieldParity:
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    # Subtracting only what differs keeps inf - inf, which is nan, out of the maximum.
    gaps = np.abs(first[~same] - second[~same])
    gaps[~np.isfinite(gaps)] = np.inf
    return FieldParity(
        name=name,
        num_compared=first.size,
        num_different=int(np.sum(~same)),
        max_abs_difference=float(gaps.max(initial=0.0)),
    )
