import json
import re
import shutil
from pathlib import Path

import pytest

from features.stores.online_store import OnlineStore
from lifecycle.publish import publish
from lifecycle.serve import ServeSettings
from serving.errors import ReleaseDamaged
from serving.registry import resolve
from serving.release import Release

pytestmark = pytest.mark.timeout(600)


def test_what_was_published_is_on_record(smoke_run: Path, smoke_store: OnlineStore) -> None:
    demo = smoke_run / "demo"
    release = Release.open(demo / "release")
    facts = json.loads((demo / "published" / "published.json").read_text())
    assert facts == {"queries": 943, "version": 1, "alias": "champion", "release_id": release.release_id}
    assert smoke_store.spec_hash == release.spec.hash


def test_the_alias_leads_to_the_release_with_its_metrics(smoke_run: Path) -> None:
    release_dir, uri = smoke_run / "demo" / "release", f"sqlite:///{smoke_run}/mlflow.db"
    champion = resolve(uri=uri)
    assert (champion.path, champion.version) == (release_dir, 1)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version_by_alias("twostage", "champion")
    manifest = json.loads((release_dir / "manifest.json").read_text())
    assert {version.tags[name] for name in ("release_id", "spec_hash", "embedding_space_hash", "commit")} == {
        manifest[name] for name in ("release_id", "spec_hash", "embedding_space_hash", "commit")
    }
    logged = client.get_run(version.run_id).data.metrics
    assert logged["fused_student/ndcg_at_10"] == manifest["metrics"]["fused_student"]["ndcg@10"]


def test_the_model_repository_is_of_that_release(smoke_run: Path) -> None:
    demo = smoke_run / "demo"
    config = (demo / "model_repository" / "recommend" / "config.pbtxt").read_text()
    assert re.search(rf'"{re.escape(str(demo / "release"))}"', config)
    for name in ("query_tower", "item_tower", "ranker"):
        served = (demo / "model_repository" / name / "1" / "model.onnx").read_bytes()
        assert served == (demo / "release" / f"{name}.onnx").read_bytes()


def test_a_damaged_release_publishes_nothing(smoke_run: Path, smoke_serving: ServeSettings, tmp_path: Path) -> None:
    demo = smoke_run / "demo"
    shutil.copytree(demo / "release", tmp_path / "release")
    (tmp_path / "release" / "ranker.onnx").write_bytes(b"")
    with pytest.raises(ReleaseDamaged, match=r"ranker\.onnx is damaged"):
        publish(
            release_dir=tmp_path / "release",
            data_dir=demo / "data",
            store_dir=tmp_path / "online_store",
            repository_dir=tmp_path / "model_repository",
            registry_uri=f"sqlite:///{tmp_path}/mlflow.db",
            alias="champion",
            triton=smoke_serving.triton,
            out_dir=tmp_path,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
