"""The next release keeps what was deleted gone and what was added there, by models of its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from serving.carried_changes import carry_changes
from serving.change_items import ItemChanger
from serving.errors import ReleaseDamaged, ServerUnavailable
from serving.follower import ReleaseFollower
from serving.item_wire import ChangeRequest, ItemFacts
from serving.live_items import log_path
from serving.release import MANIFEST_FILE, POPULAR_FILE, Release, seal


@pytest.fixture
def release_dir(tiny_release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_release, tmp_path / "release"))


def change(release_dir: Path, *requests: ChangeRequest) -> None:
    changer = ItemChanger.open(release_dir)
    for request in requests:
        changer.apply(request)
    changer.close()


def exported_anew(release_dir: Path, *, without: tuple[str, ...] = ()) -> None:
    """Another release in the same place, of which some items are not recommendable."""
    release = Release.open(release_dir, delta=0)
    recommendable = release.stage1.recommendable.copy()
    recommendable[release.stage1.catalogue.rows(without)] = False
    np.save(release_dir / "recommendable.npy", recommendable)
    number = len(json.loads((release_dir / POPULAR_FILE).read_text()))
    (release_dir / POPULAR_FILE).write_text(json.dumps([f"i{n}" for n in range(number - 1)]))
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
    # Of a publish that ended in its midst there are some changes, and no word that they are all.
    change(release_dir, ChangeRequest(deleted_ids=("i2",), items=(facts("new 2"),)))
    assert carry_changes(release_dir) == 2
    assert there(release_dir) == before
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
