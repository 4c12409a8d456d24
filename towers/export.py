"""From trained towers to files: ONNX with the feature spec's hash inside, weights as safetensors.

Owns names and dynamic axes of the ONNX inputs; serving/models.py and triton_models/ use the same names.
"""

import logging
from pathlib import Path

import onnx
import torch
from safetensors.torch import save_file
from torch import nn

from features.tower_inputs import QueryTowerInputs
from towers.model import TwoTower
from towers.query_towers.protocol import QueryTower
from towers.text_encoder import SentenceEncoder

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "towers.safetensors"


def export_onnx(
    module: nn.Module,
    arguments: dict[str, torch.Tensor],
    *,
    output_name: str,
    path: Path,
    spec_hash: str,
    dynamic_axes: dict[str, tuple[int, ...]] | None = None,
    facts: dict[str, str] | None = None,
) -> None:
    """Write a module as ONNX; the first axis of every input is dynamic, others are by `dynamic_axes`.

    Args:
        module: called with the values of `arguments` in order.
        arguments: example inputs by name; at least 2 rows each, or the exporter takes the 1 for a constant.
        output_name: of its single output.
        path: file to write.
        spec_hash: written into the metadata as `spec_hash`.
        dynamic_axes: further dynamic axes of an input.
        facts: further metadata.
    """
    extra = dynamic_axes or {}
    shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in {0, *extra.get(name, ())}} for name in arguments)
    module = _Called(module)
    program = torch.onnx.export(
        module.eval(),
        tuple(arguments.values()),
        input_names=list(arguments),
        output_names=[output_name],
        dynamic_shapes=(shapes,),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError(f"the ONNX exporter gave nothing for {path.name}")
    model = program.model_proto
    onnx.helper.set_model_props(model, {"spec_hash": spec_hash, **(facts or {})})
    path.write_bytes(model.SerializeToString())
    logger.info("%s: %.1f kB", path, path.stat().st_size / 1000)


def export_towers(
    model: TwoTower,
    directory: Path,
    *,
    history_length: int,
    spec_hash: str,
    sentence_encoder: SentenceEncoder | None = None,
    query_tokens: int = 0,
) -> None:
    """Write query_tower.onnx, item_tower.onnx and towers.safetensors.

    Args:
        model: trained.
        directory: exists.
        history_length: L.
        spec_hash: written into both.
        sentence_encoder: goes into the query tower's file, whose input are then a text's tokens; None where queries
            have no text.
        query_tokens: tokens of a query's text.
    """
    model = model.cpu().eval()
    rows = torch.arange(2, 4)
    items = model.item_table(rows)
    width = model.embed_items(rows).shape[1]
    context = model.query_tower.context
    examples = QueryTowerInputs(
        history_embeddings=torch.randn(2, history_length, width),
        history_mask=torch.ones(2, history_length, dtype=torch.bool),
        history_events=torch.ones(2, history_length, dtype=torch.int64),
        history_values=torch.zeros(2, history_length),
        history_gap_days=torch.zeros(2, history_length),
        query_categories=torch.ones(2, len(context.categories.tables), dtype=torch.int64),
        query_numbers=torch.zeros(2, context.numbers.in_features if context.numbers is not None else 0),
        query_text=torch.ones(2, query_tokens, dtype=torch.int64),
    ).by_name
    if sentence_encoder is None:
        del examples["query_text"]
    export_onnx(
        _ServedQueryTower(model.query_tower, sentence_encoder),
        examples,
        output_name="query_embedding",
        path=directory / "query_tower.onnx",
        spec_hash=spec_hash,
    )
    # Triton has no tensors without a batch axis: an item's id comes as [N, 1].
    export_onnx(
        _ItemTowerWithIdColumn(model.item_tower),
        dict(
            zip(
                ("item_id", "categories", "numbers", "text_embedding"), (items[0].unsqueeze(1), *items[1:]), strict=True
            )
        ),
        output_name="item_embedding",
        path=directory / "item_tower.onnx",
        spec_hash=spec_hash,
    )
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / WEIGHTS_FILE)


def export_text_encoder(encoder: SentenceEncoder, path: Path, *, max_tokens: int, spec_hash: str) -> None:
    """Write what embeds items' texts, for items that come while a release is served: tokens [N, S] -> [N, E].

    Args:
        encoder: that the item tower was trained with.
        path: file to write.
        max_tokens: that it reads of a text, its own two among them; written into the metadata as `max_tokens`.
        spec_hash: likewise.
    """
    export_onnx(
        encoder,
        {"tokens": torch.full((2, 3), encoder.sep)},
        output_name="text_embedding",
        path=path,
        spec_hash=spec_hash,
        dynamic_axes={"tokens": (1,)},
        facts={"max_tokens": str(max_tokens)},
    )


class _Called(nn.Module):
    """A module that is called with any number of arguments, whose shapes the exporter wants told in one way."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.module(*arguments)
        return output


class _ServedQueryTower(nn.Module):
    """The query tower as it is served: what a query says comes as tokens, and not at all where queries have no text."""

    def __init__(self, tower: QueryTower, sentence_encoder: SentenceEncoder | None) -> None:
        super().__init__()
        self.tower = tower
        self.sentence_encoder = sentence_encoder

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        """The fields of QueryTowerInputs in their order -> [N, D], or [N, D + E] with the text's own embedding."""
        if self.sentence_encoder is None:
            arrays = (*arrays, arrays[-1][:, :0])  # a text embedding of no width
            return self.tower(QueryTowerInputs(*arrays))
        text = self.sentence_encoder(arrays[-1])
        arrays = (*arrays[:-1], text)
        return torch.cat([self.tower(QueryTowerInputs(*arrays)), text], dim=1)


class _ItemTowerWithIdColumn(nn.Module):
    def __init__(self, item_tower: nn.Module) -> None:
        super().__init__()
        self.item_tower = item_tower

    def forward(
        self, item_id: torch.Tensor, categories: torch.Tensor, numbers: torch.Tensor, text_embedding: torch.Tensor
    ) -> torch.Tensor:
        embedding: torch.Tensor = self.item_tower(item_id[:, 0], categories, numbers, text_embedding)
        return embedding
