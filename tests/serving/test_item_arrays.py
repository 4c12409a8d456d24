from dataclasses import fields

import numpy as np
import pytest

from features.transforms import ItemInputs
from serving.errors import ReleaseDamaged
from serving.item_arrays import ItemArrays


def items() -> ItemArrays:
    generator = np.random.default_rng(0)
    return ItemArrays(
        item_ids=("a", "ü"),
        titles=("Der Himmel", "東京物語"),
        inputs=ItemInputs(
            item_id=np.array([1, 1]),
            categories=generator.integers(0, 9, (2, 3, 4)),
            numbers=generator.random((2, 2), dtype=np.float32),
            title_tokens=generator.integers(0, 9, (2, 4)).astype(np.int32),
            text_tokens=generator.integers(0, 9, (2, 17)).astype(np.int32),
        ),
        learned=generator.random((2, 8), dtype=np.float32),
        linear=generator.random((2, 5), dtype=np.float32),
        text=np.zeros((2, 0), np.float32),
        as_new=generator.random((2, 8), dtype=np.float32),
        states=np.zeros((2, 18, 0), np.int8),
        facts=('{"item_id": "a"}', '{"item_id": "ü"}'),
    )


def test_what_is_logged_is_read_again() -> None:
    wanted = items()
    got = ItemArrays.from_bytes(wanted.to_bytes())
    assert (got.item_ids, got.titles, got.facts) == (wanted.item_ids, wanted.titles, wanted.facts)
    for name in (field.name for field in fields(ItemInputs)):
        np.testing.assert_array_equal(getattr(got.inputs, name), getattr(wanted.inputs, name))
        assert getattr(got.inputs, name).dtype == getattr(wanted.inputs, name).dtype
    for name in ("learned", "linear", "text", "as_new", "states"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", items().to_bytes()[:-200]], ids=["empty", "head", "cut"])
def test_something_else_is_refused(content: bytes) -> None:
    with pytest.raises(ReleaseDamaged, match="begin another log"):
        ItemArrays.from_bytes(content)
