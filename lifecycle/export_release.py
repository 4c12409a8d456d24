"""Step export_release: bundle the refitted stage 1 and a ranker, and let the bundle through only past its gates.

Owns what a release is made of and the parity gates. Publishing it (registry, stores) is lifecycle/publish.py's.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.torch import load_file

from features.dataset import Dataset
from features.spec import FeatureSpec
from features.statistics import STATISTICS
from features.stores.materialize import materialize
from features.stores.offline_store import write_query_states
from features.stores.online_settings import OnlineSettings
from features.vocab import FIRST
from lifecycle.build_index import TUNING_DIR, embedding_space_hash
from lifecycle.cuts import REFIT
from lifecycle.export_parity import Scorer, embedder_parity, export_parity, scorer_of
from lifecycle.parity import replay_events
from lifecycle.parity_paths import Lists
from lifecycle.steps import source_commit
from lifecycle.train_ranker import GRADIENT_BOOSTING, STUDENT, check_num_ranked
from lifecycle.train_towers import TEXT_EMBEDDINGS_FILE
from ranking.decomposed import DecomposedRanker
from ranking.export import export_item_reader, load_ranker
from ranking.gradient_boosting import BoostedTrees
from serving.item_embedder import ITEM_READER_FILE, MOST_ITEMS, TEXT_ENCODER_FILE
from serving.pipeline import Pipeline
from serving.release import CALIBRATION_FILE, ITEM_STATES_FILE, POPULAR_FILE, RANKER_FILE, TITLES_FILE, seal
from serving.retrieval import (
    BLEND_FILE,
    BUILDER_FILE,
    CONTENT_SUFFIX,
    FUSION_FILE,
    INDEX_FILE,
    LINEAR_SUFFIX,
    NEW_ITEMS_SUFFIX,
    Stage1,
)
from serving.settings import PipelineSettings
from towers.export import WEIGHTS_FILE, export_text_encoder
from towers.model import ItemTable, TowerSizes, TwoTower
from towers.text_encoder import SentenceEncoder, TextEncoder
from towers.trained_text import TEXT_ENCODER_DIR

logger = logging.getLogger(__name__)

TRAINING_ONLY = (WEIGHTS_FILE, TEXT_EMBEDDINGS_FILE, TEXT_ENCODER_DIR, "training.json", "curves")
FLOAT_TOLERANCE = 1e-4
EXPORT_REQUESTS = 64
RANKERS = (STUDENT, GRADIENT_BOOSTING)


@dataclass(frozen=True)
class Export:
    """Everything that the step needs.

    Attributes:
        ranker: which of RANKERS is released.
        build_towers: makes the towers that the refitted weights are loaded into, for the gate of the export.
        text_encoder: of items' texts; one that was trained with the towers goes first.
        report: metrics of the evaluation by system, for the manifest.
        parity_events: events of the whole log replayed through both paths; all if there are fewer.
    """

    dataset: Dataset
    data_dir: Path
    towers_dir: Path
    index_dir: Path
    ranker_dir: Path
    ranker: str
    build_towers: Callable[..., TwoTower]
    text_encoder: TextEncoder
    report: Mapping[str, Any]
    settings: PipelineSettings
    parity_events: int
    seed: int

    def __post_init__(self) -> None:
        if self.ranker not in RANKERS:
            raise ValueError(f"release_ranker: expected one of {', '.join(RANKERS)}; got {self.ranker!r}")

    def run(self, out_dir: Path) -> None:
        """Fill `out_dir` with the release; raises ParityFailed, and leaves none, if a gate does not hold."""
        check_num_ranked(self.ranker_dir, self.settings.num_ranked)
        self._bundle(out_dir)
        facts = self._facts()
        self._export_readers(out_dir)
        release_id = seal(out_dir, facts=facts)
        pipeline = Pipeline.open(out_dir, settings=self.settings)
        self._gate(pipeline)
        logger.info("release %s passed its parity gates", release_id)

    def _bundle(self, out_dir: Path) -> None:
        stage1_dir = self.towers_dir / REFIT.name
        copy_stage1(stage1_dir, out_dir)
        index, released = self.index_dir / f"{REFIT.name}.faiss", out_dir / INDEX_FILE
        shutil.copyfile(index, released)
        for suffix in (LINEAR_SUFFIX, NEW_ITEMS_SUFFIX):
            shutil.copyfile(index.with_suffix(suffix), released.with_suffix(suffix))
        if index.with_suffix(CONTENT_SUFFIX).is_file():
            shutil.copyfile(index.with_suffix(CONTENT_SUFFIX), released.with_suffix(CONTENT_SUFFIX))
        for name in (BLEND_FILE, FUSION_FILE, BUILDER_FILE):
            shutil.copyfile(self.index_dir / name, out_dir / name)
        shutil.copyfile(self.ranker_dir / self.ranker / RANKER_FILE, out_dir / RANKER_FILE)
        for name in (ITEM_STATES_FILE, CALIBRATION_FILE):
            own = self.ranker_dir / self.ranker / name
            if own.is_file():
                shutil.copyfile(own, out_dir / name)
        tuning = self.index_dir / TUNING_DIR
        if tuning.is_dir():
            shutil.copytree(tuning, out_dir / f"index_{TUNING_DIR}", dirs_exist_ok=True)
        stage1 = Stage1.read(out_dir)
        recent, all_time = (
            stage1.statistics.values[-1, :, STATISTICS.index(name)] for name in ("count_30d", "count_all")
        )
        order = np.lexsort((-all_time, -recent))
        item_ids = [stage1.catalogue.item_id(int(row)) for row in order if row >= FIRST]
        (out_dir / POPULAR_FILE).write_text(json.dumps(item_ids[:1000]))
        titles = dict(zip(self.dataset.items.catalogue.item_ids, self.dataset.titles, strict=True))
        (out_dir / TITLES_FILE).write_text(json.dumps(titles, ensure_ascii=False), encoding="utf-8")

    def _export_readers(self, out_dir: Path) -> None:
        """What reads the texts of items that come while the release is served."""
        if self._spec.names("item", "text"):
            export_text_encoder(
                SentenceEncoder.open(self._encoder),
                out_dir / TEXT_ENCODER_FILE,
                max_tokens=self.text_encoder.max_tokens,
                spec_hash=self._spec.hash,
            )
        if (out_dir / ITEM_STATES_FILE).is_file():
            student = load_ranker(self.ranker_dir / self.ranker)
            if not isinstance(student, DecomposedRanker):
                raise ValueError(
                    f"{self.ranker_dir / self.ranker} has {ITEM_STATES_FILE}, and a ranker that reads no items; "
                    "train it again: scripts/train_ranker.py"
                )
            export_item_reader(
                student.encoder,
                out_dir / ITEM_READER_FILE,
                num_tokens=self._spec.text.candidate_tokens + 1,
                spec_hash=self._spec.hash,
            )

    @property
    def _spec(self) -> FeatureSpec:
        return FeatureSpec.from_json(json.loads((self.towers_dir / REFIT.name / "feature_spec.json").read_text()))

    @property
    def _encoder(self) -> str:
        """Checkpoint of the encoder that the towers were trained with."""
        trained = self.towers_dir / REFIT.name / TEXT_ENCODER_DIR
        return str(trained) if trained.is_dir() else self.text_encoder.checkpoint

    def _facts(self) -> dict[str, Any]:
        events = self.dataset.events
        known = events.at_ms[events.places(REFIT.splits)]
        index = json.loads((self.index_dir / "index.json").read_text())[REFIT.name]
        space = embedding_space_hash(self.towers_dir / REFIT.name, self.index_dir, REFIT)
        if index["embedding_space_hash"] != space:
            raise ValueError(
                f"the index was built for embedding space {index['embedding_space_hash']} but the query tower "
                f"belongs to {space}; build the index again: scripts/build_index.py"
            )
        return {
            "spec_hash": self._spec.hash,
            "embedding_space_hash": space,
            "dataset": self.dataset.name,
            "ranker": self.ranker,
            "data_window_ms": [int(known.min()), int(known.max())],
            "metrics": self.report,
            "commit": source_commit(),
        }

    def _gate(self, pipeline: Pipeline) -> None:
        stage1, directory = pipeline.release.stage1, self.towers_dir / REFIT.name
        text_embeddings = np.load(directory / TEXT_EMBEDDINGS_FILE, allow_pickle=False)
        towers = self.build_towers(
            sizes=TowerSizes.of(stage1.spec, stage1.vocabularies, text_width=text_embeddings.shape[1]),
            item_table=ItemTable(items=stage1.items, text_embeddings=text_embeddings),
        )
        towers.load_state_dict(load_file(directory / WEIGHTS_FILE))
        test = np.random.default_rng(self.seed).permutation(self.dataset.events.places(["test"]))
        sample = self.dataset.before(np.sort(test[:EXPORT_REQUESTS]), length=None)
        exported = export_parity(
            pipeline,
            towers=towers,
            score=self._trained_scorer(),
            queries=sample,
            sentence_encoder=SentenceEncoder.open(self._encoder) if stage1.spec.text.query_tokens else None,
        )
        logger.info("parity of the export, %d requests\n%s", len(sample), exported)
        exported.check(float_tolerance=FLOAT_TOLERANCE)
        embedded = embedder_parity(pipeline.release, items=self.dataset.items, num_items=MOST_ITEMS, seed=self.seed)
        logger.info("parity of items that are embedded while serving\n%s", embedded)
        embedded.check(float_tolerance=FLOAT_TOLERANCE)
        replayed = replay_events(
            self.parity_events,
            dataset=self.dataset,
            data_dir=self.data_dir,
            offline=Stage1.read(directory, index_path=self.index_dir / f"{REFIT.name}.faiss"),
            release_dir=pipeline.release.path,
            seed=self.seed,
            lists=Lists(models=pipeline.models, settings=self.settings),
        )
        logger.info("parity of the replay\n%s", replayed)
        replayed.check(float_tolerance=0.0)

    def _trained_scorer(self) -> Scorer:
        """The released ranker as it was trained, not as it was exported."""
        if self.ranker == GRADIENT_BOOSTING:
            trees = BoostedTrees.load(self.ranker_dir / GRADIENT_BOOSTING)
            return lambda inputs: trees.score(inputs.dense)
        return scorer_of(load_ranker(self.ranker_dir / STUDENT))


def copy_stage1(directory: Path, out_dir: Path) -> None:
    """Copy what serving reads of a towers directory; among its arrays are files named as those of training are."""

    def training_only(folder: str, names: list[str]) -> set[str]:
        return set(TRAINING_ONLY).intersection(names) if Path(folder) == directory else set()

    shutil.copytree(directory, out_dir, dirs_exist_ok=True, ignore=training_only)


def materialize_queries(
    data_dir: Path, store_dir: Path, *, spec: FeatureSpec, online: OnlineSettings | None = None
) -> int:
    """Put each query's state after all that REFIT knows into an online store; returns the number of queries."""
    states = store_dir.with_name(f"{store_dir.name}_states.parquet")
    store_dir.parent.mkdir(parents=True, exist_ok=True)
    write_query_states(
        states,
        events=pq.read_table(data_dir / "tables" / "events.parquet"),
        queries=pq.read_table(data_dir / "tables" / "queries.parquet"),
        spec=spec,
        splits=set(REFIT.splits),
        latest_only=True,
    )
    try:
        return materialize(store_dir, states=states, online=online).num_queries
    finally:
        states.unlink(missing_ok=True)
