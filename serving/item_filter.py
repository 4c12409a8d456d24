"""Which items a request wants: by values of categories, and by lists of ids that are allowed or denied.

Owns its JSON form, its bounds and what passes. What is out of stock is no filter but a change (item_changes.py), which
holds for all requests. Loaded inside Triton.
"""

# Shapes: P rows that are asked for.

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from features.spec import FeatureSpec
from features.vocab import UNKNOWN
from serving.errors import InvalidRequest

if TYPE_CHECKING:  # a client needs filters and no faiss
    from serving.retrieval import Stage1

MAX_BYTES = 262_144  # of its JSON
FIELD = "only"
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class ItemFilter:
    """What passes all of its parts; without parts, everything.

    Attributes:
        categories: names, and of each the values of which an item has one at least.
        allowed_ids: the only items that pass; None: any.
        denied_ids: items that do not.
    """

    categories: tuple[tuple[str, tuple[str, ...]], ...] = ()
    allowed_ids: tuple[str, ...] | None = None
    denied_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """From its JSON form: categories by name, allowed_ids and denied_ids, each of them or none.

        Raises:
            InvalidRequest: it is of another form.
        """
        categories, allowed, denied = (content.get(name) for name in ("categories", "allowed_ids", "denied_ids"))
        by_name = {} if categories is None else categories
        lists = [*(by_name.values() if isinstance(by_name, Mapping) else [None]), allowed or [], denied or []]
        known = set(content) <= {"categories", "allowed_ids", "denied_ids"}
        if not known or not all(isinstance(own, list | tuple) and all(map(_is_text, own)) for own in lists):
            raise InvalidRequest(
                field=FIELD, message="expected categories (lists of texts by name), allowed_ids and denied_ids alone"
            )
        return cls(
            categories=tuple((str(name), tuple(dict.fromkeys(values))) for name, values in sorted(by_name.items())),
            allowed_ids=None if allowed is None else tuple(allowed),
            denied_ids=tuple(denied or ()),
        )

    @classmethod
    def from_json(cls, content: bytes) -> Self | None:
        """The reverse of `to_json`; None: empty bytes.

        Raises:
            InvalidRequest: it is no JSON, too long, or of another form.
        """
        if not content:
            return None
        if len(content) > MAX_BYTES:
            raise InvalidRequest(field=FIELD, message=f"expected at most {MAX_BYTES} bytes, got {len(content)}")
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(field=FIELD, message=f"expected JSON, got {content[:32]!r}: {error}") from None
        if not isinstance(document, dict):
            raise InvalidRequest(field=FIELD, message="expected a JSON object")
        return cls.of(document)

    def to_json(self) -> dict[str, Any]:
        """As `of` takes it."""
        return {
            "categories": {name: list(values) for name, values in self.categories},
            "allowed_ids": None if self.allowed_ids is None else list(self.allowed_ids),
            "denied_ids": list(self.denied_ids),
        }

    def check(self, spec: FeatureSpec) -> None:
        """Refuse categories that items do not have.

        Raises:
            InvalidRequest: there are some.
        """
        known = spec.names("item", "category")
        if unknown := [name for name, _ in self.categories if name not in known]:
            raise InvalidRequest(field=FIELD, message=f"items have the categories {', '.join(known)}; got {unknown}")

    def passing(self, stage1: "Stage1", rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these rows [P] pass, and may be recommended.

        Raises:
            InvalidRequest: items have no category of a name.
        """
        self.check(stage1.spec)
        passes = stage1.recommendable[rows]
        if self.allowed_ids is not None:
            passes &= np.isin(rows, stage1.catalogue.rows(self.allowed_ids))
        if self.denied_ids:
            passes &= ~np.isin(rows, stage1.catalogue.rows(self.denied_ids))
        names = stage1.spec.names("item", "category")
        wanted = {names.index(name): stage1.vocabularies.categories[name].encode(own) for name, own in self.categories}
        for start in range(0, len(rows), ROWS_AT_ONCE) if wanted else ():
            own = slice(start, start + ROWS_AT_ONCE)
            values = stage1.items.categories[rows[own]]  # [., Ci, M]
            for column, codes in wanted.items():
                # A value that nobody had in training is as any other such: it would find items of all of them.
                passes[own] &= np.isin(values[:, column], codes[codes > UNKNOWN]).any(axis=1)
        return passes


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
