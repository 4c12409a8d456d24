"""A trained ranker as files: ONNX for serving, safetensors and sizes for training to come back to.

Owns the names of the ranker's ONNX inputs and output, which serving/models.py and triton_models/ranker/ share.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ranking.decomposed import DecomposedEncoder, DecomposedRanker, ItemReader, ServedDecomposedRanker
from ranking.model import ClsEncoder, EncoderSizes, Ranker

logger = logging.getLogger(__name__)

WEIGHTS_FILE, SIZES_FILE = "ranker.safetensors", "ranker.json"


def save_ranker(model: Ranker | DecomposedRanker, directory: Path, *, spec_hash: str) -> None:
    """Write weights, then sizes: a directory that holds the sizes is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    encoder = model.encoder
    sizes: dict[str, Any] = {
        "spec_hash": spec_hash,
        "num_dense": len(model.dense_mean),
        "hidden": model.dense_hidden[0].out_features,
        "encoder": None if encoder is None else asdict(encoder.sizes),
    }
    if isinstance(encoder, DecomposedEncoder):
        sizes["decomposed"] = {
            "num_joint_layers": len(encoder.joint),
            "width": encoder.width,
            "num_context_tokens": encoder.num_context_tokens,
            "pad_token": encoder.lower.pad_token,
        }
    elif isinstance(model, Ranker):
        sizes["cross"] = {
            "segments": model.segments.tolist(),
            "pad_token": None if encoder is None else encoder.pad_token,
            "embedding_width": model.embedding_width,
        }
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / WEIGHTS_FILE)
    (directory / SIZES_FILE).write_text(json.dumps(sizes, indent=2))


def load_ranker(directory: Path) -> Ranker | DecomposedRanker:
    """Read what `save_ranker` wrote, ready to score."""
    if not (directory / SIZES_FILE).is_file():
        raise FileNotFoundError(f"no ranker in {directory}: run scripts/train_ranker.py")
    sizes = json.loads((directory / SIZES_FILE).read_text())
    encoder_sizes = None if sizes["encoder"] is None else EncoderSizes(**sizes["encoder"])
    model: Ranker | DecomposedRanker
    if "decomposed" in sizes and encoder_sizes is not None:
        model = DecomposedRanker(
            encoder=DecomposedEncoder(sizes=encoder_sizes, dropout=0.0, **sizes["decomposed"]),
            num_dense=sizes["num_dense"],
            hidden=sizes["hidden"],
            dropout=0.0,
        )
    else:
        cross, encoder = sizes["cross"], None
        if encoder_sizes is not None:
            encoder = ClsEncoder(sizes=encoder_sizes, pad_token=cross["pad_token"], dropout=0.0)
        model = Ranker(
            encoder=encoder,
            num_dense=sizes["num_dense"],
            segments=np.array(cross["segments"], dtype=np.int64),
            hidden=sizes["hidden"],
            dropout=0.0,
            embedding_width=cross.get("embedding_width", 0),  # which files of before do not name
        )
    model.load_state_dict(load_file(directory / WEIGHTS_FILE))
    return model.eval()


def export_ranker(model: Ranker | DecomposedRanker, path: Path, *, spec_hash: str) -> None:
    """Write what is served as ONNX, scores [B, C]; B and C are dynamic.

    Inputs are tokens [B, C, S] of a cross-encoder, or context_tokens [B, Sc] and candidate_states [B, C, Si, W] of a
    decomposed one, and dense [B, C, F].

    Raises:
        ValueError: the ranker reads the towers' embeddings, which nobody hands to one that serves.
    """
    if isinstance(model, Ranker) and model.embedding_width:
        raise ValueError(
            f"{path.name}: this ranker reads the towers' embeddings, so it is a teacher and not served; export its "
            "student, or train it with ranker.teacher.reads_embeddings=false"
        )
    batch, candidates = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    dense = {"dense": torch.zeros(2, 3, len(model.dense_mean))}
    if isinstance(model, DecomposedRanker):
        encoder = model.encoder
        arguments = {
            "context_tokens": torch.ones(2, encoder.num_context_tokens, dtype=torch.int64),
            "candidate_states": torch.ones(2, 3, 5, encoder.width, dtype=torch.int8),
            **dense,
        }
        shapes = ({0: batch}, {0: batch, 1: candidates, 2: torch.export.Dim.DYNAMIC}, {0: batch, 1: candidates})
        _export(ServedDecomposedRanker(model), arguments, shapes, path, spec_hash=spec_hash)
    else:
        arguments = {"tokens": torch.ones(2, 3, len(model.segments), dtype=torch.int64), **dense}
        _export(model, arguments, ({0: batch, 1: candidates},) * 2, path, spec_hash=spec_hash)


def export_item_reader(encoder: DecomposedEncoder, path: Path, *, num_tokens: int, spec_hash: str) -> None:
    """Write what reads candidates beforehand, for items that come while a release is served.

    tokens [P, Si] -> int8 states [P, Si, W]; P is dynamic, Si is `num_tokens`. The scale of int8 has been fitted.
    """
    arguments = {"tokens": torch.ones(2, num_tokens, dtype=torch.int64)}
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    _export(ItemReader(encoder), arguments, shapes, path, spec_hash=spec_hash, output_name="states")


def _export(
    model: nn.Module,
    arguments: dict[str, Tensor],
    shapes: tuple[dict[int, Any], ...],
    path: Path,
    *,
    spec_hash: str,
    output_name: str = "scores",
) -> None:
    program = torch.onnx.export(
        model.eval(),
        tuple(arguments.values()),
        input_names=list(arguments),
        output_names=[output_name],
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError(f"the ONNX exporter gave nothing for {path.name}")
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"spec_hash": spec_hash})
    path.write_bytes(proto.SerializeToString())
    logger.info("%s: %.1f kB", path, path.stat().st_size / 1000)
