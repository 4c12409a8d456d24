"""A ClsEncoder as an ONNX graph over rows without padding, written operator by operator.

Owns the graph. torch.onnx.export takes 20 s for a MiniLM, as long as scoring some thousand pairs; this takes well under
a second, and leaves out the mask, which no row here needs.
"""

# Shapes: P rows of S tokens each, A heads, E width of a head, H = A * E.

from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ranking.model import BertLayer, ClsEncoder

INPUTS = ("tokens", "positions", "segments")  # [P, S] each
OPSET, IR_VERSION = 20, 10  # the first opset with Gelu


def packed_graph(encoder: ClsEncoder) -> bytes:
    """The serialised model: INPUTS -> "cls" [P, H]."""
    return _Graph().of(encoder)


class _Graph:
    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []

    def of(self, encoder: ClsEncoder) -> bytes:
        tables = (encoder.words, encoder.positions, encoder.segments)
        words, positions, segments = (
            self._node("Gather", self._weight(table.weight), name) for table, name in zip(tables, INPUTS, strict=True)
        )
        sums = self._node("Add", self._node("Add", words, positions), segments)
        states = self._norm(sums, encoder.embedding_norm)
        layers = [cast(BertLayer, layer) for layer in encoder.layers]
        for layer in layers[:-1]:
            states = self._layer(layer, states, states)
        first = self._node("Slice", states, *(self._numbers([number]) for number in (0, 1, 1)))  # from, to, axis
        cls = self._layer(layers[-1], first, states)
        self._nodes.append(helper.make_node("Squeeze", [cls, self._numbers([1])], ["cls"]))
        graph = helper.make_graph(
            self._nodes,
            "packed",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["P", "S"]) for name in INPUTS],
            [helper.make_tensor_value_info("cls", TensorProto.FLOAT, ["P", encoder.sizes.width])],
            self._weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return cast(bytes, model.SerializeToString())

    def _layer(self, layer: BertLayer, queries: str, states: str) -> str:
        """[P, Q, H] positions to compute, [P, S, H] positions to read -> [P, Q, H]."""
        each = layer.query.out_features // layer.num_heads
        query = self._heads(self._linear(queries, layer.query, scale=each**-0.5), layer, order=(0, 2, 1, 3))
        key = self._heads(self._linear(states, layer.key), layer, order=(0, 2, 3, 1))  # [P, A, E, S]
        value = self._heads(self._linear(states, layer.value), layer, order=(0, 2, 1, 3))
        share = self._node("Softmax", self._node("MatMul", query, key), axis=-1)  # [P, A, Q, S]
        attended = self._node("Transpose", self._node("MatMul", share, value), perm=(0, 2, 1, 3))
        attended = self._node("Reshape", attended, self._numbers([0, 0, layer.query.out_features]))
        attended = self._linear(attended, layer.attention_out)
        queries = self._norm(self._node("Add", queries, attended), layer.attention_norm)
        hidden = self._linear(self._node("Gelu", self._linear(queries, layer.intermediate)), layer.output)
        return self._norm(self._node("Add", queries, hidden), layer.output_norm)

    def _heads(self, states: str, layer: BertLayer, *, order: tuple[int, ...]) -> str:
        """[P, S, H] -> [P, S, A, E], its axes in another order."""
        shape = self._numbers([0, 0, layer.num_heads, layer.query.out_features // layer.num_heads])
        return self._node("Transpose", self._node("Reshape", states, shape), perm=order)

    def _linear(self, states: str, linear: nn.Linear, *, scale: float = 1.0) -> str:
        product = self._node("MatMul", states, self._weight(linear.weight.T * scale))
        return self._node("Add", product, self._weight(linear.bias * scale))

    def _norm(self, states: str, norm: nn.Module) -> str:
        norm = cast(nn.LayerNorm, norm)
        weights = self._weight(norm.weight), self._weight(norm.bias)
        return self._node("LayerNormalization", states, *weights, axis=-1, epsilon=norm.eps)

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"node_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def _weight(self, tensor: Tensor) -> str:
        return self._constant(tensor.detach().cpu().float().numpy())

    def _numbers(self, numbers: list[int]) -> str:
        return self._constant(np.array(numbers, dtype=np.int64))

    def _constant(self, array: NDArray[np.float32] | NDArray[np.int64]) -> str:
        name = f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
