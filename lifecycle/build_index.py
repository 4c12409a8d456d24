"""Step build_index: what the towers' embeddings are blended with, and an index over the blend for each cut.

Owns the order of these and which items enter: those that can be recommended by what the cut knows. The blend is fitted
on the fold and taken over by the refit, for nothing that the refit does not know is left to fit on but the test.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.spec import FeatureSpec
from lifecycle.candidates import StageOne
from lifecycle.cuts import CUTS, FOLD, Cut
from lifecycle.fit_blend import BlendFit
from lifecycle.fit_fusion import FusionFit
from serving.retrieval import (
    ARRAYS_DIR,
    BLEND_FILE,
    FUSION_FILE,
    LINEAR_SUFFIX,
    QUERY_TOWER_FILE,
    RECOMMENDABLE_FILE,
    SPEC_FILE,
    TEXT_ARRAY,
    retriever_names,
    write_index,
)
from towers.index.build import FlatBuilder, IndexBuilder
from towers.retrievers.blend import Blend
from towers.retrievers.linear import LinearFit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexStep:
    """Everything that the step needs."""

    dataset: Dataset
    protocol: RequestProtocol
    towers_dir: Path
    builder: IndexBuilder
    blend_fit: BlendFit
    fusion_fit: FusionFit

    def run(self, out_dir: Path) -> None:
        """Write of each cut the linear embeddings and the index, beside them blend and fusion, and index.json."""
        linear = {cut.name: self.blend_fit.linear(self.dataset, self.protocol, cut) for cut in CUTS}
        blend, regularisation = self._fit_blend(linear[FOLD.name], out_dir)
        facts = {}
        for cut in CUTS:
            embeddings = linear[cut.name].embeddings(regularisation)
            facts[cut.name] = self._build(cut, embeddings, blend, builder=self.builder, out_dir=out_dir)
        (out_dir / "index.json").write_text(json.dumps(facts, indent=2))
        fold = StageOne.open(FOLD, towers_dir=self.towers_dir, index_dir=out_dir)
        self.fusion_fit.fit(fold, dataset=self.dataset, protocol=self.protocol).write(out_dir / FUSION_FILE)

    def _fit_blend(self, linear: LinearFit, out_dir: Path) -> tuple[Blend, float]:
        # Stage 1 opens with any weights; the learned embeddings are the same with all.
        embeddings = np.zeros((len(linear.vectors), 0), dtype=np.float32)
        self._build(FOLD, embeddings, Blend(), builder=FlatBuilder(), out_dir=out_dir)
        fold = StageOne.open(FOLD, towers_dir=self.towers_dir, index_dir=out_dir)
        return self.blend_fit.fit(fold, linear, dataset=self.dataset, protocol=self.protocol)

    def _build(
        self, cut: Cut, embeddings: NDArray[np.float32], blend: Blend, *, builder: IndexBuilder, out_dir: Path
    ) -> dict[str, object]:
        directory = self.towers_dir / cut.name
        spec = FeatureSpec.from_json(json.loads((directory / SPEC_FILE).read_text(encoding="utf-8")))
        learned, statistics = (
            np.load(directory / ARRAYS_DIR / f"{name}.npy", allow_pickle=False)
            for name in ("item_embeddings", "statistics")
        )
        text = learned[:, :0]
        if spec.text.query_tokens:
            text = np.load(directory / ARRAYS_DIR / f"{TEXT_ARRAY}.npy", allow_pickle=False)
        rows = np.flatnonzero(np.load(directory / RECOMMENDABLE_FILE, allow_pickle=False))
        blended = blend.item_embeddings(learned[rows], embeddings[rows], text[rows], statistics[-1, rows])
        index = builder.build(blended, rows)
        write_index(
            out_dir / f"{cut.name}.faiss",
            index=index,
            linear_embeddings=embeddings,
            blend=blend,
            fusion=self.fusion_fit.unweighted(retriever_names(query_text=spec.text.query_tokens > 0)),
        )
        logger.info("index of %s: %d items of width %d", cut.name, len(index), index.width)
        return {
            "items": len(index),
            "width": index.width,
            "embedding_space_hash": embedding_space_hash(directory, out_dir, cut),
        }


def embedding_space_hash(towers_dir: Path, index_dir: Path, cut: Cut) -> str:
    """Hash of all that queries and items are embedded by: an index answers only queries embedded by the same."""
    digest = hashlib.sha256()
    learned = (towers_dir / QUERY_TOWER_FILE, towers_dir / ARRAYS_DIR / "item_embeddings.npy")
    for file in (*learned, (index_dir / cut.name).with_suffix(LINEAR_SUFFIX), index_dir / BLEND_FILE):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
