"""A checkpoint of BERT's with random weights, small enough for a test."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("toy", "story", "sea", "a", "##s")


def write_checkpoint(directory: Path, *, seed: int, layers: int = 1, words: Sequence[str] = WORDS) -> Path:
    """A BERT of these words, eight wide."""
    vocabulary = (*SPECIAL, *words)
    directory.mkdir()
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        initializer_range=0.5,  # far from 0, so that a layer left out is seen
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(directory / "vocab.txt")).save_pretrained(directory)
    return directory
