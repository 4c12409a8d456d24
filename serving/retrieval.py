"""Stage 1 as it is served: from raw query features to candidates with every retriever's score.

Owns the artefacts of stage 1 in memory and the way through them. Training lists, evaluation and the server all get
their candidates from here, so what the ranker learns on is what it is served.

Shapes: N queries, R rows of the item table, D embedding width, C candidates, K retrievers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
from features.vocab import FIRST, PADDING, Vocabularies
from serving.models import Models
from towers.index.search import ItemIndex
from towers.retrievers.neighbours import NeighbourTable
from towers.retrievers.weights import ease_weights, transition_weights

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

SPEC_FILE, VOCABULARIES_FILE, ITEM_IDS_FILE = "feature_spec.json", "vocabularies.json", "item_ids.json"
TOKENIZER_FILE, INDEX_FILE = "tokenizer.json", "index.faiss"
QUERY_TOWER_FILE, ITEM_TOWER_FILE = "query_tower.onnx", "item_tower.onnx"
ARRAYS_DIR, RETRIEVERS_DIR = "arrays", "retrievers"
ITEM_ARRAYS = ("item_id", "categories", "numbers", "title_tokens", "text_tokens")
# The first is the one whose score orders the candidates.
RETRIEVERS = ("towers", "transitions", "ease")
NEIGHBOUR_WEIGHTS = {"transitions": transition_weights, "ease": ease_weights}


@dataclass(frozen=True)
class Candidates:
    """C candidates for each of N queries, in the order of retrieval.

    Attributes:
        rows: [N, C] ItemRow; PADDING where there are fewer.
        scores: [N, C, K] of each retriever, in the order of RETRIEVERS; 0 at padding.
    """

    rows: IntArray
    scores: FloatArray


@dataclass(frozen=True)
class Stage1:
    """What stage 1 reads of a release, or of a towers step that has not become one yet."""

    spec: FeatureSpec
    vocabularies: Vocabularies
    catalogue: Catalogue
    items: ItemInputs
    item_embeddings: FloatArray  # [R, D]
    statistics: ItemStatistics
    index: ItemIndex
    neighbours: Mapping[str, NeighbourTable]
    tokenizer: TextTokenizer

    @classmethod
    def read(cls, directory: Path, *, index_path: Path | None = None) -> "Stage1":
        """Read a directory that `write_tables` filled; large arrays are mapped, not copied."""
        arrays = directory / ARRAYS_DIR

        def array(name: str) -> NDArray[np.generic]:
            # asarray drops the memmap subclass, whose every slice is slow, and keeps the mapping.
            return np.asarray(np.load(arrays / f"{name}.npy", mmap_mode="r", allow_pickle=False))

        def document(name: str) -> Any:
            # Triton's stub reads files as ASCII unless told otherwise, whatever its locale says.
            return json.loads((directory / name).read_text(encoding="utf-8"))

        return cls(
            spec=FeatureSpec.from_json(document(SPEC_FILE)),
            vocabularies=Vocabularies.from_json(document(VOCABULARIES_FILE)),
            catalogue=Catalogue(item_ids=tuple(document(ITEM_IDS_FILE))),
            items=ItemInputs(**{name: array(name) for name in ITEM_ARRAYS}),  # type: ignore[arg-type]
            item_embeddings=array("item_embeddings").astype(np.float32, copy=False),
            statistics=ItemStatistics(
                ticks_at_ms=array("statistics_at_ms").astype(np.int64, copy=False),
                values=array("statistics").astype(np.float32, copy=False),
            ),
            index=ItemIndex.read(index_path or directory / INDEX_FILE),
            neighbours={name: NeighbourTable.load(directory / RETRIEVERS_DIR / name) for name in RETRIEVERS[1:]},
            tokenizer=TextTokenizer(directory / TOKENIZER_FILE),
        )

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

    def embed(self, queries: QueryInputs, *, models: Models) -> FloatArray:
        """Query embeddings [N, D]: history items enter by their embeddings, so a new item counts at once."""
        return models.query_tower(
            QueryTowerInputs(
                history_embeddings=self.item_embeddings[queries.history_rows],
                **read_as_encoded(queries),
                query_text=queries.text_tokens,
            )
        )

    def retrieve(
        self,
        queries: QueryInputs,
        query_embeddings: FloatArray,
        *,
        num_candidates: int,
        exclude_seen: bool | None = None,
    ) -> Candidates:
        """The best items, scored by every retriever.

        Args:
            queries: of N rows.
            query_embeddings: [N, D].
            num_candidates: C.
            exclude_seen: leave out what stands in the query's history; None goes by the spec's `repeats`.
        """
        if exclude_seen is None:
            exclude_seen = not self.spec.repeats
        seen_rows = queries.seen_rows[:, : None if exclude_seen else 0]
        # A history may hold the very best items: ask for so many more, then drop them.
        num_seen = int((seen_rows >= FIRST).sum(axis=1).max(initial=0))
        wanted = min(num_candidates + num_seen, len(self.index))
        found = self.index.search(query_embeddings, k=wanted)
        rows = np.full((len(found.rows), num_candidates), PADDING, dtype=np.int64)
        scores = np.zeros((*rows.shape, len(RETRIEVERS)), dtype=np.float32)
        for n, seen in enumerate(seen_rows):
            kept = np.flatnonzero((found.rows[n] >= FIRST) & ~np.isin(found.rows[n], seen))[:num_candidates]
            rows[n, : len(kept)] = found.rows[n, kept]
            scores[n, : len(kept), 0] = found.scores[n, kept]
        for place, name in enumerate(RETRIEVERS[1:], start=1):
            scores[:, :, place] = self.neighbours[name].score_candidates(
                history_rows=queries.history_rows,
                candidate_rows=rows,
                weights=NEIGHBOUR_WEIGHTS[name](queries.history_rows),
            )
        return Candidates(rows=rows, scores=scores)


def write_tables(
    directory: Path,
    *,
    spec: FeatureSpec,
    vocabularies: Vocabularies,
    catalogue: Catalogue,
    items: ItemInputs,
    item_embeddings: FloatArray,
    statistics: ItemStatistics,
    neighbours: Mapping[str, NeighbourTable],
    tokenizer_json: Path,
) -> None:
    """Write all that `Stage1.read` needs but the index."""
    arrays = directory / ARRAYS_DIR
    arrays.mkdir(parents=True, exist_ok=True)
    contents = {name: getattr(items, name) for name in ITEM_ARRAYS}
    contents |= {
        "item_embeddings": item_embeddings,
        "statistics": statistics.values,
        "statistics_at_ms": statistics.ticks_at_ms,
    }
    for name, content in contents.items():
        np.save(arrays / f"{name}.npy", content, allow_pickle=False)
    for file, document in (
        (SPEC_FILE, spec.to_json()),
        (VOCABULARIES_FILE, vocabularies.to_json()),
        (ITEM_IDS_FILE, list(catalogue.item_ids)),
    ):
        (directory / file).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    for name, table in neighbours.items():
        table.save(directory / RETRIEVERS_DIR / name)
    (directory / TOKENIZER_FILE).write_bytes(tokenizer_json.read_bytes())
