"""Parquet files of features: each appears whole or not at all, and says for which FeatureSpec its rows are.

Owns writing one and reading that spec back. Knows nothing of what the rows are.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import FeaturesError, SchemaMismatch
from features.spec import FeatureSpec

SPEC_KEY = b"feature_spec"


def write_rows(path: Path, *, schema: pa.Schema, spec: FeatureSpec, batches: Iterable[pa.RecordBatch]) -> None:
    """Write rows with this schema; parent directories are made, and a failure leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    metadata = {SPEC_KEY: json.dumps(spec.to_json())}
    try:
        # Successive histories overlap, and zstd looks back far enough to see it: 100,000 states of 50 take 5 MB.
        with pq.ParquetWriter(partial, schema.with_metadata(metadata), compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch.replace_schema_metadata(metadata))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_spec(path: Path) -> FeatureSpec:
    """The FeatureSpec that a file's rows are for.

    Raises:
        SchemaMismatch: the file names none, or one of other code.
    """
    schema = pq.read_schema(path)
    try:
        return FeatureSpec.from_json(json.loads((schema.metadata or {})[SPEC_KEY]))
    except (KeyError, TypeError, ValueError, FeaturesError) as error:
        raise SchemaMismatch(
            f"expected {path} to say for which feature spec its rows are; it has the columns {', '.join(schema.names)} "
            f"and no spec that this code reads ({error}); write it again with features.stores.offline_store or "
            "features.stores.item_tables"
        ) from error
