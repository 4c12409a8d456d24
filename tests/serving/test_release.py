import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ReleaseDamaged, SpecMismatch
from serving.release import MANIFEST_FILE, Release, hash_file, seal, verify


@pytest.fixture
def copy(tiny_release: Path, tmp_path: Path) -> Path:
    """A release that a test may damage."""
    return Path(shutil.copytree(tiny_release, tmp_path / "copy"))


def manifest_of(directory: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((directory / MANIFEST_FILE).read_text())
    return manifest


def sealed(directory: Path, contents: Mapping[str, str], **facts: str) -> str:
    for name, content in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    return seal(directory, facts={"spec_hash": "s", **facts})


def test_an_opened_release_holds_what_was_written(tiny_release: Path) -> None:
    release = Release.open(tiny_release)

    assert release.release_id == manifest_of(tiny_release)["release_id"]
    assert release.spec.hash == manifest_of(tiny_release)["spec_hash"]
    assert release.item_ids == tuple(f"i{number}" for number in range(300))
    assert release.popular_item_ids == [f"i{number}" for number in range(50)]
    assert release.titles["i7"] == "Film i7"
    assert release.delta == 0
    assert release.ranker_path.is_file()
    assert len(release.stage1.index) == 300


def test_a_release_behind_a_link_is_opened_where_it_lies(tiny_release: Path, tmp_path: Path) -> None:
    # a link may point to another release later; what was opened must not change with it
    (tmp_path / "current").symlink_to(tiny_release)
    assert Release.open(tmp_path / "current").path == tiny_release.resolve()


def test_the_manifest_holds_the_hash_of_every_file(tiny_release: Path) -> None:
    files = {
        str(file.relative_to(tiny_release)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in tiny_release.rglob("*")
        if file.is_file() and file != tiny_release / MANIFEST_FILE
    }
    assert verify(tiny_release)["files"] == files
    assert {"ranker.onnx", "arrays/item_embeddings.npy", "retrievers/ease/values.npy"} < set(files)


def test_each_damaged_file_is_named_with_both_hashes(copy: Path) -> None:
    files = manifest_of(copy)["files"]
    assert len(files) > 15
    for name, expected in files.items():
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        got = hash_file(copy / name)
        with pytest.raises(ReleaseDamaged) as caught:
            Release.open(copy)
        assert f"{copy / name} is damaged: its sha256 should be {expected} but is {got}" in str(caught.value)
        (copy / name).write_bytes(content)
    Release.open(copy)


def test_each_missing_file_is_named_with_its_hash(copy: Path) -> None:
    for name, expected in manifest_of(copy)["files"].items():
        (copy / name).rename(copy / "away")
        with pytest.raises(ReleaseDamaged) as caught:
            Release.open(copy)
        assert f"{copy / name} is missing; its sha256 should be {expected}" in str(caught.value)
        (copy / "away").rename(copy / name)
    Release.open(copy)


def test_a_truncated_file_is_damaged(copy: Path) -> None:
    index = copy / "index.faiss"
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(ReleaseDamaged, match=r"index\.faiss is damaged"):
        Release.open(copy)


def test_a_directory_without_a_manifest_is_no_release(copy: Path) -> None:
    (copy / MANIFEST_FILE).unlink()
    with pytest.raises(ReleaseDamaged, match=r"manifest\.json is missing: .*copy is not a release; export one"):
        Release.open(copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"files": 3, "release_id": "r", "spec_hash": "s"}',
        b'{"files": {}, "spec_hash": "s"}',
        b'{"files": {}, "release_id": "r"}',
        b"\xff\xfe",
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(copy: Path, content: bytes) -> None:
    (copy / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(ReleaseDamaged, match=r"copy/manifest\.json is not a readable manifest"):
        Release.open(copy)


@pytest.mark.parametrize("change", ["left out", "added", "another hash"])
def test_a_manifest_that_was_changed_is_damaged(copy: Path, change: str) -> None:
    manifest = manifest_of(copy)
    release_id = manifest["release_id"]
    if change == "left out":
        del manifest["files"]["ranker.onnx"]
    else:
        manifest["files"]["extra.npy" if change == "added" else "ranker.onnx"] = "0" * 64
    (copy / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ReleaseDamaged, match=rf"manifest\.json is damaged: .* but it says {release_id}"):
        Release.open(copy)


def test_a_release_of_another_spec_is_refused_with_both_hashes(copy: Path) -> None:
    own = manifest_of(copy)["spec_hash"]
    seal(copy, facts={"spec_hash": "0123"})
    with pytest.raises(SpecMismatch, match=rf"names feature spec 0123 but feature_spec\.json has {own}"):
        Release.open(copy)


def test_equal_content_has_an_equal_id(tmp_path: Path) -> None:
    contents = {"a": "1", "b/c": "2"}
    first = sealed(tmp_path / "x", contents)
    again = sealed(tmp_path / "y", dict(reversed(contents.items())), commit="another fact")
    assert first == again
    assert sealed(tmp_path / "x", {}) == first  # its own manifest is not content
    assert len(first) == 16
    assert manifest_of(tmp_path / "y")["commit"] == "another fact"


@pytest.mark.parametrize(
    "other",
    [
        {"a": "1", "b/c": "3"},
        {"a": "1", "b/d": "2"},
        {"a": "1"},
        {"a": "2", "b/c": "1"},
        {"a": "1", "b/c": "2", "d": ""},
    ],
)
def test_other_content_has_another_id(tmp_path: Path, other: dict[str, str]) -> None:
    assert sealed(tmp_path / "x", {"a": "1", "b/c": "2"}) != sealed(tmp_path / "y", other)


def test_a_file_named_like_the_manifest_is_content_elsewhere(tmp_path: Path) -> None:
    sealed(tmp_path, {"model/manifest.json": "1"})
    (tmp_path / "model" / "manifest.json").write_text("2")
    with pytest.raises(ReleaseDamaged, match=r"model/manifest\.json is damaged"):
        verify(tmp_path)


@settings(max_examples=20)  # each waits for the disk
@given(
    contents=st.dictionaries(st.sampled_from(["a", "b/c", "b.d", "e ü"]), st.text(max_size=9), min_size=1),
    data=st.data(),
)
def test_what_was_sealed_verifies_until_a_byte_changes(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, str], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("sealed")
    release_id = sealed(directory, contents)
    assert verify(directory)["release_id"] == release_id
    name = data.draw(st.sampled_from(sorted(contents)))
    with (directory / name).open("a") as file:
        file.write("x")
    with pytest.raises(ReleaseDamaged, match="is damaged"):
        verify(directory)
