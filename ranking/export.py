"""A trained ranker as files: ONNX for serving, safetensors and sizes for training to come back to.

Owns the names of the ranker's ONNX inputs and output, which serving/models.py and triton_models/ranker/ share.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import load_file, save_file

from ranking.model import ClsEncoder, EncoderSizes, Ranker

logger = logging.getLogger(__name__)

WEIGHTS_FILE, SIZES_FILE = "ranker.safetensors", "ranker.json"


def save_ranker(model: Ranker, directory: Path, *, spec_hash: str) -> None:
    """Write weights, then sizes: a directory that holds the sizes is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    encoder = model.encoder
    sizes = {
        "spec_hash": spec_hash,
        "encoder": None if encoder is None else asdict(encoder.sizes),
        "pad_token": None if encoder is None else encoder.pad_token,
        "num_dense": len(model.dense_mean),
        "hidden": model.dense_hidden[0].out_features,
        "segments": model.segments.tolist(),
    }
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / WEIGHTS_FILE)
    (directory / SIZES_FILE).write_text(json.dumps(sizes, indent=2))


def load_ranker(directory: Path) -> Ranker:
    """Read what `save_ranker` wrote, ready to score."""
    if not (directory / SIZES_FILE).is_file():
        raise FileNotFoundError(f"no ranker in {directory}: run scripts/train_ranker.py")
    sizes = json.loads((directory / SIZES_FILE).read_text())
    encoder = None
    if sizes["encoder"] is not None:
        encoder = ClsEncoder(sizes=EncoderSizes(**sizes["encoder"]), pad_token=sizes["pad_token"], dropout=0.0)
    model = Ranker(
        encoder=encoder,
        num_dense=sizes["num_dense"],
        segments=np.array(sizes["segments"], dtype=np.int64),
        hidden=sizes["hidden"],
        dropout=0.0,
    )
    model.load_state_dict(load_file(directory / WEIGHTS_FILE))
    return model.eval()


def export_ranker(model: Ranker, path: Path, *, spec_hash: str) -> None:
    """Write tokens [B, C, S], dense [B, C, F] -> scores [B, C] as ONNX; B and C are dynamic."""
    length, num_dense = len(model.segments), len(model.dense_mean)
    arguments = {"tokens": torch.ones(2, 3, length, dtype=torch.int64), "dense": torch.zeros(2, 3, num_dense)}
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        model.eval(),
        tuple(arguments.values()),
        input_names=list(arguments),
        output_names=["scores"],
        dynamic_shapes=(dynamic, dynamic),
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
