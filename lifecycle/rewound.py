"""Releases for a replay: a release as it would have been before the log began, and one that nobody trained.

Owns how they are made. Both are written and sealed as real ones are, so that what a replay reads was read from disk as
a server reads it.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from features.columns import FeatureColumns
from features.dataset import Dataset
from features.spec import FeatureSpec
from features.statistics import STATISTICS, ItemStatistics
from features.text import TextTokenizer
from features.transforms import item_inputs
from features.vocab import FIRST
from serving.release import MANIFEST_FILE, POPULAR_FILE, TITLES_FILE, Release, seal
from serving.retrieval import (
    ARRAYS_DIR,
    BM25,
    INDEX_FILE,
    NEIGHBOUR_WEIGHTS,
    Stage1,
    retriever_names,
    write_index,
    write_tables,
)
from towers.index.build import FlatBuilder
from towers.retrievers.blend import Blend
from towers.retrievers.fusion import Fusion
from towers.retrievers.neighbours import NeighbourTable
from towers.retrievers.new_items import NewItems

STATISTICS_FILES = (f"{ARRAYS_DIR}/statistics.npy", f"{ARRAYS_DIR}/statistics_at_ms.npy")
WIDTH, QUOTA = 4, 100  # of embeddings and of retrievers that nobody asks


def rewind(release_dir: Path, target: Path, *, statistics: ItemStatistics) -> Release:
    """Write a release that differs in its item aggregates alone, so that deltas of earlier ticks can follow it.

    Args:
        release_dir: stays as it is; its files are linked where that can be done.
        target: does not exist yet.
        statistics: of one tick, rows as in the release.
    """
    manifest = json.loads((release_dir / MANIFEST_FILE).read_text(encoding="utf-8"))
    files = manifest.pop("files")
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name not in (*STATISTICS_FILES, INDEX_FILE):
            _link_or_copy(release_dir / name, target / name)
    np.save(target / STATISTICS_FILES[0], statistics.values, allow_pickle=False)
    np.save(target / STATISTICS_FILES[1], statistics.ticks_at_ms, allow_pickle=False)
    Stage1.read(release_dir).as_of(statistics).index.write(target / INDEX_FILE)
    seal(target, facts={name: fact for name, fact in manifest.items() if name != "release_id"})
    return Release.open(target, delta=0)


def untrained(
    target: Path,
    *,
    dataset: Dataset,
    columns: FeatureColumns,
    spec: FeatureSpec,
    tokenizer_json: Path,
    splits: tuple[str, ...],
    generator: np.random.Generator,
) -> None:
    """Write a release of a prepared dataset without models: all that its features need, before anything is trained.

    Args:
        target: does not exist yet.
        dataset: the log and the catalogue.
        columns: which columns are features.
        spec: made of them.
        tokenizer_json: of the texts.
        splits: whose events vocabularies are fitted on.
        generator: of embeddings that stand for the towers'.
    """
    target.mkdir(parents=True)
    vocabularies = dataset.fit_vocabularies(splits, columns=columns)
    num_rows = len(dataset.items.catalogue)
    embeddings = generator.normal(size=(num_rows, WIDTH)).astype(np.float32)
    nobody = np.zeros(0, dtype=np.int64)
    no_neighbours = NeighbourTable.from_pairs(
        source_rows=nobody, target_rows=nobody, values=np.zeros(0), num_rows=num_rows, num_neighbours=1
    )
    no_statistics = ItemStatistics(
        ticks_at_ms=np.zeros(1, dtype=np.int64), values=np.zeros((1, num_rows, len(STATISTICS)), dtype=np.float32)
    )
    write_tables(
        target,
        spec=spec,
        vocabularies=vocabularies,
        catalogue=dataset.items.catalogue,
        items=item_inputs(dataset.items, spec=spec, vocabularies=vocabularies, tokenizer=TextTokenizer(tokenizer_json)),
        item_embeddings=embeddings,
        recommendable=np.arange(num_rows) >= FIRST,
        statistics=no_statistics,
        neighbours={name: no_neighbours for name in (*NEIGHBOUR_WEIGHTS, BM25)},
        tokenizer_json=tokenizer_json,
        text_embeddings=np.zeros((num_rows, 0), dtype=np.float32),
    )
    no_width, statistics = np.zeros((num_rows, 0), dtype=np.float32), no_statistics.values[-1]
    blended = Blend().item_embeddings(embeddings, no_width, no_width, statistics)
    write_index(
        target / INDEX_FILE,
        index=FlatBuilder().build(blended[FIRST:], np.arange(FIRST, num_rows)),
        linear_embeddings=no_width,
        blend=Blend(),
        new_items=NewItems.none(),
        fusion=Fusion.unweighted(dict.fromkeys(retriever_names(query_text=spec.text.query_tokens > 0), QUOTA)),
    )
    for name, content in ((POPULAR_FILE, []), (TITLES_FILE, {})):
        (target / name).write_text(json.dumps(content), encoding="utf-8")
    seal(target, facts={"spec_hash": spec.hash})


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
