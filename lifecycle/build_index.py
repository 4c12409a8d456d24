"""Step build_index: an index over the item embeddings of each cut.

Owns which items enter: those that can be recommended by what the cut knows.
"""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np

from lifecycle.cuts import CUTS
from serving.retrieval import ARRAYS_DIR, QUERY_TOWER_FILE, RECOMMENDABLE_FILE
from towers.index.build import IndexBuilder

logger = logging.getLogger(__name__)


def build_indexes(*, towers_dir: Path, builder: IndexBuilder, out_dir: Path) -> None:
    """Write <cut>.faiss and index.json with the hash of the embedding space that each index belongs to."""
    facts = {}
    for cut in CUTS:
        arrays = towers_dir / cut.name / ARRAYS_DIR
        embeddings = np.load(arrays / "item_embeddings.npy", allow_pickle=False)
        rows = np.flatnonzero(np.load(towers_dir / cut.name / RECOMMENDABLE_FILE, allow_pickle=False))
        index = builder.build(embeddings[rows], rows)
        index.write(out_dir / f"{cut.name}.faiss")
        facts[cut.name] = {
            "items": len(index),
            "width": index.width,
            "embedding_space_hash": embedding_space_hash(towers_dir / cut.name),
        }
        logger.info("index of %s: %d items of width %d", cut.name, len(index), index.width)
    (out_dir / "index.json").write_text(json.dumps(facts, indent=2))


def embedding_space_hash(directory: Path) -> str:
    """Hash of the query tower and the item embeddings: an index answers only queries embedded by the same tower."""
    digest = hashlib.sha256()
    for file in (directory / QUERY_TOWER_FILE, directory / ARRAYS_DIR / "item_embeddings.npy"):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
