"""Stage 1 as it is served: from raw query features to the candidates of all retrievers, with each one's score and rank.

Owns the artefacts of stage 1 in memory and the way through them. Training lists, evaluation and the server all get
their candidates from here, so what the ranker learns on is what it is served.

Shapes: N queries, R rows of the item table, D, L and E widths of learned, linear and text embeddings, W width of the
index, C candidates, K retrievers, X rows excluded, P rows that are asked for.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.catalogue import Catalogue
from features.spec import FeatureSpec
from features.statistics import ItemStatistics
from features.text import TextTokenizer
from features.tower_inputs import QueryTowerInputs, read_as_encoded
from features.transforms import ItemInputs, QueryFeatures, QueryInputs, query_inputs
from features.vocab import FIRST, Vocabularies
from serving.candidates import Candidates
from serving.models import Models
from towers.index.search import ItemIndex
from towers.index.snapshot import Snapshot
from towers.retrievers.bags import history_bags
from towers.retrievers.blend import Blend
from towers.retrievers.bm25 import word_rows
from towers.retrievers.fusion import Answer, Fusion
from towers.retrievers.index_hits import IndexHits
from towers.retrievers.neighbours import NeighbourTable
from towers.retrievers.new_items import NewItems
from towers.retrievers.popularity import Popular
from towers.retrievers.repeats import repeats
from towers.retrievers.weights import ease_weights, transition_weights

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

SPEC_FILE, VOCABULARIES_FILE, ITEM_IDS_FILE = "feature_spec.json", "vocabularies.json", "item_ids.json"
TOKENIZER_FILE, INDEX_FILE, FUSION_FILE = "tokenizer.json", "index.faiss", "fusion.json"
BUILDER_FILE = "index_builder.json"
BLEND_FILE, LINEAR_SUFFIX, NEW_ITEMS_SUFFIX = "blend.json", ".linear.npy", ".new_items.npz"
CONTENT_SUFFIX = ".content.npz"  # of the map by which items that come later are embedded; item_embedder.py
QUERY_TOWER_FILE, ITEM_TOWER_FILE = "query_tower.onnx", "item_tower.onnx"
ARRAYS_DIR, RETRIEVERS_DIR, RECOMMENDABLE_FILE = "arrays", "retrievers", "recommendable.npy"
TEXT_ARRAY = "text_embeddings"
ITEM_ARRAYS = ("item_id", "categories", "numbers", "title_tokens", "text_tokens")
NEIGHBOUR_WEIGHTS = {"transitions": transition_weights, "ease": ease_weights}
# Where what was had may be recommended again: how often it was, and how often lately.
HALF_LIVES_DAYS = {"repeats": None, "recent_repeats": 30.0}
RETRIEVERS = ("towers", *NEIGHBOUR_WEIGHTS, "popularity", *HALF_LIVES_DAYS)
SCORES = ("fused", *RETRIEVERS)
BM25 = "bm25"  # the last one where queries say something: words can be looked for


def retriever_names(*, query_text: bool) -> tuple[str, ...]:
    """In the order of their columns."""
    return (*RETRIEVERS, BM25) if query_text else RETRIEVERS


def score_names(*, query_text: bool) -> tuple[str, ...]:
    """Of every candidate, in the order of their columns; the first is what orders them."""
    return (SCORES[0], *retriever_names(query_text=query_text))


@dataclass(frozen=True)
class Stage1:
    """What stage 1 reads of a release, or of a towers step that has not become one yet.

    Attributes:
        item_embeddings: the learned ones, of which histories are made.
        linear_embeddings: of towers/retrievers/linear.py, beside these in the index.
        text_embeddings: of the sentence encoder that the query tower's file holds; of no width where queries have no
            text.
        blend: of these and of popularity.
        new_items: what the index has otherwise for items without events.
        recommendable: [R or more] rows that may be candidates.
        statistics: answers are as of its newest tick.
        snapshot: of the index, as of the same tick.
    """

    spec: FeatureSpec
    vocabularies: Vocabularies
    catalogue: Catalogue
    items: ItemInputs
    item_embeddings: FloatArray  # [R, D]
    linear_embeddings: FloatArray  # [R, L]
    text_embeddings: FloatArray  # [R, E]
    blend: Blend
    new_items: NewItems
    recommendable: NDArray[np.bool_]
    statistics: ItemStatistics
    snapshot: Snapshot
    neighbours: Mapping[str, NeighbourTable]
    fusion: Fusion
    tokenizer: TextTokenizer

    @classmethod
    def read(cls, directory: Path, *, index_path: Path | None = None) -> "Stage1":
        """Read a directory that `write_tables` filled; large arrays are mapped, not copied.

        Args:
            directory: of the tables.
            index_path: where the index lies, and beside it linear embeddings, blend, new items and fusion; None: in the
                directory.

        Raises:
            ValueError: a file is none of these, or the fusion is of other retrievers.
        """
        arrays, index_path = directory / ARRAYS_DIR, index_path or directory / INDEX_FILE

        def mapped(path: Path) -> NDArray[np.generic]:
            # asarray drops the memmap subclass, whose every slice is slow, and keeps the mapping.
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))

        def array(name: str) -> NDArray[np.generic]:
            return mapped(arrays / f"{name}.npy")

        def document(name: str) -> Any:
            # Triton's stub reads files as ASCII unless told otherwise, whatever its locale says.
            return json.loads((directory / name).read_text(encoding="utf-8"))

        spec = FeatureSpec.from_json(document(SPEC_FILE))
        retrievers = retriever_names(query_text=spec.text.query_tokens > 0)
        tables = [name for name in retrievers if name in (*NEIGHBOUR_WEIGHTS, BM25)]
        item_embeddings = array("item_embeddings").astype(np.float32, copy=False)
        text_embeddings = array(TEXT_ARRAY) if spec.text.query_tokens else item_embeddings[:, :0]
        return cls(
            spec=spec,
            vocabularies=Vocabularies.from_json(document(VOCABULARIES_FILE)),
            catalogue=Catalogue(item_ids=tuple(document(ITEM_IDS_FILE))),
            items=ItemInputs(**{name: array(name) for name in ITEM_ARRAYS}),  # type: ignore[arg-type]
            item_embeddings=item_embeddings,
            linear_embeddings=mapped(index_path.with_suffix(LINEAR_SUFFIX)).astype(np.float32, copy=False),
            text_embeddings=text_embeddings.astype(np.float32, copy=False),
            blend=Blend.read(index_path.with_name(BLEND_FILE)),
            new_items=NewItems.read(index_path.with_suffix(NEW_ITEMS_SUFFIX)),
            recommendable=np.load(directory / RECOMMENDABLE_FILE, allow_pickle=False),
            statistics=ItemStatistics(
                ticks_at_ms=array("statistics_at_ms").astype(np.int64, copy=False),
                values=array("statistics").astype(np.float32, copy=False),
            ),
            snapshot=Snapshot(ItemIndex.read(index_path)),
            neighbours={name: NeighbourTable.load(directory / RETRIEVERS_DIR / name) for name in tables},
            fusion=Fusion.read(index_path.with_name(FUSION_FILE), retrievers=retrievers),
            tokenizer=TextTokenizer(directory / TOKENIZER_FILE),
        )

    def as_of(self, statistics: ItemStatistics, *, ticked: Callable[[FloatArray], Snapshot] | None = None) -> "Stage1":
        """The same with the item aggregates of another tick.

        Args:
            statistics: of the tick.
            ticked: gives the index whose items have these last coordinates, one a row of the catalogue; None: this one
                with them.
        """
        values = statistics.of(np.array(-1), np.arange(len(self.catalogue)))
        ticked = ticked or self.snapshot.with_last
        snapshot = ticked(self.new_items.biased(self.blend.item_bias(values)))
        other = replace(self, statistics=statistics, snapshot=snapshot)
        _ = other.popular  # now, rather than within the first request
        return other

    @property
    def index(self) -> ItemIndex:
        """What answers."""
        return self.snapshot.index

    @cached_property
    def popular(self) -> Popular:
        """What is popular as of the newest tick."""
        return Popular.as_of(self.statistics.values[-1])

    @property
    def retrievers(self) -> tuple[str, ...]:
        """Names of what candidates are asked of, in the order of their columns."""
        return retriever_names(query_text=self.spec.text.query_tokens > 0)

    @property
    def special_tokens(self) -> tuple[int, int]:
        """Ids of [CLS] and [SEP]."""
        return self.tokenizer.cls, self.tokenizer.sep

    def query_inputs(self, queries: QueryFeatures) -> QueryInputs:
        """Raw features as arrays."""
        return query_inputs(
            queries,
            spec=self.spec,
            vocabularies=self.vocabularies,
            catalogue=self.catalogue,
            tokenizer=self.tokenizer,
        )

    def embed_alone(self, queries: QueryInputs, *, models: Models) -> FloatArray:
        """What the query tower's file makes of them [N, D + E]: learned, then of their texts.

        History items enter as embeddings, so a new one counts at once.
        """
        return models.query_tower(
            QueryTowerInputs(
                history_embeddings=self.item_embeddings[queries.history_rows],
                **read_as_encoded(queries),
                query_text=queries.text_tokens,
            )
        )

    def embed(self, queries: QueryInputs, *, models: Models) -> FloatArray:
        """Query embeddings for the index [N, W]."""
        return self.blended(queries, self.embed_alone(queries, models=models))

    def blended(self, queries: QueryInputs, embedded: FloatArray) -> FloatArray:
        """Query embeddings for the index [N, W] from those of `embed_alone` [N, D + E]."""
        learned, text = np.split(embedded, [self.item_embeddings.shape[1]], axis=1)
        bags = history_bags(self.linear_embeddings, seen_rows=queries.seen_rows, seen_age_days=queries.seen_age_days)
        return self.blend.query_embeddings(learned, bags, text)

    def indexed(self, rows: IntArray) -> FloatArray:
        """Embeddings of items [P] as the index has them at the newest tick, [P, W]."""
        blended = self.blend.item_embeddings(
            self.item_embeddings[rows],
            self.linear_embeddings[rows],
            self.text_embeddings[rows],
            self.statistics.of(np.array(-1), rows),
        )
        return self.new_items.placed(blended, rows)

    def retrieve(
        self,
        queries: QueryInputs,
        query_embeddings: FloatArray,
        *,
        num_candidates: int,
        excluded: IntArray | None = None,
        only: tuple[NDArray[np.bool_], ItemIndex] | None = None,
    ) -> Candidates:
        """The best of what all retrievers bring, with the score of each.

        Args:
            queries: of N rows.
            query_embeddings: [N, W].
            num_candidates: C.
            excluded: [N, X] ItemRow of what may be no candidate; None: the query's history, unless the spec says that
                it may be recommended again.
            only: [V] rows that alone may be candidates, and the index with these alone; None: all.
        """
        if excluded is None:
            excluded = queries.seen_rows[:, : 0 if self.spec.repeats else None]
        recommendable, index = (self.recommendable, self.index) if only is None else only
        found_rows = self._search(index, query_embeddings, excluded=excluded)
        weights = {name: weigh(queries.history_rows) for name, weigh in NEIGHBOUR_WEIGHTS.items()}
        num_scores = 1 + len(self.retrievers)
        candidates = Candidates.none(len(excluded), num_candidates=num_candidates, num_scores=num_scores)
        for n in range(len(excluded)):
            allowed = recommendable.copy()
            allowed[excluded[n]] = False
            own_weights = {name: own[n] for name, own in weights.items()}
            hits = IndexHits(found_rows[n], self.indexed, query_embeddings[n])
            answers = self._answers(queries, n, hits=hits, weights=own_weights)
            rows, scores, ranks = self.fusion.candidates(
                answers, allowed=allowed, num_candidates=num_candidates, seen_rows=queries.seen_rows[n]
            )
            candidates.rows[n, : len(rows)] = rows
            candidates.scores[n, : len(rows)] = scores
            candidates.ranks[n, : len(rows)] = ranks
        return candidates

    def fused_scores(self, queries: QueryInputs, query_embeddings: FloatArray, rows: IntArray) -> NDArray[np.float64]:
        """What orders candidates, of items [P] that are ones or not: [N, P]."""
        weights = {name: weigh(queries.history_rows) for name, weigh in NEIGHBOUR_WEIGHTS.items()}
        scores = np.zeros((len(query_embeddings), len(rows)))
        for n, embedding in enumerate(query_embeddings):
            own_weights = {name: own[n] for name, own in weights.items()}
            answers = self._answers(queries, n, hits=IndexHits(rows[:0], self.indexed, embedding), weights=own_weights)
            own = np.stack([answer.of(rows) for answer in answers.values()], axis=1)
            scores[n] = self.fusion.fused(own, had=np.isin(rows, queries.seen_rows[n]))
        return scores

    def _answers(
        self, queries: QueryInputs, n: int, *, hits: IndexHits, weights: Mapping[str, FloatArray]
    ) -> dict[str, Answer]:
        """What each retriever says to query `n`; `weights` are of its history, by neighbour table."""
        answers: dict[str, Answer] = {
            "towers": hits,
            **{
                name: self.neighbours[name].score_history(queries.history_rows[n], own) for name, own in weights.items()
            },
            "popularity": self.popular,
            **{
                name: repeats(queries.seen_rows[n], queries.seen_age_days[n], half_life_days=half_life_days)
                for name, half_life_days in HALF_LIVES_DAYS.items()
            },
        }
        if BM25 in self.neighbours:
            words = word_rows(queries.text_tokens[n : n + 1], pad=self.tokenizer.pad)[0]
            answers[BM25] = self.neighbours[BM25].score_history(words, np.ones(len(words), np.float32))
        return answers

    def _search(self, index: ItemIndex, query_embeddings: FloatArray, *, excluded: IntArray) -> IntArray:
        """Rows [N, k] by the index, best first: as many as the towers may bring besides all that is excluded."""
        quota = self.fusion.quotas["towers"]
        if not quota or not len(index):
            return np.zeros((len(excluded), 0), dtype=np.int64)
        num_excluded = int((excluded >= FIRST).sum(axis=1).max(initial=0))
        return index.search(query_embeddings, k=min(quota + num_excluded, len(index))).rows


def write_tables(
    directory: Path,
    *,
    spec: FeatureSpec,
    vocabularies: Vocabularies,
    catalogue: Catalogue,
    items: ItemInputs,
    item_embeddings: FloatArray,
    recommendable: NDArray[np.bool_],
    statistics: ItemStatistics,
    neighbours: Mapping[str, NeighbourTable],
    tokenizer_json: Path,
    text_embeddings: FloatArray | None = None,
) -> None:
    """Write all that `Stage1.read` needs but the index and what lies beside it.

    Where queries have a text, that is BM25's table and text embeddings too.
    """
    arrays = directory / ARRAYS_DIR
    arrays.mkdir(parents=True, exist_ok=True)
    contents = {name: getattr(items, name) for name in ITEM_ARRAYS}
    contents |= {
        "item_embeddings": item_embeddings,
        "statistics": statistics.values,
        "statistics_at_ms": statistics.ticks_at_ms,
    }
    if text_embeddings is not None:
        contents[TEXT_ARRAY] = text_embeddings
    for name, content in contents.items():
        np.save(arrays / f"{name}.npy", content, allow_pickle=False)
    np.save(directory / RECOMMENDABLE_FILE, recommendable, allow_pickle=False)
    for file, document in (
        (SPEC_FILE, spec.to_json()),
        (VOCABULARIES_FILE, vocabularies.to_json()),
        (ITEM_IDS_FILE, list(catalogue.item_ids)),
    ):
        (directory / file).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    for name, table in neighbours.items():
        table.save(directory / RETRIEVERS_DIR / name)
    (directory / TOKENIZER_FILE).write_bytes(tokenizer_json.read_bytes())


def write_index(
    index_path: Path,
    *,
    index: ItemIndex,
    linear_embeddings: FloatArray,
    blend: Blend,
    new_items: NewItems,
    fusion: Fusion,
) -> None:
    """Write an index and what `Stage1.read` looks for beside it."""
    index.write(index_path)
    np.save(index_path.with_suffix(LINEAR_SUFFIX), linear_embeddings, allow_pickle=False)
    blend.write(index_path.with_name(BLEND_FILE))
    new_items.write(index_path.with_suffix(NEW_ITEMS_SUFFIX))
    fusion.write(index_path.with_name(FUSION_FILE))
