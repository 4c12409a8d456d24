"""The fastest index within latency, memory and recall, found by far fewer builds than a sweep over all.

Owns the search over recipes and the choice. First all types compete on a sample of the items; those that come near the
fastest are built from all items, and the number of lists or links is varied as long as that helps. A sweep builds and
measures everything, and is there to check the tuner.
"""

# Shapes: Q queries, P items, D width of the embeddings.

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from towers.errors import GoalsNotMet, UnfitPieces
from towers.index.effort import Effort
from towers.index.operate import REFINES, Efforts, Reached, Stopwatch
from towers.index.recall import HeldOut
from towers.index.recipes import SEARCH_SETTINGS, TYPES, Recipe, recipes
from towers.index.scann_structure import has_scann
from towers.index.search import ItemIndex

logger = logging.getLogger(__name__)

SAMPLE = 8192  # items on which types compete, at least; an eighth where that is more
SAMPLE_SHARE = 8
FAR = 1.5  # times the fastest on the sample: what is slower is dropped; below it the order may change with more items
NEAR_FASTEST = 1.15  # at full size: sizes of lists or links are varied
CLOSE = 1.15  # measured again before one is chosen
EXACT = 1.1  # times the fastest: up to there what misses nothing is chosen
SLACK_MS = 0.2  # of measuring recall, which an effort's time at once has in it
TURNS, LONG_TURNS = 4, 16  # of a stopwatch
CURVE = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0)  # times the chosen lists or beam


@dataclass(frozen=True)
class Goals:
    """What an index is to do.

    Attributes:
        recall: recall@k of exact search, at least; of its lower bound on the queries that are tuned on.
        k: length of the lists.
        latency_ms: of processor time a query, asked alone on one thread, at most.
        memory_gb: of the index, in 10^9 bytes, at most.
        scann: whether ScaNN may be chosen, where it is installed. Such an index is served in process alone.
    """

    recall: float
    k: int
    latency_ms: float
    memory_gb: float
    scann: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 0 < self.recall <= 1 or self.k < 1 or not self.latency_ms > 0 or not self.memory_gb > 0:
            raise UnfitPieces(f"expected a recall in (0, 1], k of at least 1, and limits above 0; got {self}")


@dataclass(frozen=True)
class Point:
    """An operating point.

    Attributes:
        num_items: that the index was built of.
        recall, low: of `Reached`.
        ms: a query; NaN where the recall is too low to be timed.
        num_bytes: of memory.
        build_s: processor seconds of all threads.
    """

    recipe: Recipe
    effort: Effort
    num_items: int
    recall: float
    low: float
    ms: float
    num_bytes: int
    build_s: float

    @property
    def said(self) -> str:
        """In one line."""
        searched = {SEARCH_SETTINGS[name]: getattr(self.effort, name) for name in self.effort.names}
        settings = {**self.recipe.settings(self.num_items), **searched}
        named = ", ".join(f"{name} {value}" for name, value in settings.items())
        return (
            f"{self.recipe.type} ({self.recipe.apart:.0%} apart; {named}): recall {self.recall:.4f} "
            f"(at least {self.low:.4f}), {self.ms:.3f} ms, {self.num_bytes / 1e9:.4f} GB, built in {self.build_s:.1f} s"
        )


@dataclass(frozen=True)
class Forecast:
    """What an index of another number of items would need, on the line through two sizes."""

    num_items: int
    num_bytes: float
    build_s: float


@dataclass(frozen=True, eq=False)
class Tuning:
    """What was found.

    Attributes:
        chosen: the fastest within all goals.
        index: that it is measured on.
        points: of each index that was built the best ones, or what came nearest.
        exact_ms: of exact search.
        cpu_s: processor seconds of the search, those that building took among them.
    """

    chosen: Point
    index: ItemIndex
    points: Sequence[Point]
    exact_ms: float
    cpu_s: float


def tuned(held_out: HeldOut, goals: Goals, *, seed: int) -> Tuning:
    """Search as this module says.

    Args:
        held_out: items with queries that are tuned on.
        goals: of the index.
        seed: draws the sample.

    Raises:
        GoalsNotMet: no index that was tried is within all goals.
    """
    began = time.process_time()
    search = _Search(held_out, goals)
    for recipe in _entrants(held_out, goals, seed=seed):
        search.enter(recipe)
    for recipe in _near(search.within_memory, factor=NEAR_FASTEST):
        search.climb(recipe)
    return search.result(began)


def swept(held_out: HeldOut, goals: Goals) -> Tuning:
    """Build every recipe, and measure it by every effort of a grid; arguments and errors as of `tuned`."""
    began = time.process_time()
    search = _Search(held_out, goals)
    for recipe in _considered(held_out, goals):
        search.sweep(recipe)
    return search.result(began)


def curve(tuning: Tuning, held_out: HeldOut) -> list[Point]:
    """Operating points of the chosen index on other efforts, the chosen one among them, from little to much."""
    efforts, watch = Efforts(tuning.index, held_out, target=1.0), Stopwatch(held_out)
    points = []
    for effort in around(tuning.chosen.effort, num_lists=tuning.index.num_lists):
        if effort == tuning.chosen.effort:
            points.append(tuning.chosen)
            continue
        reached = efforts.reached(effort)
        ms = watch.ms(tuning.index.with_effort(effort), turns=LONG_TURNS) * tuning.exact_ms / watch.exact_ms
        points.append(replace(tuning.chosen, effort=effort, recall=reached.recall, low=reached.low, ms=ms))
    return points


def forecast(point: Point, held_out: HeldOut, *, factor: int, seed: int) -> Forecast:
    """Memory and time of building, on the line through half of the items, drawn at random, and all of them.

    Settings stay as chosen for these items, so centroids and codebooks, which cost the same whatever there is to
    divide, are the line's constant.
    """
    num = len(held_out.rows)
    half = np.sort(np.random.default_rng(seed).permutation(num)[: num // 2])
    builder, sizes = point.recipe.builder(num), []
    for drawn in (half, np.arange(num)):
        began = time.process_time()
        index = builder.build(held_out.items[drawn], held_out.rows[drawn])
        sizes.append((len(drawn), index.num_bytes, time.process_time() - began))
    (fewer, *less), (more, *whole) = sizes
    steps = (factor * num - more) / (more - fewer)
    num_bytes, build_s = (most + steps * max(most - least, 0) for least, most in zip(less, whole, strict=True))
    return Forecast(num_items=factor * num, num_bytes=num_bytes, build_s=build_s)


def _considered(held_out: HeldOut, goals: Goals) -> list[Recipe]:
    """All recipes, and a word on ScaNN's where they are left out."""
    if not goals.scann:
        logger.info("ScaNN is not considered, for Triton cannot serve it; scann=true considers it, to serve in process")
    elif not has_scann():
        logger.warning("ScaNN is not considered, for it is not installed: make setup EXTRAS=scann")
    return recipes(len(held_out.rows), scann=goals.scann and has_scann())


def _entrants(held_out: HeldOut, goals: Goals, *, seed: int) -> list[Recipe]:
    """Exact search, and what comes near the fastest of all else on a sample of the items and, by its bytes there, fits.

    On a sample exact search says nothing: so few items lie in the processor's cache.
    """
    num = len(held_out.rows)
    drawn = np.sort(np.random.default_rng(seed).permutation(num)[: max(SAMPLE, num // SAMPLE_SHARE)])
    sample = replace(held_out, items=held_out.items[drawn], rows=held_out.rows[drawn])
    # Rows, embeddings and codes grow with the items.
    share = len(drawn) / num
    search = _Search(sample, replace(goals, memory_gb=goals.memory_gb * share), turns=LONG_TURNS)
    considered = _considered(held_out, goals)
    exact = [recipe for recipe in considered if not TYPES[recipe.type].is_approximate]
    for recipe in considered:
        if recipe not in exact and recipe.size == TYPES[recipe.type].middle:
            search.enter(recipe)
    return [*exact, *_near(search.within_memory or search.reaching, factor=FAR)]


def _near(points: Sequence[Point], *, factor: float) -> list[Recipe]:
    """Recipes of the points that are at most so many times slower than the fastest, fastest first."""
    order = sorted(points, key=lambda own: own.ms)
    return list(dict.fromkeys(own.recipe for own in order if own.ms <= factor * order[0].ms))


def _price(point: Point) -> float:
    """Ms of a query; what reads every item is given a discount, for it misses nothing and has nothing to be tuned."""
    return point.ms if TYPES[point.recipe.type].is_approximate else point.ms / EXACT


def around(effort: Effort, *, num_lists: int) -> list[Effort]:
    """Efforts from little to much; where there is but one list, by what is scored again."""
    if num_lists == 1:
        return [replace(effort, refine=refine) for refine in REFINES] if effort.refine else [effort]
    if effort.lists is not None:
        amounts = sorted({min(max(round(factor * effort.lists), 1), num_lists) for factor in CURVE})
        return [replace(effort, lists=amount) for amount in amounts]
    if effort.beam is not None:
        return [replace(effort, beam=max(round(factor * effort.beam), 1)) for factor in CURVE]
    if effort.scanned is not None:
        return [replace(effort, scanned=max(round(factor * effort.scanned), 1)) for factor in CURVE]
    return [effort]


class _Search:
    """Indexes that were built so far, and their operating points."""

    def __init__(self, held_out: HeldOut, goals: Goals, *, turns: int = TURNS) -> None:
        self.held_out = held_out
        self.goals = goals
        self.turns = turns
        self.points: list[Point] = []
        self._watch = Stopwatch(held_out)
        self._indexes: dict[Recipe, ItemIndex] = {}  # of what is near the fastest: memory for all is too much

    @property
    def reaching(self) -> list[Point]:
        """What has the recall."""
        return [own for own in self.points if own.low >= self.goals.recall and np.isfinite(own.ms)]

    @property
    def within_memory(self) -> list[Point]:
        """Of that, what fits into memory."""
        return [own for own in self.reaching if own.num_bytes <= 1e9 * self.goals.memory_gb]

    def enter(self, recipe: Recipe) -> float:
        """Build, look for the least effort, and return the ms of the fastest point; infinite where none has the recall.

        What takes far longer than the fastest so far is not looked into further.
        """
        index, build_s = self._built(recipe)
        best_ms = min((own.ms for own in self.within_memory), default=np.inf)
        efforts = Efforts(index, self.held_out, target=self.goals.recall, give_up_ms=FAR * best_ms + SLACK_MS)
        found, best = efforts.least()
        points = [self._point(recipe, index, build_s, own) for own in found]
        self._keep(points or [self._point(recipe, index, build_s, best)], index)
        return min((own.ms for own in points), default=np.inf)

    def climb(self, recipe: Recipe) -> None:
        """Vary the number of lists or links as long as that is faster: first more of them, else fewer."""
        num, sizes = len(self.held_out.rows), TYPES[recipe.type].sizes
        place = sizes.index(recipe.size)
        first_ms = min(own.ms for own in self.points if own.recipe == recipe)
        for way in (sizes[place + 1 :], sizes[:place][::-1]):
            best_ms, best = first_ms, recipe
            for size in way:
                other = replace(recipe, size=size)
                if other.settings(num) == best.settings(num) or (ms := self.enter(other)) >= best_ms:
                    break
                best_ms, best = ms, other
            if best_ms < first_ms:
                return

    def sweep(self, recipe: Recipe) -> None:
        """Build, and measure each effort of a grid."""
        index, build_s = self._built(recipe)
        efforts = Efforts(index, self.held_out, target=self.goals.recall)
        self._keep([self._point(recipe, index, build_s, efforts.reached(own)) for own in efforts.grid()], index)

    def result(self, began: float) -> Tuning:
        """The fastest of all, those that are close to it measured longer; exact search where it is nearly as fast."""
        fastest = min((own.ms for own in self.within_memory), default=np.inf)
        close = [own for own in self.within_memory if own.ms <= CLOSE * fastest]
        again = [replace(own, ms=self._watch.ms(self._of(own), turns=LONG_TURNS)) for own in close]
        met = [own for own in again if own.ms <= self.goals.latency_ms] or again
        chosen = min(met, key=_price, default=None)
        if chosen is None or chosen.ms > self.goals.latency_ms:
            raise GoalsNotMet(self._misses(chosen))
        return Tuning(
            chosen=chosen,
            index=self._of(chosen),
            points=self.points,
            exact_ms=self._watch.exact_ms,
            cpu_s=time.process_time() - began,
        )

    def _built(self, recipe: Recipe) -> tuple[ItemIndex, float]:
        began = time.process_time()
        index = recipe.builder(len(self.held_out.rows)).build(self.held_out.items, self.held_out.rows)
        return index, time.process_time() - began

    def _point(self, recipe: Recipe, index: ItemIndex, build_s: float, reached: Reached) -> Point:
        point = Point(
            recipe=recipe,
            effort=reached.effort,
            num_items=len(index),
            recall=reached.recall,
            low=reached.low,
            ms=np.nan,
            num_bytes=index.num_bytes,
            build_s=build_s,
        )
        if reached.low >= self.goals.recall:
            point = replace(point, ms=self._watch.ms(index.with_effort(reached.effort), turns=self.turns))
        logger.info("%s", point.said)
        return point

    def _keep(self, points: Sequence[Point], index: ItemIndex) -> None:
        self.points += points
        self._indexes[points[0].recipe] = index
        near = _near(self.within_memory, factor=CLOSE)
        self._indexes = {recipe: own for recipe, own in self._indexes.items() if recipe in near}

    def _of(self, point: Point) -> ItemIndex:
        return self._indexes[point.recipe].with_effort(point.effort)

    def _misses(self, fastest: Point | None) -> str:
        said = [f"no index of {len(self.held_out.rows)} items is within {self.goals}. Nearest:"]
        if fastest is not None:
            said.append(f"within memory and recall the fastest is {fastest.said};")
        if self.reaching:
            said.append(f"of this recall the smallest is {min(self.reaching, key=lambda own: own.num_bytes).said};")
        said.append(f"the highest recall has {max(self.points, key=lambda own: own.low).said}.")
        return " ".join([*said, "Raise the limit that they miss, or lower recall or k"])
