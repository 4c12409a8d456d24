"""Changes of items as the tensors of the Triton model `change_items`: raw facts as JSON, ids, and a number back.

Owns names, types, bounds, and which facts an item has: those of the release's FeatureSpec, by name. Loaded inside
Triton.
"""

# Shapes: A items added or updated, M that go, B that come back.

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.catalogue import Catalogue, ItemColumns
from features.spec import FeatureSpec
from serving.errors import InvalidRequest
from serving.wire import MAX_STRING_BYTES, Tensors, text_of

MODEL = "change_items"
INPUTS = {"items": "BYTES", "deleted_ids": "BYTES", "restored_ids": "BYTES", "spec_hash": "BYTES"}
OUTPUTS = {"number": "INT64", "release_id": "BYTES"}

MAX_ITEMS = 256  # added or updated at once; more goes in several requests
MAX_IDS = 10_000  # that go, or come back
MAX_BYTES = 4_000_000  # of their facts


@dataclass(frozen=True)
class ItemFacts:
    """What is known of an item, as the dataset's sources give it; what is left out is missing.

    Attributes:
        title: what a person calls it; "": its first text.
        categories: values by name of the category.
        numbers, texts: by name.
    """

    item_id: str
    title: str = ""
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """One object."""
        return json.dumps(vars(self), default=list)


@dataclass(frozen=True)
class ChangeRequest:
    """What one request asks to be changed."""

    items: tuple[ItemFacts, ...] = ()
    deleted_ids: tuple[str, ...] = ()
    restored_ids: tuple[str, ...] = ()

    def columns(self, spec: FeatureSpec) -> ItemColumns:
        """The items' facts as preprocessing takes them.

        Raises:
            InvalidRequest: a fact is none of the spec's, or an item stands twice.
        """
        categories, texts = spec.names("item", "category"), spec.names("item", "text")
        numbers = spec.names("item", "number", "column")
        for item in self.items:
            for kind, own, known in (
                ("categories", item.categories, categories),
                ("numbers", item.numbers, numbers),
                ("texts", item.texts, texts),
            ):
                if unknown := sorted(set(own) - set(known)):
                    raise InvalidRequest(
                        field="items", message=f"{item.item_id}: no {kind} {unknown} in the spec: {', '.join(known)}"
                    )
        item_ids = tuple(item.item_id for item in self.items)
        if len(set(item_ids)) != len(item_ids):
            raise InvalidRequest(field="items", message="an item stands twice: give each once")
        return ItemColumns(
            catalogue=Catalogue(item_ids=item_ids),
            categories={name: [list(item.categories.get(name, ())) for item in self.items] for name in categories},
            numbers={name: np.array([item.numbers.get(name, math.nan) for item in self.items]) for name in numbers},
            texts={name: [item.texts.get(name, "") for item in self.items] for name in texts},
        )

    def titles(self, spec: FeatureSpec) -> tuple[str, ...]:
        """What a person calls each item."""
        first = spec.names("item", "text")[:1]
        return tuple(item.title or next((item.texts.get(name, "") for name in first), "") for item in self.items)


def encode_changes(request: ChangeRequest, *, spec_hash: str) -> Tensors:
    """Tensors of one request."""
    items = f"[{','.join(item.to_json() for item in request.items)}]" if request.items else ""
    return {
        "items": np.array([items.encode()], dtype=object),
        "deleted_ids": np.array([item_id.encode() for item_id in request.deleted_ids], dtype=object),
        "restored_ids": np.array([item_id.encode() for item_id in request.restored_ids], dtype=object),
        "spec_hash": np.array([spec_hash.encode()], dtype=object),
    }


def decode_changes(tensors: Mapping[str, NDArray[Any]], *, spec: FeatureSpec) -> ChangeRequest:
    """The reverse of `encode_changes`.

    Raises:
        InvalidRequest: a value is out of bounds or of another kind, or the facts are of another spec.
    """
    if (got := text_of(tensors["spec_hash"][0], field="spec_hash")) != spec.hash:
        raise InvalidRequest(
            field="spec_hash", message=f"the release has feature spec {spec.hash}, the items' facts have {got}"
        )
    request = ChangeRequest(
        items=_items(tensors["items"][0]),
        deleted_ids=_ids(tensors, "deleted_ids"),
        restored_ids=_ids(tensors, "restored_ids"),
    )
    if not (request.items or request.deleted_ids or request.restored_ids):
        raise InvalidRequest(field="items", message="expected something to change")
    return request


def _items(content: bytes) -> tuple[ItemFacts, ...]:
    if not content:
        return ()
    if len(content) > MAX_BYTES:
        raise InvalidRequest(field="items", message=f"expected at most {MAX_BYTES} bytes, got {len(content)}")
    try:
        items = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(field="items", message=f"expected JSON, got {content[:32]!r}: {error}") from None
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise InvalidRequest(field="items", message=f"expected a list of at most {MAX_ITEMS} items")
    return tuple(_item(item) for item in items)


def _item(item: Any) -> ItemFacts:
    """One item; what its facts are by name is checked by whoever reads them (item_embedder.py)."""
    wanted = {field.name for field in fields(ItemFacts)}
    if not isinstance(item, dict) or not set(item) <= wanted:
        raise InvalidRequest(field="items", message=f"expected objects of {', '.join(sorted(wanted))}")
    texts, named = ("item_id", "title"), ("categories", "numbers", "texts")
    if not all(_is_text(item.get(name, "")) for name in texts) or not item.get("item_id"):
        raise InvalidRequest(field="items", message=f"expected an item_id, and a title, of {MAX_STRING_BYTES} bytes")
    if not all(isinstance(item.get(name, {}), dict) for name in named):
        raise InvalidRequest(field="items", message=f"{item['item_id']}: expected {', '.join(named)} by name")
    return ItemFacts(**item)


def _is_text(value: Any) -> bool:
    # JSON can bring a lone surrogate, which is no text.
    return isinstance(value, str) and len(value.encode("utf-8", "replace")) <= MAX_STRING_BYTES and value.isprintable()


def _ids(tensors: Mapping[str, NDArray[Any]], name: str) -> tuple[str, ...]:
    if len(tensors[name]) > MAX_IDS:
        raise InvalidRequest(field=name, message=f"expected at most {MAX_IDS} ids, got {len(tensors[name])}")
    return tuple(text_of(value, field=name) for value in tensors[name])
