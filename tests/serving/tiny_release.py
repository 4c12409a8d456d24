"""Builds a release with random weights, in milliseconds and without torch.

Owns nothing that a real release does not have: only its towers and ranker are single layers.
"""

# Shapes as in features/transforms.py; D embedding width, E width of the text embedding, V rows of a table.

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers

from features.catalogue import Catalogue, ItemColumns
from features.columns import FeatureColumns
from features.pairs import ranker_feature_names
from features.spec import FeatureSpec, TextLayout
from features.statistics import STATISTICS, ItemStatistics
from features.text import TextTokenizer
from features.transforms import ItemInputs, item_inputs
from features.vocab import EVENT, FIRST, ITEM_ID, NumberScale, Vocabularies, Vocabulary
from ranking.runtime.calibration import Calibration
from serving.item_embedder import MAX_TOKENS, TEXT_ENCODER_FILE
from serving.release import CALIBRATION_FILE, POPULAR_FILE, TITLES_FILE, seal
from serving.retrieval import (
    CONTENT_SUFFIX,
    INDEX_FILE,
    ITEM_ARRAYS,
    NEIGHBOUR_WEIGHTS,
    RETRIEVERS,
    SCORES,
    write_index,
    write_tables,
)
from towers.index.build import FlatBuilder
from towers.retrievers.blend import Blend
from towers.retrievers.content import ContentFeatures, ContentMap, ItemContent
from towers.retrievers.fusion import Fusion
from towers.retrievers.neighbours import NeighbourTable
from towers.retrievers.new_items import NewItems

NUM_ITEMS, D, E, L = 300, 8, 4, 3
PARTS = ("event", "value", "gap")  # that the query tower adds to an item's embedding
TABLE_ROWS = 8  # of every small embedding table; ids in this release stay below
COLUMNS = FeatureColumns(
    query_categories=("gender", "occupation"),
    query_numbers=("age",),
    item_categories=("genres",),
    item_numbers=("year",),
    item_texts=("title",),
    history_length=10,
)
# All items by the towers, so that every list is full; the others weigh something beside inner products of about 3.
FUSION = Fusion(
    weights=dict(zip(RETRIEVERS, (1.0, 0.5, 0.5, 0.5, 1.0, 1.0), strict=True)),
    quotas=dict(zip(RETRIEVERS, (NUM_ITEMS, 20, 20, 20, 20, 20), strict=True)),
)
BLEND = Blend(learned=0.9, bags=(0.4, -0.2, 0.3), popularity=(-0.5, 0.25, 0.5, 1.0))
CALIBRATION = Calibration(slope=float(np.log(4.0)), intercept=0.0)
TEXT = TextLayout(history_items=2, history_tokens=3, candidate_tokens=5)


def build_tiny_release(directory: Path, *, generator: np.random.Generator) -> None:
    """Write a sealed release into a directory that does not exist yet."""
    directory.mkdir(parents=True)
    item_ids = tuple(f"i{number}" for number in range(NUM_ITEMS))
    spec = COLUMNS.spec(
        text=TEXT,
        ranker_features=ranker_feature_names(
            retrievers=SCORES, item_categories=COLUMNS.item_categories, item_numbers=COLUMNS.item_numbers
        ),
    )
    embeddings = generator.normal(size=(NUM_ITEMS + FIRST, D)).astype(np.float32)
    _write_tables(directory, spec=spec, item_ids=item_ids, embeddings=embeddings, generator=generator)
    linear = generator.normal(size=(NUM_ITEMS + FIRST, L)).astype(np.float32)
    statistics = np.load(directory / "arrays" / "statistics.npy")
    blended = BLEND.item_embeddings(embeddings, linear, embeddings[:, :0], statistics[-1])
    write_index(
        directory / INDEX_FILE,
        index=FlatBuilder().build(blended[FIRST:], np.arange(FIRST, NUM_ITEMS + FIRST)),
        linear_embeddings=linear,
        blend=BLEND,
        new_items=NewItems.none(),
        fusion=FUSION,
    )
    (directory / POPULAR_FILE).write_text(json.dumps(item_ids[:50]))
    (directory / TITLES_FILE).write_text(json.dumps({item_id: f"Film {item_id}" for item_id in item_ids}))
    CALIBRATION.write(directory / CALIBRATION_FILE)
    _Models(directory, generator=generator).write(num_dense=len(spec.names("ranker", "number")))
    _content_map(directory, np.concatenate([embeddings, linear], axis=1), generator=generator).write(
        (directory / INDEX_FILE).with_suffix(CONTENT_SUFFIX)
    )
    seal(directory, facts={"spec_hash": spec.hash})


def _content_map(
    directory: Path, embeddings: np.ndarray[tuple[int, int], np.dtype[np.float32]], *, generator: np.random.Generator
) -> ContentMap:
    items = ItemInputs(**{name: np.load(directory / "arrays" / f"{name}.npy") for name in ITEM_ARRAYS})
    texts = generator.normal(size=(len(embeddings), E)).astype(np.float32)
    table, known = ItemContent.of(items, texts=texts), np.arange(FIRST, len(embeddings))
    features = ContentFeatures.fit(table.take(known))
    return ContentMap.fit(features, table=table, known=known, weights=np.ones(len(known)), embeddings=embeddings[known])


def _write_tables(
    directory: Path,
    *,
    spec: FeatureSpec,
    item_ids: tuple[str, ...],
    embeddings: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    generator: np.random.Generator,
) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "film": 4}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer_json = directory.with_name("tokenizer.json")
    tokenizer.save(str(tokenizer_json))
    vocabularies = Vocabularies(
        categories={
            "gender": Vocabulary(("F", "M")),
            "occupation": Vocabulary(("artist", "lawyer")),
            ITEM_ID: Vocabulary(item_ids),
            EVENT: Vocabulary(("rating",)),
            "genres": Vocabulary(("Drama", "Comedy")),
        },
        numbers={"age": NumberScale(30.0, 10.0), "year": NumberScale(1980.0, 10.0)},
    )
    columns = ItemColumns(
        catalogue=Catalogue(item_ids=item_ids),
        categories={"genres": [["Drama"] if number % 2 else ["Comedy", "Drama"] for number in range(NUM_ITEMS)]},
        numbers={"year": generator.normal(1980.0, 10.0, NUM_ITEMS)},
        texts={"title": [f"film {item_id}" for item_id in item_ids]},
    )
    statistics = np.abs(generator.normal(size=(2, NUM_ITEMS + FIRST, len(STATISTICS)))).astype(np.float32)
    write_tables(
        directory,
        spec=spec,
        vocabularies=vocabularies,
        catalogue=columns.catalogue,
        items=item_inputs(columns, spec=spec, vocabularies=vocabularies, tokenizer=TextTokenizer(tokenizer_json)),
        item_embeddings=embeddings,
        recommendable=np.arange(NUM_ITEMS + FIRST) >= FIRST,
        statistics=ItemStatistics(ticks_at_ms=np.array([0, 86_400_000]), values=statistics),
        neighbours={name: _neighbours(generator) for name in NEIGHBOUR_WEIGHTS},
        tokenizer_json=tokenizer_json,
    )


def _neighbours(generator: np.random.Generator) -> NeighbourTable:
    pairs = generator.choice(NUM_ITEMS**2, 1500, replace=False)
    return NeighbourTable.from_pairs(
        source_rows=pairs // NUM_ITEMS + FIRST,
        target_rows=pairs % NUM_ITEMS + FIRST,
        values=generator.normal(size=1500),
        num_rows=NUM_ITEMS + FIRST,
        num_neighbours=20,
    )


class _Models:
    """The ONNX files: sums of embeddings and linear layers."""

    def __init__(self, directory: Path, *, generator: np.random.Generator) -> None:
        self._directory = directory
        self._generator = generator

    def write(self, *, num_dense: int) -> None:
        node, real, whole = helper.make_node, TensorProto.FLOAT, TensorProto.INT64
        self._save(
            "query_tower.onnx",
            inputs={
                "history_embeddings": (real, ["N", "L", D]),
                "history_mask": (TensorProto.BOOL, ["N", "L"]),
                "history_events": (whole, ["N", "L"]),
                "history_values": (real, ["N", "L"]),
                "history_gap_days": (real, ["N", "L"]),
                "query_categories": (whole, ["N", len(COLUMNS.query_categories)]),
                "query_numbers": (real, ["N", len(COLUMNS.query_numbers)]),
            },
            output=("query_embedding", ["N", D]),
            nodes=[
                node("Cast", ["history_mask"], ["mask"], to=real),
                node("Unsqueeze", ["mask", "axis_1"], ["mask_row"]),
                node("Gather", ["event_table", "history_events"], ["event_embeddings"]),
                node("Unsqueeze", ["history_values", "axis_2"], ["value_column"]),
                node("MatMul", ["value_column", "value_weights"], ["value_embeddings"]),
                node("Unsqueeze", ["history_gap_days", "axis_2"], ["gap_column"]),
                node("MatMul", ["gap_column", "gap_weights"], ["gap_embeddings"]),
                node("Sum", ["history_embeddings", *(f"{name}_embeddings" for name in PARTS)], ["encoded"]),
                # By a product, for ReduceMean adds a batch of one up in another order than a larger batch.
                node("MatMul", ["mask_row", "encoded"], ["history_row"]),
                node("Squeeze", ["history_row", "axis_1"], ["history"]),
                node("Gather", ["category_table", "query_categories"], ["category_embeddings"]),
                node("ReduceSum", ["category_embeddings", "axis_1"], ["categories"], keepdims=0),
                node("MatMul", ["query_numbers", "number_weights"], ["numbers"]),
                node("Sum", ["history", "categories", "numbers"], ["query_embedding"]),
            ],
            weights={
                "event_table": (TABLE_ROWS, D),
                "value_weights": (1, D),
                "gap_weights": (1, D),
                "category_table": (TABLE_ROWS, D),
                "number_weights": (len(COLUMNS.query_numbers), D),
            },
        )
        self._save(
            "item_tower.onnx",
            inputs={
                "item_id": (whole, ["N", 1]),
                "categories": (whole, ["N", len(COLUMNS.item_categories), COLUMNS.category_length]),
                "numbers": (real, ["N", len(COLUMNS.item_numbers)]),
                "text_embedding": (real, ["N", E]),
            },
            output=("item_embedding", ["N", D]),
            nodes=[
                node("Gather", ["id_table", "item_id"], ["id_embeddings"]),
                node("ReduceSum", ["id_embeddings", "axis_1"], ["id"], keepdims=0),
                node("Gather", ["category_table", "categories"], ["category_embeddings"]),
                node("ReduceSum", ["category_embeddings", "axes_1_2"], ["category"], keepdims=0),
                node("MatMul", ["numbers", "number_weights"], ["number"]),
                node("MatMul", ["text_embedding", "text_weights"], ["text"]),
                node("Sum", ["id", "category", "number", "text"], ["item_embedding"]),
            ],
            weights={
                "id_table": (NUM_ITEMS + FIRST, D),
                "category_table": (TABLE_ROWS, D),
                "number_weights": (len(COLUMNS.item_numbers), D),
                "text_weights": (E, D),
            },
        )
        self._save(
            "ranker.onnx",
            inputs={"tokens": (whole, ["N", "C", TEXT.length]), "dense": (real, ["N", "C", num_dense])},
            output=("scores", ["N", "C"]),
            nodes=[
                node("Gather", ["token_table", "tokens"], ["token_values"]),
                node("ReduceSum", ["token_values", "axes_2_3"], ["text"], keepdims=0),
                node("MatMul", ["dense", "dense_weights"], ["dense_column"]),
                node("Squeeze", ["dense_column", "axis_2"], ["dense_value"]),
                node("Add", ["text", "dense_value"], ["scores"]),
            ],
            weights={"token_table": (TABLE_ROWS, 1), "dense_weights": (num_dense, 1)},
        )

        self._save(
            TEXT_ENCODER_FILE,
            inputs={"tokens": (whole, ["N", "S"])},
            output=("text_embedding", ["N", E]),
            nodes=[
                node("Gather", ["text_table", "tokens"], ["token_embeddings"]),
                node("Sign", ["tokens"], ["is_token"]),  # [PAD] is 0
                node("Cast", ["is_token"], ["mask"], to=real),
                node("Unsqueeze", ["mask", "axis_2"], ["mask_column"]),
                node("Mul", ["token_embeddings", "mask_column"], ["masked"]),
                node("ReduceSum", ["masked", "axis_1"], ["text_embedding"], keepdims=0),
            ],
            weights={"text_table": (TABLE_ROWS, E)},
            facts={MAX_TOKENS: "6"},
        )

    def _save(
        self,
        file: str,
        *,
        inputs: dict[str, tuple[int, list[str | int]]],
        output: tuple[str, list[str | int]],
        nodes: list[NodeProto],
        weights: dict[str, tuple[int, int]],
        facts: dict[str, str] | None = None,
    ) -> None:
        axes = {"axis_1": [1], "axis_2": [2], "axes_1_2": [1, 2], "axes_2_3": [2, 3]}
        used = {name for node in nodes for name in node.input}
        initializer = [
            helper.make_tensor(name, TensorProto.INT64, [len(value)], value)
            for name, value in axes.items()
            if name in used
        ]
        for name, shape in weights.items():
            values = self._generator.normal(size=shape).astype(np.float32)
            initializer.append(onnx.numpy_helper.from_array(values, name))
        graph = helper.make_graph(
            nodes,
            file,
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
            initializer=initializer,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        helper.set_model_props(model, facts or {})
        onnx.checker.check_model(model)
        onnx.save(model, self._directory / file)
