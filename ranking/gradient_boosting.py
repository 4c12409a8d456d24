"""LightGBM LambdaMART on the dense features: the baseline that the BERT ranker stands beside.

Owns its training and its export as ONNX with the inputs and output of any other ranker.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ranking.data import RankerLists

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GradientBoosting:
    """A LambdaMART recipe; conf/ranker/*.yaml fills it.

    Attributes:
        patience: rounds without a better validation NDCG@10 before training stops.
    """

    num_leaves: int
    learning_rate: float
    min_samples_leaf: int
    max_rounds: int
    patience: int
    feature_fraction: float
    l2: float
    num_seeds: int
    seed: int

    def fit(self, train: RankerLists, validation: RankerLists, *, feature_names: tuple[str, ...]) -> "BoostedTrees":
        """Train on lists with at least one relevant candidate; validation decides the number of rounds."""
        boosters = []
        grades = _grades(train, validation)
        for seed in range(self.seed, self.seed + self.num_seeds):
            sets = [_dataset(lists.learnable(), feature_names, grades) for lists in (train, validation)]
            booster = lightgbm.train(
                self._parameters(seed, grades),
                sets[0],
                num_boost_round=self.max_rounds,
                valid_sets=[sets[1]],
                callbacks=[lightgbm.early_stopping(self.patience, verbose=False)],
            )
            logger.info("gradient boosting, seed %d: %d rounds", seed, booster.best_iteration)
            boosters.append(booster)
        return BoostedTrees(boosters=boosters)

    def fit_rounds(self, lists: RankerLists, *, num_rounds: int, feature_names: tuple[str, ...]) -> "BoostedTrees":
        """Train for so many rounds, where no other lists are left to decide."""
        grades = _grades(lists)
        boosters = [
            lightgbm.train(
                self._parameters(seed, grades),
                _dataset(lists.learnable(), feature_names, grades),
                num_boost_round=num_rounds,
            )
            for seed in range(self.seed, self.seed + self.num_seeds)
        ]
        return BoostedTrees(boosters=boosters)

    def _parameters(self, seed: int, grades: NDArray[np.float32]) -> dict[str, Any]:
        return {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "label_gain": grades.tolist(),
            "lambdarank_truncation_level": 20,
            "num_leaves": self.num_leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.min_samples_leaf,
            "feature_fraction": self.feature_fraction,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": self.l2,
            "seed": seed,
            "deterministic": True,
            "num_threads": 2,
            "verbosity": -1,
        }


def _grades(*lists: RankerLists) -> NDArray[np.float32]:
    """All grades of relevance, ascending: LightGBM wants whole labels from 0 on, and is told what each gains."""
    grades: NDArray[np.float32] = np.unique(np.concatenate([[0.0], *(own.relevance.ravel() for own in lists)]))
    return grades


def _dataset(lists: RankerLists, feature_names: tuple[str, ...], grades: NDArray[np.float32]) -> Any:
    present = lists.present
    return lightgbm.Dataset(
        lists.dense[present],
        label=np.searchsorted(grades, lists.relevance[present]),
        group=present.sum(axis=1),
        feature_name=list(feature_names),
        free_raw_data=False,
    )


@dataclass(frozen=True)
class BoostedTrees:
    """Trained boosters, one a seed; the score is their mean."""

    boosters: list[Any]

    def score(self, dense: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, C, F] -> [N, C]."""
        flat = dense.reshape(-1, dense.shape[-1])
        scores = np.mean([booster.predict(flat, num_threads=2) for booster in self.boosters], axis=0)
        shaped: NDArray[np.float32] = scores.reshape(dense.shape[:2]).astype(np.float32)
        return shaped

    def importance(self) -> dict[str, float]:
        """Share of the total gain that each feature brought."""
        gains = np.sum([booster.feature_importance("gain") for booster in self.boosters], axis=0)
        names = self.boosters[0].feature_name()
        order = np.argsort(-gains)
        return {names[place]: float(gains[place] / max(gains.sum(), 1e-12)) for place in order}

    def save(self, directory: Path) -> None:
        """Write LightGBM's own text format, one file a seed; the directory appears with all of them."""
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for number, booster in enumerate(self.boosters):
            booster.save_model(str(partial / f"trees_{number}.txt"))
        partial.rename(directory)

    @classmethod
    def load(cls, directory: Path) -> "BoostedTrees":
        """Read what `save` wrote."""
        files = sorted(directory.glob("trees_*.txt"))
        if not files:
            raise FileNotFoundError(f"no trees in {directory}: run scripts/train_ranker.py")
        return cls(boosters=[lightgbm.Booster(model_file=str(file)) for file in files])

    def export_onnx(self, path: Path, *, spec_hash: str) -> None:
        """Write the trees as ONNX: dense [B, C, F] -> scores [B, C]."""
        trees = [tree["tree_structure"] for booster in self.boosters for tree in booster.dump_model()["tree_info"]]
        num_features = self.boosters[0].num_feature()
        ensemble = _tree_attributes(trees, weight=1.0 / len(self.boosters))
        nodes = [
            helper.make_node("Reshape", ["dense", "flat_shape"], ["flat"]),
            helper.make_node(
                "TreeEnsembleRegressor", ["flat"], ["flat_scores"], domain="ai.onnx.ml", n_targets=1, **ensemble
            ),
            helper.make_node("Shape", ["dense"], ["list_shape"], start=0, end=2),
            helper.make_node("Reshape", ["flat_scores", "list_shape"], ["scores"]),
        ]
        graph = helper.make_graph(
            nodes,
            "gradient_boosting",
            inputs=[helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["B", "C", num_features])],
            outputs=[helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "C"])],
            initializer=[helper.make_tensor("flat_shape", TensorProto.INT64, [2], [-1, num_features])],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=9
        )
        helper.set_model_props(model, {"spec_hash": spec_hash})
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())


def _tree_attributes(trees: list[dict[str, Any]], *, weight: float) -> dict[str, Any]:
    """Trees of LightGBM's dump as the attributes of ONNX' TreeEnsembleRegressor; a leaf's value times `weight`."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "nodes_treeids nodes_nodeids nodes_featureids nodes_values nodes_modes nodes_truenodeids "
            "nodes_falsenodeids nodes_missing_value_tracks_true target_treeids target_nodeids target_ids target_weights"
        ).split()
    }

    def add(tree: int, node: dict[str, Any], number: int) -> int:
        """Append a node and all below it, numbered from `number` on; returns the next free number."""
        is_leaf = "leaf_value" in node
        place = len(columns["nodes_nodeids"])
        columns["nodes_treeids"].append(tree)
        columns["nodes_nodeids"].append(number)
        columns["nodes_featureids"].append(0 if is_leaf else node["split_feature"])
        columns["nodes_values"].append(0.0 if is_leaf else _float32_not_above(node["threshold"]))
        columns["nodes_modes"].append("LEAF" if is_leaf else "BRANCH_LEQ")
        columns["nodes_missing_value_tracks_true"].append(0 if is_leaf else int(_missing_goes_left(node)))
        columns["nodes_truenodeids"].append(0)
        columns["nodes_falsenodeids"].append(0)
        if is_leaf:
            for name, value in (
                ("target_treeids", tree),
                ("target_nodeids", number),
                ("target_ids", 0),
                ("target_weights", float(node["leaf_value"]) * weight),
            ):
                columns[name].append(value)
            return number + 1
        following = number + 1
        for side, child in (("nodes_truenodeids", "left_child"), ("nodes_falsenodeids", "right_child")):
            columns[side][place] = following
            following = add(tree, node[child], following)
        return following

    for tree, root in enumerate(trees):
        add(tree, root, 0)
    return columns


def _missing_goes_left(node: dict[str, Any]) -> bool:
    """Where LightGBM sends a NaN: a node that met none in training takes it for 0."""
    return bool(node["default_left"] if node["missing_type"] != "None" else node["threshold"] >= 0.0)


def _float32_not_above(threshold: float) -> float:
    """The largest float32 that is at most the threshold: for float32 features `x <= threshold` stays the same test."""
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf)))
