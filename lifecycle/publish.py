"""Step publish: make an exported release the one that serves.

Owns the order: the queries' features first, then Triton's model repository, then the changes of items that the former
release had, then the registry's alias, so that whoever follows the alias finds the rest in place.
"""

import json
import logging
from pathlib import Path

from features.spec import FeatureSpec
from features.stores.online_settings import OnlineSettings
from lifecycle.export_release import materialize_queries
from serving.carried_changes import carry_changes
from serving.model_repository import build_model_repository
from serving.registry import register_release
from serving.release import verify
from serving.retrieval import SPEC_FILE
from serving.settings import TritonSettings

logger = logging.getLogger(__name__)


def publish(
    *,
    release_dir: Path,
    data_dir: Path,
    store_dir: Path,
    repository_dir: Path,
    registry_uri: str,
    alias: str,
    triton: TritonSettings,
    out_dir: Path,
    online: OnlineSettings | None = None,
) -> None:
    """Materialise the queries' features, write the model repository, register the release under the alias.

    Changes of items that were made to the release that lay here before are made to this one, too.
    """
    manifest = verify(release_dir)
    spec = FeatureSpec.from_json(json.loads((release_dir / SPEC_FILE).read_text()))
    num_queries = materialize_queries(data_dir, store_dir, spec=spec, online=online)
    logger.info("online store: features of %d queries in %s", num_queries, store_dir)
    repository_dir.parent.mkdir(parents=True, exist_ok=True)
    build_model_repository(release_dir=release_dir, repository_dir=repository_dir, settings=triton)
    logger.info("Triton model repository: %s", repository_dir)
    # From here on servers of a former release refuse changes, so as late as can be.
    carry_changes(release_dir)
    metrics = {
        f"{system}/{metric}": value for system, own in manifest["metrics"].items() for metric, value in own.items()
    }
    registered = register_release(
        release_dir,
        uri=registry_uri,
        alias=alias,
        metrics=metrics,
        facts={name: str(manifest[name]) for name in ("release_id", "spec_hash", "embedding_space_hash", "commit")},
    )
    logger.info("registry: version %s is %s (%s)", registered.version, alias, registry_uri)
    facts = {
        "queries": num_queries,
        "version": registered.version,
        "alias": alias,
        "release_id": manifest["release_id"],
    }
    (out_dir / "published.json").write_text(json.dumps(facts, indent=2))
