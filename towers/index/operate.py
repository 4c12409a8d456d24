"""Operating points of a built index: the least effort that reaches a recall, and the time that it takes.

Owns the search over efforts. Recall grows with each of them, so few trials find the least.
"""

# Shapes: Q queries.

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.index.effort import Effort
from towers.index.recall import HeldOut, lower_bound
from towers.index.search import ItemIndex

FloatArray = NDArray[np.float32]

REFINES = (1, 1.4, 2, 4, 8, 16)
FIRST_LISTS = 8
LARGEST_BEAM = 4096
SWEEP_STEP = 2**0.5
NEAR = 1.04  # lists or beams of a ratio below it are as good as one
WARM_UP, IN_A_TURN, EXACT_IN_A_TURN = 4, 16, 4  # queries


@dataclass(frozen=True)
class Reached:
    """An effort with what it finds.

    Attributes:
        recall: mean over the queries; low: its lower bound.
        at_once_ms: processor ms of a query when all are asked at once, the measure's own part included.
    """

    effort: Effort
    recall: float
    low: float
    at_once_ms: float


@contextmanager
def one_thread() -> Iterator[None]:
    """Searches of Faiss have one thread, as one request among many has; then what it was before."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@dataclass(frozen=True, eq=False)
class Stopwatch:
    """Processor ms of one query at a time, in turns with exact search, so that a busy machine slows both alike."""

    held_out: HeldOut

    @cached_property
    def exact_ms(self) -> float:
        """Of exact search: the median of many turns."""
        return float(np.median([self._turn(self.held_out.exact, IN_A_TURN) for _ in range(8)]))

    def ms(self, index: ItemIndex, *, turns: int) -> float:
        """Median of a query, as if exact search took what it takes by `exact_ms`."""
        ratios = []
        for _ in range(turns):
            exact, own = self._turn(self.held_out.exact, EXACT_IN_A_TURN), self._turn(index, IN_A_TURN)
            ratios.append(own / exact)
        return float(np.median(ratios)) * self.exact_ms

    def _turn(self, index: ItemIndex, num: int) -> float:
        return query_ms(index, self.held_out.queries, k=self.held_out.k, num=num)


def query_ms(index: ItemIndex, queries: FloatArray, *, k: int, num: int) -> float:
    """Median processor ms of one query at a time, by one thread.

    Args:
        index: that answers.
        queries: [Q, D], asked in turns.
        k: length of a list.
        num: of queries that count; WARM_UP go before.
    """
    times = []
    with one_thread():
        for n in range(WARM_UP + num):
            query = queries[n % len(queries)][None]
            began = time.thread_time()
            index.search(query, k=k)
            times.append(time.thread_time() - began)
    return 1e3 * float(np.median(times[WARM_UP:]))


@dataclass(frozen=True, eq=False)
class Efforts:
    """Efforts of one index, and which is the least that reaches a recall.

    Attributes:
        target: of the lower bound of recall.
        give_up_ms: of a query when all are asked at once; an effort that takes longer and does not reach the target is
            the last to be tried.
    """

    index: ItemIndex
    held_out: HeldOut
    target: float
    give_up_ms: float = np.inf

    def least(self) -> tuple[list[Reached], Reached]:
        """The least effort that reaches the target, one for each `refine` that may be cheapest; and the best of all."""
        names = self.index.effort.names
        if not names:
            only = self.reached(Effort())
            return [only] * (only.low >= self.target), only
        found: list[Reached] = []
        seen: list[Reached] = []
        for refine in REFINES if "refine" in names else (None,):
            tried = self._bisected(refine)
            seen += tried
            if tried[-1].low < self.target:
                continue
            if found and _amount(tried[-1].effort) >= _amount(found[-1].effort):
                break  # more candidates to score again, and as many lists
            found.append(tried[-1])
        return found, max(seen, key=lambda own: own.low)

    def grid(self) -> list[Effort]:
        """Efforts of a sweep, SWEEP_STEP apart."""
        if not self.index.effort.names:
            return [Effort()]
        least, most = self._range()
        least = 1 if self.index.effort.lists is not None else least
        num = int(np.ceil(np.log(most / least) / np.log(SWEEP_STEP)))
        amounts = sorted({min(round(least * SWEEP_STEP**step), most) for step in range(num + 1)})
        refines = REFINES if "refine" in self.index.effort.names else (None,)
        return [self._effort(amount, refine) for refine in refines for amount in amounts]

    def reached(self, effort: Effort) -> Reached:
        """What an effort finds."""
        index = self.index.with_effort(effort)
        with one_thread():
            began = time.thread_time()
            recalls = self.held_out.recalls(index)
            ms = 1e3 * (time.thread_time() - began) / len(recalls)
        low = 1.0 if index.is_exact else lower_bound(recalls, k=self.held_out.k)
        return Reached(effort, recall=float(recalls.mean()), low=low, at_once_ms=ms)

    def _bisected(self, refine: float | None) -> list[Reached]:
        """What was tried on the way to the least lists or beam that reach the target, these last if there are any.

        From few on they are doubled, then the last step is divided, until what is left differs by less than NEAR.
        """
        low, high, most = 0, *self._range()
        seen = [self.reached(self._effort(high, refine))]
        while seen[-1].low < self.target:
            if high == most or seen[-1].at_once_ms > self.give_up_ms:
                return seen
            low, high = high, min(2 * high, most)
            seen.append(self.reached(self._effort(high, refine)))
        best = seen.pop()
        while high > low + 1 and high > NEAR * low:
            middle = min(max(round((max(low, 1) * high) ** 0.5), low + 1), high - 1)
            own = self.reached(self._effort(middle, refine))
            if own.low < self.target:
                low = middle
                seen.append(own)
            else:
                high, best = middle, own
        return [*seen, best]

    def _range(self) -> tuple[int, int]:
        if self.index.effort.lists is not None:
            return min(FIRST_LISTS, self.index.num_lists), self.index.num_lists
        least = min(self.held_out.k, len(self.index))
        largest = LARGEST_BEAM if self.index.effort.beam is not None else len(self.index)
        return least, max(least, min(largest, len(self.index)))

    def _effort(self, amount: int, refine: float | None) -> Effort:
        name = next(name for name in self.index.effort.names if name != "refine")
        return replace(Effort(**{name: amount}), refine=refine)


def _amount(effort: Effort) -> int:
    return effort.lists or effort.beam or effort.scanned or 0
