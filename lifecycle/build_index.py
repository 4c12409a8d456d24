"""Step build_index: what the towers' embeddings are blended with, and an index over the blend for each cut.

Owns the order of these and which items enter: those that can be recommended by what the cut knows; and the gate, for an
index that finds too little of exact search is no result. The blend, and what
new items get beside it, are fitted on the fold and taken over by the refit, for nothing that the refit does not know is
left to fit on but the test.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset
from features.protocol import RequestProtocol
from features.spec import FeatureSpec
from lifecycle.candidates import StageOne
from lifecycle.cuts import CUTS, FOLD, Cut
from lifecycle.fit_blend import BlendFit
from lifecycle.fit_fusion import FusionFit
from lifecycle.fit_new_items import Content, fit_bias
from lifecycle.index_queries import held_out
from lifecycle.train_towers import TEXT_EMBEDDINGS_FILE
from serving.retrieval import (
    ARRAYS_DIR,
    BLEND_FILE,
    BUILDER_FILE,
    CONTENT_SUFFIX,
    FUSION_FILE,
    LINEAR_SUFFIX,
    NEW_ITEMS_SUFFIX,
    QUERY_TOWER_FILE,
    RECOMMENDABLE_FILE,
    SPEC_FILE,
    TEXT_ARRAY,
    retriever_names,
    write_index,
)
from towers.index.build import FlatBuilder, IndexBuilder
from towers.index.builder_file import write_settings
from towers.index.recall import RecallGate
from towers.index.search import ItemIndex
from towers.retrievers.blend import Blend
from towers.retrievers.linear import LinearFit
from towers.retrievers.new_items import NewItems

logger = logging.getLogger(__name__)

TUNING_DIR = "tuning"  # of an index that was chosen by scripts/tune_index.py: its files


@dataclass(frozen=True)
class IndexStep:
    """Everything that the step needs.

    Attributes:
        builder_settings: that made the builder, for whoever merges changes into the index; None: nobody will.
        recall_gate: that each index has to pass.
        tuning_dir: what chose the builder, copied beside the indexes; None: it was chosen by hand.
        cuts: that are indexed, the fold first.
    """

    dataset: Dataset
    protocol: RequestProtocol
    towers_dir: Path
    builder: IndexBuilder
    blend_fit: BlendFit
    fusion_fit: FusionFit
    builder_settings: Mapping[str, Any] | None = None
    recall_gate: RecallGate = field(default_factory=RecallGate)
    tuning_dir: Path | None = None
    cuts: Sequence[Cut] = CUTS

    def run(self, out_dir: Path) -> None:
        """Write of each cut linear embeddings, new items, content map and index; beside them blend, fusion, index.json.

        Raises:
            RecallTooLow: an index finds too little of exact search.
        """
        linear = {cut.name: self.blend_fit.linear(self.dataset, self.protocol, cut) for cut in self.cuts}
        blend, regularisation = self._fit_blend(linear[FOLD.name], out_dir)
        embeddings = {name: own.embeddings(regularisation) for name, own in linear.items()}
        facts = {
            cut.name: self._build(cut, embeddings[cut.name], blend, builder=self.builder, out_dir=out_dir)
            for cut in self.cuts
        }
        opened = [StageOne.open(cut, towers_dir=self.towers_dir, index_dir=out_dir) for cut in self.cuts]
        contents = [self._content(stage_one) if self.blend_fit.new_items else None for stage_one in opened]
        fold, content = opened[0], contents[0]
        # Without new items, which validation never chooses: against them the fusion would weigh what they lack.
        known = fold if content is None else fold.without(content.new)
        fusion = self.fusion_fit.fit(known, dataset=self.dataset, protocol=self.protocol)
        bias = 0.0 if content is None else self._new_item_bias(content, fold.fused_by(fusion))
        for cut, own in zip(self.cuts, contents, strict=True):
            if own is not None:
                facts[cut.name] |= self._with_content(cut, own, embeddings[cut.name], blend, bias=bias, out_dir=out_dir)
        for cut in self.cuts:
            facts[cut.name]["recall"] = self._recall(cut, out_dir)
        if self.builder_settings is not None:
            write_settings(out_dir / BUILDER_FILE, self.builder_settings)
        if self.tuning_dir is not None:
            shutil.copytree(self.tuning_dir, out_dir / TUNING_DIR, dirs_exist_ok=True)
        (out_dir / "index.json").write_text(json.dumps(facts, indent=2))
        fusion.write(out_dir / FUSION_FILE)

    def _fit_blend(self, linear: LinearFit, out_dir: Path) -> tuple[Blend, float]:
        # Stage 1 opens with any weights; the learned embeddings are the same with all.
        embeddings = np.zeros((len(linear.vectors), 0), dtype=np.float32)
        self._build(FOLD, embeddings, Blend(), builder=FlatBuilder(), out_dir=out_dir)
        fold = StageOne.open(FOLD, towers_dir=self.towers_dir, index_dir=out_dir)
        return self.blend_fit.fit(fold, linear, dataset=self.dataset, protocol=self.protocol)

    def _content(self, stage_one: StageOne) -> Content | None:
        if stage_one.stage1.spec.text.query_tokens:
            return None  # what queries say tells new items apart better than what known ones are like
        texts = np.load(self.towers_dir / stage_one.cut.name / TEXT_EMBEDDINGS_FILE, allow_pickle=False)
        return Content.of(stage_one, texts=texts, dataset=self.dataset)

    def _with_content(
        self,
        cut: Cut,
        content: Content,
        linear: NDArray[np.float32],
        blend: Blend,
        *,
        bias: float,
        out_dir: Path,
    ) -> dict[str, object]:
        """Write the map, and an index with what is new by it; which facts change."""
        by, path = content.map(), out_dir / f"{cut.name}.faiss"
        by.write(path.with_suffix(CONTENT_SUFFIX))
        new_items, filled = content.in_index(linear, by=by, bias=bias)
        if len(content.new):
            return self._build(cut, filled, blend, new_items, builder=self.builder, out_dir=out_dir)
        # The index stays; the bias is of items that come while it is served.
        new_items.write(path.with_suffix(NEW_ITEMS_SUFFIX))
        return {"embedding_space_hash": embedding_space_hash(self.towers_dir / cut.name, out_dir, cut)}

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

    def _recall(self, cut: Cut, out_dir: Path) -> float:
        if ItemIndex.read(out_dir / f"{cut.name}.faiss").is_exact:
            return 1.0
        stage_one, gate = StageOne.open(cut, towers_dir=self.towers_dir, index_dir=out_dir), self.recall_gate
        known = held_out(
            stage_one, dataset=self.dataset, protocol=self.protocol, k=gate.k, max_queries=gate.max_queries
        )
        recall = gate.passed(stage_one.stage1.index, known)
        logger.info("index of %s: recall@%d %.4f of %d queries", cut.name, known.k, recall, len(known.queries))
        return recall

    def _build(
        self,
        cut: Cut,
        linear: NDArray[np.float32],
        blend: Blend,
        new_items: NewItems | None = None,
        *,
        builder: IndexBuilder,
        out_dir: Path,
    ) -> dict[str, object]:
        directory, new_items = self.towers_dir / cut.name, new_items or NewItems.none()
        spec = FeatureSpec.from_json(json.loads((directory / SPEC_FILE).read_text(encoding="utf-8")))
        learned, statistics = (
            np.load(directory / ARRAYS_DIR / f"{name}.npy", allow_pickle=False)
            for name in ("item_embeddings", "statistics")
        )
        text = learned[:, :0]
        if spec.text.query_tokens:
            text = np.load(directory / ARRAYS_DIR / f"{TEXT_ARRAY}.npy", allow_pickle=False)
        rows = np.flatnonzero(np.load(directory / RECOMMENDABLE_FILE, allow_pickle=False))
        blended = blend.item_embeddings(learned[rows], linear[rows], text[rows], statistics[-1, rows])
        index = builder.build(new_items.placed(blended, rows), rows)
        write_index(
            out_dir / f"{cut.name}.faiss",
            index=index,
            linear_embeddings=linear,
            blend=blend,
            new_items=new_items,
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
    own = ((index_dir / cut.name).with_suffix(suffix) for suffix in (LINEAR_SUFFIX, NEW_ITEMS_SUFFIX))
    for file in (*learned, *own, index_dir / BLEND_FILE):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
