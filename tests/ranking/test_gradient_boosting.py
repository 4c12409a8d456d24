from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from ranking.data import RankerLists
from ranking.gradient_boosting import BoostedTrees, GradientBoosting

BuildLists = Callable[..., RankerLists]
NAMES = ("a", "b", "c", "d", "e")
RECIPE = GradientBoosting(
    num_leaves=7,
    learning_rate=0.2,
    min_samples_leaf=5,
    max_rounds=20,
    patience=20,
    feature_fraction=0.8,
    l2=1.0,
    num_seeds=1,
    seed=3,
)


def onnx_scores(trees: BoostedTrees, path: Path, dense: NDArray[np.float32]) -> NDArray[np.float32]:
    trees.export_onnx(path, spec_hash="abc")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores: NDArray[np.float32] = session.run(["scores"], {"dense": dense})[0]
    return scores


def thresholds_of(trees: BoostedTrees) -> NDArray[np.float64]:
    found: list[float] = []

    def visit(node: dict[str, Any]) -> None:
        if "threshold" in node:
            found.append(node["threshold"])
            visit(node["left_child"])
            visit(node["right_child"])

    for booster in trees.boosters:
        for tree in booster.dump_model()["tree_info"]:
            visit(tree["tree_structure"])
    return np.unique(found)


@pytest.fixture(scope="module")
def train(build_lists: BuildLists) -> RankerLists:
    return build_lists(num_lists=80, seed=1)


@pytest.fixture(scope="module")
def validation(build_lists: BuildLists) -> RankerLists:
    return build_lists(num_lists=40, seed=2)


@pytest.fixture(scope="module")
def trees(train: RankerLists, validation: RankerLists) -> BoostedTrees:
    return replace(RECIPE, num_seeds=3).fit(train, validation, feature_names=NAMES)


def test_a_feature_that_decides_is_learnt(trees: BoostedTrees, build_lists: BuildLists) -> None:
    fresh = build_lists(num_lists=50, seed=4).learnable()
    hits = trees.score(fresh.dense).argmax(axis=1) == fresh.relevance.argmax(axis=1)
    assert hits.mean() > 0.7  # by chance 1 / 12


def test_gains_are_shares_of_features_by_name_the_largest_first(trees: BoostedTrees) -> None:
    importance = trees.importance()
    assert set(importance) == set(NAMES)
    assert next(iter(importance)) == "a"
    assert list(importance.values()) == sorted(importance.values(), reverse=True)
    assert sum(importance.values()) == pytest.approx(1.0)


def test_the_score_is_the_mean_over_the_seeds(trees: BoostedTrees, validation: RankerLists) -> None:
    assert len(trees.boosters) == 3
    alone = [BoostedTrees(boosters=[booster]).score(validation.dense) for booster in trees.boosters]
    assert not np.array_equal(alone[0], alone[1])
    np.testing.assert_allclose(trees.score(validation.dense), np.mean(alone, axis=0), atol=1e-6)


def test_the_same_seed_grows_the_same_trees(train: RankerLists, validation: RankerLists) -> None:
    first, second = (RECIPE.fit(train, validation, feature_names=NAMES).score(validation.dense) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_without_other_lists_trees_grow_for_the_rounds_asked_for(train: RankerLists) -> None:
    grown = RECIPE.fit_rounds(train, num_rounds=3, feature_names=NAMES)
    assert [booster.num_trees() for booster in grown.boosters] == [3] * RECIPE.num_seeds


def test_padding_is_not_learnt_from(train: RankerLists, validation: RankerLists) -> None:
    num_lists = len(train)
    padded = RankerLists(
        candidate_rows=np.pad(train.candidate_rows, ((0, 0), (0, 2))),
        tokens=np.pad(train.tokens, ((0, 0), (0, 2), (0, 0))),
        dense=np.concatenate([train.dense, np.full((num_lists, 2, 5), 99.0, dtype=np.float32)], axis=1),
        relevance=np.pad(train.relevance, ((0, 0), (0, 2))),
        num_relevant=train.num_relevant,
        query_embeddings=train.query_embeddings,
    )
    first, second = (RECIPE.fit(lists, validation, feature_names=NAMES) for lists in (train, padded))
    np.testing.assert_array_equal(first.score(validation.dense), second.score(validation.dense))


def test_saved_trees_score_the_same(trees: BoostedTrees, validation: RankerLists, tmp_path: Path) -> None:
    trees.save(tmp_path / "trees")
    loaded = BoostedTrees.load(tmp_path / "trees")
    assert len(loaded.boosters) == 3
    np.testing.assert_allclose(loaded.score(validation.dense), trees.score(validation.dense), atol=1e-6)
    assert loaded.importance() == pytest.approx(trees.importance())
    np.testing.assert_allclose(
        onnx_scores(loaded, tmp_path / "ranker.onnx", validation.dense), trees.score(validation.dense), atol=1e-5
    )


def test_a_directory_without_trees_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no trees in .*: run scripts/train_ranker\.py"):
        BoostedTrees.load(tmp_path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 4)])
def test_onnx_scores_lists_of_any_shape_as_lightgbm(
    trees: BoostedTrees, tmp_path: Path, shape: tuple[int, int]
) -> None:
    dense = np.random.default_rng(0).normal(size=(*shape, 5)).astype(np.float32)
    found = onnx_scores(trees, tmp_path / "ranker.onnx", dense)
    assert found.shape == shape
    np.testing.assert_allclose(found, trees.score(dense), atol=1e-5)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("some_missing", [False, True], ids=["complete", "some missing"])
def test_onnx_takes_a_missing_number_as_lightgbm_does(
    train: RankerLists, validation: RankerLists, tmp_path: Path, shift: float, some_missing: bool
) -> None:
    # Without a missing number in training LightGBM takes one for 0, hence the shift to either side of the thresholds.
    generator = np.random.default_rng(0)
    dense = train.dense + np.float32(shift)
    if some_missing:
        dense[generator.random(dense.shape) < 0.2] = np.nan
    trees = RECIPE.fit(replace(train, dense=dense), validation, feature_names=NAMES)
    asked = validation.dense + np.float32(shift)
    asked[generator.random(asked.shape) < 0.3] = np.nan
    np.testing.assert_allclose(onnx_scores(trees, tmp_path / "ranker.onnx", asked), trees.score(asked), atol=1e-5)


def test_onnx_decides_at_the_threshold_as_lightgbm_does(trees: BoostedTrees, tmp_path: Path) -> None:
    near = thresholds_of(trees).astype(np.float32)
    values = np.concatenate([near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))])
    values = np.concatenate([values, np.array([0.0, -0.0, np.inf, -np.inf, 3.4e38], dtype=np.float32)])
    dense = np.repeat(values[None, :, None], 5, axis=2)
    np.testing.assert_allclose(onnx_scores(trees, tmp_path / "ranker.onnx", dense), trees.score(dense), atol=1e-5)


@pytest.mark.parametrize("low", np.array([1.0, 0.1, -7.3, 1234.5], dtype=np.float32))
def test_a_threshold_between_neighbouring_floats_keeps_them_apart(
    train: RankerLists, validation: RankerLists, tmp_path: Path, low: np.float32
) -> None:
    # Between two adjacent float32 a float64 threshold exists; rounded to float32 it must not move beyond the upper one.
    def two_valued(lists: RankerLists) -> RankerLists:
        dense = np.zeros_like(lists.dense)
        dense[:, :, 0] = np.where(lists.relevance > 0, np.nextafter(low, np.float32(np.inf)), low)
        return replace(lists, dense=dense)

    trees = replace(RECIPE, feature_fraction=1.0).fit(two_valued(train), two_valued(validation), feature_names=NAMES)
    dense = two_valued(validation).dense
    expected = trees.score(dense)
    assert len(np.unique(expected)) == 2
    np.testing.assert_allclose(onnx_scores(trees, tmp_path / "ranker.onnx", dense), expected, atol=1e-5)


def test_trees_without_a_split_are_exported_too(train: RankerLists, validation: RankerLists, tmp_path: Path) -> None:
    recipe = replace(RECIPE, min_samples_leaf=10_000)  # more than there are
    trees = recipe.fit(train, validation, feature_names=NAMES)
    assert len(thresholds_of(trees)) == 0
    scores = onnx_scores(trees, tmp_path / "ranker.onnx", validation.dense)
    np.testing.assert_allclose(scores, trees.score(validation.dense), atol=1e-5)


def test_onnx_carries_the_spec_and_the_names_that_serving_asks_for(trees: BoostedTrees, tmp_path: Path) -> None:
    trees.export_onnx(tmp_path / "ranker.onnx", spec_hash="abc")
    model = onnx.load(tmp_path / "ranker.onnx")
    assert {entry.key: entry.value for entry in model.metadata_props} == {"spec_hash": "abc"}
    assert [entry.name for entry in model.graph.input] == ["dense"]
    assert [entry.name for entry in model.graph.output] == ["scores"]
