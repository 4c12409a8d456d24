"""The next release keeps what was deleted gone and what was added there, by models of its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from serving.carried_changes import carry_changes
from serving.change_items import ItemChanger
from serving.errors import ReleaseDamaged, ReleaseTooOld, ServerUnavailable
from serving.follower import ReleaseFollower
from serving.item_changes import ItemChanges
from serving.item_embedder import TEXT_ENCODER_FILE
from serving.item_wire import ChangeRequest, ItemFacts
from serving.live_items import log_path
from serving.release import MANIFEST_FILE, POPULAR_FILE, Release, seal
from towers.index.change_log import MARKER, ChangeLog


@pytest.fixture
def release_dir(tiny_release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_release, tmp_path / "release"))


def change(release_dir: Path, *requests: ChangeRequest) -> None:
    changer = ItemChanger.open(release_dir)
    for request in requests:
        changer.apply(request)
    changer.close()


def exported_anew(release_dir: Path, *, without: tuple[str, ...] = (), takes_items: bool = True) -> None:
    """Another release in the same place, of which some items are not recommendable."""
    release = Release.open(release_dir, delta=0)
    recommendable = release.stage1.recommendable.copy()
    recommendable[release.stage1.catalogue.rows(without)] = False
    np.save(release_dir / "recommendable.npy", recommendable)
    number = len(json.loads((release_dir / POPULAR_FILE).read_text()))
    (release_dir / POPULAR_FILE).write_text(json.dumps([f"i{n}" for n in range(number - 1)]))
    if not takes_items:
        (release_dir / TEXT_ENCODER_FILE).unlink()
    (release_dir / MANIFEST_FILE).unlink()
    seal(release_dir, facts={"spec_hash": release.spec.hash})


def there(release_dir: Path) -> set[str]:
    release = ReleaseFollower(Release.open(release_dir)).release
    item_ids = release.stage1.catalogue.item_ids
    return {own for own, is_there in zip(item_ids, release.recommends(item_ids).tolist(), strict=True) if is_there}


def facts(item_id: str, *, year: float = 1990.0) -> ItemFacts:
    return ItemFacts(item_id, title=f"Film {item_id}", numbers={"year": year}, texts={"title": "film"})


def test_the_last_word_on_every_item_is_carried_over_once(release_dir: Path) -> None:
    change(
        release_dir,
        ChangeRequest(deleted_ids=("i1", "i2", "i3"), items=(facts("new 1"), facts("new 2"), facts("new 3"))),
        ChangeRequest(restored_ids=("i2",), deleted_ids=("new 1",)),
        ChangeRequest(items=(facts("i3"), facts("new 2", year=2000.0))),
    )
    before = there(release_dir)
    assert before == {f"i{n}" for n in range(300)} - {"i1"} | {"new 2", "new 3"}
    exported_anew(release_dir)
    assert there(release_dir) == {f"i{n}" for n in range(300)}
    assert carry_changes(release_dir) == 3
    assert there(release_dir) == before
    release = ReleaseFollower(Release.open(release_dir)).release
    assert release.titles["new 2"] == "Film new 2"
    row = release.stage1.catalogue.rows(["new 2"])
    assert release.stage1.items.numbers[row] == pytest.approx((2000.0 - 1980.0) / 10.0)
    assert carry_changes(release_dir) == 0
    # Through a third release, whose data have lost an item that was deleted.
    exported_anew(release_dir, without=("i1", "i9"))
    assert carry_changes(release_dir) == 2
    assert there(release_dir) == before - {"i9"}


def test_without_changes_before_there_is_nothing_to_carry(release_dir: Path) -> None:
    assert carry_changes(release_dir) == 0
    release = ReleaseFollower(Release.open(release_dir)).release
    assert (release.changes, there(release_dir)) == (1, {f"i{n}" for n in range(300)})
    assert carry_changes(release_dir) == 0
    assert ReleaseFollower(Release.open(release_dir)).release.changes == 1


def test_what_is_changed_after_another_release_took_over_is_refused_and_never_lost(release_dir: Path) -> None:
    carry_changes(release_dir)
    former = ItemChanger.open(release_dir)  # a server that goes on
    former.apply(ChangeRequest(deleted_ids=("i1",)))
    former_id = former.release.release_id
    exported_anew(release_dir)
    former.apply(ChangeRequest(deleted_ids=("i2",), items=(facts("new"),)))
    assert carry_changes(release_dir) == 3
    for request in (ChangeRequest(deleted_ids=("i3",)), ChangeRequest(items=(facts("newer"),))):
        with pytest.raises(ServerUnavailable, match=rf"release {former_id} takes no more changes, for \w+ follows it"):
            former.apply(request)
    numbers = former.release.changes
    former.close()
    assert numbers == 4  # begun, two changes, ended
    assert there(release_dir) == {f"i{n}" for n in range(300)} - {"i1", "i2"} | {"new"}
    assert carry_changes(release_dir) == 0
    change(release_dir, ChangeRequest(restored_ids=("i2",)))
    assert there(release_dir) == {f"i{n}" for n in range(300)} - {"i1"} | {"new"}


def test_a_release_without_changes_is_ended_too(release_dir: Path) -> None:
    carry_changes(release_dir)
    former = ItemChanger.open(release_dir)
    exported_anew(release_dir)
    assert carry_changes(release_dir) == 0
    with pytest.raises(ServerUnavailable, match="start this server again"):
        former.apply(ChangeRequest(deleted_ids=("i3",)))
    former.close()


def test_taking_over_that_was_broken_off_is_finished(release_dir: Path) -> None:
    carry_changes(release_dir)
    change(release_dir, ChangeRequest(deleted_ids=("i1", "i2"), items=(facts("new 1"), facts("new 2"))))
    before = there(release_dir)
    exported_anew(release_dir)
    former = log_path(Release.open(release_dir)).parent.parent
    assert carry_changes(release_dir) == 4
    # Of a publish that ended in its midst there are some changes, and no word that they are all.
    path = log_path(Release.open(release_dir))
    content = path.read_bytes()
    for _ in range(2):
        content = content[: content.rindex(MARKER)]
    path.write_bytes(content)
    assert there(release_dir) == before - {"new 1", "new 2"}
    assert carry_changes(release_dir) == 2
    assert there(release_dir) == before
    marks = [
        ItemChanges.from_bytes(own.notes) for log in former.glob("*/*.log") for own in ChangeLog(log, width=None).new()
    ]
    assert sum(own.followed_by is not None for own in marks) == 1
    assert sum(own.follows is not None for own in marks) == 2
    # And where it was never finished, by the release after it.
    change(release_dir, ChangeRequest(deleted_ids=("i3",)))
    exported_anew(release_dir)
    change(release_dir, ChangeRequest(deleted_ids=("i1",)))
    exported_anew(release_dir, without=("i9",))
    assert carry_changes(release_dir) == 5
    assert there(release_dir) == before - {"i3", "i9"}


def test_a_damaged_log_of_before_stops_the_release(release_dir: Path) -> None:
    change(release_dir, ChangeRequest(deleted_ids=("i1",)), ChangeRequest(deleted_ids=("i2",)))
    path = log_path(Release.open(release_dir))
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    exported_anew(release_dir)
    with pytest.raises(ReleaseDamaged, match="is damaged at byte"):
        carry_changes(release_dir)


def test_a_release_that_comes_back_takes_over_and_is_changed_again(release_dir: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(release_dir, tmp_path / "first"))
    carry_changes(release_dir)
    change(release_dir, ChangeRequest(deleted_ids=("i1", "i2"), items=(facts("new"),)))
    exported_anew(release_dir)
    carry_changes(release_dir)
    change(release_dir, ChangeRequest(restored_ids=("i1",), deleted_ids=("i3", "new")))
    before = there(release_dir)
    shutil.rmtree(release_dir)
    first.rename(release_dir)
    assert carry_changes(release_dir) == 2
    assert there(release_dir) == before == {f"i{n}" for n in range(300)} - {"i2", "i3"}
    change(release_dir, ChangeRequest(deleted_ids=("i4",)))
    assert there(release_dir) == before - {"i4"}
    assert carry_changes(release_dir) == 0


def test_what_was_changed_here_before_taking_over_is_the_last_word(release_dir: Path) -> None:
    carry_changes(release_dir)
    change(release_dir, ChangeRequest(items=(facts("i5"), facts("new")), deleted_ids=("i1", "i2")))
    exported_anew(release_dir)
    change(release_dir, ChangeRequest(items=(facts("i1"),), deleted_ids=("i5",)))  # by a server that was early
    assert carry_changes(release_dir) == 2
    assert there(release_dir) == {f"i{n}" for n in range(300)} - {"i2", "i5"} | {"new"}


def test_what_was_deleted_stays_so_through_a_release_whose_data_have_lost_it(release_dir: Path, tmp_path: Path) -> None:
    kept = Path(shutil.copytree(release_dir, tmp_path / "kept"))
    carry_changes(release_dir)
    change(release_dir, ChangeRequest(deleted_ids=("i1",)))
    exported_anew(release_dir, without=("i1",))
    assert carry_changes(release_dir) == 0
    shutil.rmtree(release_dir)
    kept.rename(release_dir)
    exported_anew(release_dir)
    exported_anew(release_dir)
    assert carry_changes(release_dir) == 1
    assert "i1" not in there(release_dir)


def test_a_release_that_was_never_published_is_ended_and_heard_too(release_dir: Path) -> None:
    carry_changes(release_dir)
    published = ItemChanger.open(release_dir)
    exported_anew(release_dir)
    early = ItemChanger.open(release_dir)
    early.apply(ChangeRequest(deleted_ids=("i2",)))
    published.apply(ChangeRequest(deleted_ids=("i4",)))
    exported_anew(release_dir)
    assert carry_changes(release_dir) == 2
    for changer in (published, early):
        with pytest.raises(ServerUnavailable):
            changer.apply(ChangeRequest(deleted_ids=("i6",)))
        changer.close()
    assert there(release_dir) == {f"i{n}" for n in range(300)} - {"i2", "i4"}


def test_a_release_that_takes_no_items_ends_no_log_that_has_some(release_dir: Path) -> None:
    carry_changes(release_dir)
    former = ItemChanger.open(release_dir)
    former.apply(ChangeRequest(items=(facts("new"),)))
    exported_anew(release_dir, takes_items=False)
    with pytest.raises(ReleaseTooOld):
        carry_changes(release_dir)
    former.apply(ChangeRequest(deleted_ids=("i1",)))
    former.close()
