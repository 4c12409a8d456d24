"""Items changed from a file, by the log of a release that may or may not be served."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lifecycle.change_items import change_items, read_items
from serving.item_wire import MAX_ITEMS, ChangeRequest, ItemFacts


def written(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def recording(asked: list[ChangeRequest]) -> Callable[[ChangeRequest], int]:
    def change(request: ChangeRequest) -> int:
        asked.append(request)
        return len(asked)

    return change


def test_items_are_read_and_changed_in_batches_after_what_goes_and_comes_back(tmp_path: Path) -> None:
    given = [{"item_id": f"n{number}", "texts": {"title": "Ü"}} for number in range(MAX_ITEMS + 1)]
    items = read_items(written(tmp_path, *given, ""))
    asked: list[ChangeRequest] = []
    assert change_items(recording(asked), items=items, deleted_ids=["a"], restored_ids=["b"]) == 3
    assert asked[0] == ChangeRequest(deleted_ids=("a",), restored_ids=("b",))
    assert [len(one.items) for one in asked[1:]] == [MAX_ITEMS, 1]
    assert asked[2].items[0] == ItemFacts(f"n{MAX_ITEMS}", texts={"title": "Ü"})


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"id": "a"}', "{}"])
def test_a_line_that_is_no_item_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"items\.jsonl:2: expected an object of item_id, title, "):
        read_items(written(tmp_path, {"item_id": "a"}, line))


def test_nothing_to_change_is_said() -> None:
    with pytest.raises(ValueError, match="nothing to change"):
        change_items(recording([]), items=[], deleted_ids=[], restored_ids=[])
