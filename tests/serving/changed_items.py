"""Items with random facts for the tiny release, and changes of them."""

import numpy as np

from features.transforms import ItemInputs
from serving.item_arrays import ItemArrays
from serving.item_changes import ItemChanges
from serving.release import Release


def items_for(release: Release, *item_ids: str, seed: int = 0, as_new: np.ndarray | None = None) -> ItemArrays:
    """Facts of these items; `as_new` [M, D] is what they lie at in the index."""
    stage1, num = release.stage1, len(item_ids)
    generator = np.random.default_rng(seed)
    learned, linear = (
        generator.normal(size=(num, own.shape[1])).astype(np.float32)
        for own in (stage1.item_embeddings, stage1.linear_embeddings)
    )
    places = stage1.items.categories.shape[2]
    return ItemArrays(
        item_ids=item_ids,
        titles=tuple(f"Added {item_id}" for item_id in item_ids),
        inputs=ItemInputs(
            item_id=np.ones(num, np.int64),
            categories=generator.integers(2, 4, (num, stage1.items.categories.shape[1], places)),
            numbers=generator.normal(size=(num, stage1.items.numbers.shape[1])).astype(np.float32),
            title_tokens=np.full((num, stage1.items.title_tokens.shape[1]), 4, np.int32),
            text_tokens=np.full((num, stage1.items.text_tokens.shape[1]), 4, np.int32),
        ),
        learned=learned,
        linear=linear,
        text=np.zeros((num, stage1.text_embeddings.shape[1]), np.float32),
        as_new=learned if as_new is None else as_new.astype(np.float32),
        states=np.zeros((num, 6, 0), np.int8),
    )


def adding(release: Release, *item_ids: str, seed: int = 0, as_new: np.ndarray | None = None) -> ItemChanges:
    return ItemChanges(items=items_for(release, *item_ids, seed=seed, as_new=as_new))
