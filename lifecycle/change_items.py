"""Changes of items from a file of JSON lines, a batch at a time: over gRPC, or by the release's log itself.

Owns the file's form and the batches. What a change is and does is serving's.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from serving.change_items import ItemChanger
from serving.item_wire import MAX_ITEMS, ChangeRequest, ItemFacts
from serving.items_client import ItemsClient
from serving.release import verify

Change = Callable[[ChangeRequest], int]

DEADLINE_S = 60.0  # of a batch of new texts


@contextmanager
def by_grpc(address: str, release_dir: Path) -> Iterator[Change]:
    """Through Triton, which serves this release."""
    spec_hash = verify(release_dir)["spec_hash"]
    with ItemsClient(address=address, deadline_s=DEADLINE_S) as client:
        yield lambda request: client.change(request, spec_hash=spec_hash)


@contextmanager
def by_log(release_dir: Path) -> Iterator[Change]:
    """Written here; servers of this machine follow, now or when they start."""
    with closing(ItemChanger.open(release_dir)) as changer:
        yield changer.apply


def change_items(
    change: Change, *, items: Sequence[ItemFacts], deleted_ids: Sequence[str], restored_ids: Sequence[str]
) -> int:
    """Make all changes; returns the number of the last. Items go in batches: what was acknowledged stays made.

    Raises:
        ValueError: there is nothing to change.
        ServingError: as the client says.
    """
    if not (items or deleted_ids or restored_ids):
        raise ValueError("nothing to change: give added, deleted or restored")
    number = 0
    if deleted_ids or restored_ids:
        number = change(ChangeRequest(deleted_ids=tuple(deleted_ids), restored_ids=tuple(restored_ids)))
    with tqdm(total=len(items), desc="items", unit="item", disable=len(items) <= MAX_ITEMS) as progress:
        for batch in _batched(items, MAX_ITEMS):
            number = change(ChangeRequest(items=batch))
            progress.update(len(batch))
    return number


def read_items(path: Path) -> list[ItemFacts]:
    """Items of JSON lines.

    Raises:
        ValueError: a line is no item; the message has its number.
    """
    known = [field.name for field in fields(ItemFacts)]
    items = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                items.append(ItemFacts(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}:{number}: expected an object of {', '.join(known)}: {error}") from None
    return items


def _batched(items: Sequence[ItemFacts], size: int) -> Iterator[tuple[ItemFacts, ...]]:
    return (tuple(items[start : start + size]) for start in range(0, len(items), size))
