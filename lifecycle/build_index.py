"""Step build_index: what the towers' embeddings are blended with, and an index over the blend for each cut.

Owns the order of these and which items enter: those that can be recommended by what the cut knows. The blend, and what
new items get beside it, are fitted on the fold and taken over by the refit, for nothing that the refit does not know is
left to fit on but the test.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.protocol import RequestProtocol
from lifecycle.candidates import StageOne
from lifecycle.cuts import CUTS, FOLD, Cut
from lifecycle.fit_blend import BlendFit
from lifecycle.fit_fusion import FusionFit
from lifecycle.fit_new_items import Content, fit_bias
from lifecycle.train_towers import TEXT_EMBEDDINGS_FILE
from serving.retrieval import (
    ARRAYS_DIR,
    BLEND_FILE,
    FUSION_FILE,
    LINEAR_SUFFIX,
    NEW_ITEMS_SUFFIX,
    QUERY_TOWER_FILE,
    RECOMMENDABLE_FILE,
    write_index,
)
from towers.index.build import FlatBuilder, IndexBuilder
from towers.retrievers.blend import Blend
from towers.retrievers.fusion import Fusion
from towers.retrievers.new_items import NewItems

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexStep:
    """Everything that the step needs.

    Attributes:
        cuts: that are indexed, the fold first.
    """

    dataset: Dataset
    protocol: RequestProtocol
    towers_dir: Path
    builder: IndexBuilder
    blend_fit: BlendFit
    fusion_fit: FusionFit
    cuts: Sequence[Cut] = CUTS

    def run(self, out_dir: Path) -> None:
        """Write of each cut linear embeddings, new items and index, beside them blend and fusion, and index.json."""
        linear = {cut.name: self.blend_fit.linear(self.dataset, self.protocol, cut) for cut in self.cuts}
        blend, regularisation = self.blend_fit.fit(
            self._learned_alone(FOLD, out_dir), linear[FOLD.name], dataset=self.dataset, protocol=self.protocol
        )
        facts, bias = {}, 0.0
        for cut in self.cuts:
            embeddings, new_items = linear[cut.name].embeddings(regularisation), NewItems.none()
            if self.blend_fit.new_items:
                stage_one = self._learned_alone(cut, out_dir).blended_by(blend, linear=embeddings)
                content = self._content(stage_one)
                if content is not None:
                    bias = self._new_item_bias(content, stage_one) if cut == FOLD else bias
                    new_items, embeddings = content.in_index(embeddings, bias=bias)
            facts[cut.name] = self._build(cut, embeddings, blend, new_items, builder=self.builder, out_dir=out_dir)
        (out_dir / "index.json").write_text(json.dumps(facts, indent=2))
        fold = StageOne.open(FOLD, towers_dir=self.towers_dir, index_dir=out_dir)
        self.fusion_fit.fit(fold, dataset=self.dataset, protocol=self.protocol).write(out_dir / FUSION_FILE)

    def _learned_alone(self, cut: Cut, out_dir: Path) -> StageOne:
        """Stage 1 of a cut before anything is fitted: it opens with any weights, and embeds queries alike with all."""
        num_rows = len(np.load(self.towers_dir / cut.name / RECOMMENDABLE_FILE, allow_pickle=False))
        nothing = np.zeros((num_rows, 0), dtype=np.float32)
        self._build(cut, nothing, Blend(), NewItems.none(), builder=FlatBuilder(), out_dir=out_dir)
        return StageOne.open(cut, towers_dir=self.towers_dir, index_dir=out_dir)

    def _content(self, stage_one: StageOne) -> Content | None:
        texts = np.load(self.towers_dir / stage_one.cut.name / TEXT_EMBEDDINGS_FILE, allow_pickle=False)
        return Content.of(stage_one, texts=texts, dataset=self.dataset)

    def _new_item_bias(self, content: Content, stage_one: StageOne) -> float:
        return fit_bias(
            content,
            stage_one,
            self.blend_fit.asked(stage_one.cut, dataset=self.dataset, protocol=self.protocol),
            dataset=self.dataset,
            protocol=self.protocol,
            share=self.blend_fit.new_items,
            generator=np.random.default_rng(self.blend_fit.seed),
        )

    def _build(
        self,
        cut: Cut,
        linear: NDArray[np.float32],
        blend: Blend,
        new_items: NewItems,
        *,
        builder: IndexBuilder,
        out_dir: Path,
    ) -> dict[str, object]:
        directory = self.towers_dir / cut.name
        learned, statistics = (
            np.load(directory / ARRAYS_DIR / f"{name}.npy", allow_pickle=False)
            for name in ("item_embeddings", "statistics")
        )
        rows = np.flatnonzero(np.load(directory / RECOMMENDABLE_FILE, allow_pickle=False))
        blended = blend.item_embeddings(learned[rows], linear[rows], statistics[-1, rows])
        index = builder.build(new_items.placed(blended, rows), rows)
        write_index(
            out_dir / f"{cut.name}.faiss",
            index=index,
            linear_embeddings=linear,
            blend=blend,
            new_items=new_items,
            fusion=Fusion.unweighted(self.fusion_fit.quotas),
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
    own = ((index_dir / cut.name).with_suffix(suffix) for suffix in (LINEAR_SUFFIX, NEW_ITEMS_SUFFIX))
    for file in (*learned, *own, index_dir / BLEND_FILE):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
