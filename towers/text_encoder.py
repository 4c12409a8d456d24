"""A pretrained sentence encoder: embeddings of items' texts kept on disk by content, and of what queries say.

Owns loading from a local checkpoint. Which text an item has is features.text' business.

Shapes: N texts, S tokens without special ones, E embedding width.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from features.text import SENTENCE_EDGES, TextTokenizer
from towers.embedding_cache import EmbeddingCache

CACHE_FILE = "text_embeddings.sqlite"
PROGRESS = "text embeddings"
CHECKPOINT_SUFFIXES = {".json", ".txt", ".safetensors", ".bin"}  # configuration, vocabulary, weights


def checkpoint_directory(checkpoint: str) -> Path:
    """Directory of a checkpoint: a path, or `package:NAME` for a package that carries its model in `model/`."""
    if not checkpoint.startswith("package:"):
        return Path(checkpoint)
    package = checkpoint.removeprefix("package:")
    found = find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"the package {package!r} that carries the text encoder is missing: run `make setup`")
    return Path(found.origin).parent / "model"


class TextEncoder:
    """Mean-pooled, normalised sentence embeddings.

    Args:
        checkpoint: a Hugging Face directory, or `package:NAME`.
        cache_dir: where embeddings are kept; None keeps none.
        max_tokens: longer texts are cut.
        batch_size: texts a pass, sorted by length so that little is padding.
    """

    def __init__(
        self, *, checkpoint: str, cache_dir: Path | str | None, max_tokens: int = 48, batch_size: int = 64
    ) -> None:
        self.checkpoint = checkpoint
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.max_tokens = max_tokens
        self.batch_size = batch_size

    @property
    def tokenizer_json(self) -> Path:
        """Of the checkpoint."""
        return checkpoint_directory(self.checkpoint) / "tokenizer.json"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [len(texts), E]; a text without tokens is all zeros, and equal texts are embedded once."""
        directory = checkpoint_directory(self.checkpoint)
        width = int(json.loads((directory / "config.json").read_text(encoding="utf-8"))["hidden_size"])
        # Sorted by length, so that little of a batch is padding.
        distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
        if not distinct:
            return np.zeros((len(texts), width), dtype=np.float32)
        embedder = _Embedder(directory, max_tokens=self.max_tokens)

        def embed(places: Sequence[int]) -> NDArray[np.float32]:
            return embedder([distinct[place] for place in places])

        if self.cache_dir is None:
            parts = [
                embed(range(len(distinct))[start : start + self.batch_size])
                for start in tqdm(range(0, len(distinct), self.batch_size), desc=PROGRESS, unit="batch")
            ]
            embeddings = np.concatenate(parts)
        else:
            salt = self._salt(directory)
            keys = [hashlib.sha256(salt + text.encode("utf-8", "surrogatepass")).digest() for text in distinct]
            cache = EmbeddingCache(self.cache_dir / CACHE_FILE)
            embeddings = cache.fill(keys, embed, batch_size=self.batch_size, describe=PROGRESS)
        place_of = {text: place for place, text in enumerate(distinct, start=1)}
        with_empty = np.concatenate([np.zeros((1, width), dtype=np.float32), embeddings])
        return with_empty[[place_of.get(text, 0) for text in texts]]

    def _salt(self, directory: Path) -> bytes:
        """What an embedding depends on besides its text."""
        digest = hashlib.sha256(str(self.max_tokens).encode())
        # All of the weights: a fine-tuned checkpoint has the configuration and the size of the one it came from.
        for file in sorted(path for path in directory.iterdir() if path.suffix in CHECKPOINT_SUFFIXES):
            with file.open("rb") as content:
                digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
        return digest.digest()


class _Embedder:
    """Texts -> embeddings; the checkpoint is loaded when the first text comes."""

    def __init__(self, directory: Path, *, max_tokens: int) -> None:
        self._directory = directory
        self._max_tokens = max_tokens

    @cached_property
    def _loaded(self) -> tuple[Any, nn.Module]:
        tokenizer = AutoTokenizer.from_pretrained(self._directory, local_files_only=True)
        return tokenizer, AutoModel.from_pretrained(self._directory, local_files_only=True).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tokenizer, model = self._loaded
        batch = tokenizer(
            [text[: 16 * self._max_tokens] for text in texts],
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        states = model(**batch).last_hidden_state  # [b, S, E]
        mask = batch["attention_mask"].unsqueeze(-1)
        length = mask.sum(dim=1)
        pooled = (states * mask).sum(dim=1) / length
        # As SentenceEncoder, which serves: a text may be of nothing that has a token.
        embeddings: NDArray[np.float32] = (nn.functional.normalize(pooled, dim=1) * (length > SENTENCE_EDGES)).numpy()
        return embeddings


class SentenceEncoder(nn.Module):
    """Mean-pooled, normalised embeddings of token rows, as `features.transforms` makes them of queries' texts; frozen.

    Exported with the query tower, so that a text is embedded while serving as it was for training.

    Args:
        encoder: called with input_ids and attention_mask; gives `last_hidden_state`.
        tokenizer: makes the token rows.
    """

    def __init__(self, encoder: nn.Module, *, tokenizer: TextTokenizer) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.tokenizer = tokenizer
        self.pad, self.cls, self.sep = tokenizer.pad, tokenizer.cls, tokenizer.sep

    @classmethod
    def open(cls, checkpoint: str) -> "SentenceEncoder":
        """Load a checkpoint with its tokenizer's special tokens."""
        directory = checkpoint_directory(checkpoint)
        model = AutoModel.from_pretrained(directory, local_files_only=True)
        return cls(model.eval(), tokenizer=TextTokenizer(directory / "tokenizer.json"))

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, S] right-padded, without special tokens -> [N, E]; a row of padding is all zeros."""
        ids, mask = self.with_special_tokens(tokens)
        return self.pooled(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    def with_special_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[N, S] right-padded -> token ids as the encoder reads them and their mask, [N, S + 2] both."""
        count = (tokens != self.pad).sum(dim=1, keepdim=True)
        place = torch.arange(tokens.shape[1] + 2, device=tokens.device).unsqueeze(0)
        edge = torch.full_like(tokens[:, :1], self.pad)
        ids = torch.cat([torch.full_like(edge, self.cls), tokens, edge], dim=1)
        ids = torch.where(place == count + 1, self.sep, ids)
        return ids, (place <= count + 1).to(torch.int64)

    def pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """Last states [N, S + 2, E] and their mask [N, S + 2] -> [N, E]; a text without tokens is all zeros."""
        length = mask.sum(dim=1, keepdim=True)
        pooled = (states * mask.unsqueeze(-1)).sum(dim=1) / length
        embeddings: Tensor = nn.functional.normalize(pooled, dim=1) * (length > 2)
        return embeddings

    def embed(self, tokens: NDArray[np.int64], *, batch_size: int = 64) -> NDArray[np.float32]:
        """Embeddings [N, E] of token rows."""
        return embed_distinct(self, tokens, pad=self.pad, batch_size=batch_size, describe="query text embeddings")


@torch.inference_mode()
def embed_distinct(
    encode: Callable[[Tensor], Tensor],
    tokens: NDArray[np.int64],
    *,
    pad: int,
    describe: str,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Embeddings [N, E] of token rows, equal rows once.

    Args:
        encode: [n, S] -> [n, E].
        tokens: [N, S] right-padded.
        pad: the token of padding.
        describe: of the progress bar.
        batch_size: rows a pass.
    """
    distinct, places = np.unique(tokens, axis=0, return_inverse=True)
    batches = batches_by_length(distinct, pad=pad, batch_size=batch_size)
    made = [encode(batch).cpu().numpy() for _, batch in tqdm(batches, desc=describe, unit="batch")]
    embeddings = np.empty((len(distinct), made[0].shape[1]), dtype=np.float32)
    embeddings[np.concatenate([rows for rows, _ in batches])] = np.concatenate(made)
    return embeddings[places.reshape(-1)]


def batches_by_length(
    tokens: NDArray[np.int64], *, pad: int, batch_size: int = 64
) -> list[tuple[NDArray[np.int64], Tensor]]:
    """Which rows are together, and their tokens without the padding that all of them have."""
    lengths = (tokens != pad).sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    parts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    return [(rows, torch.from_numpy(tokens[rows, : max(1, int(lengths[rows[-1]]))])) for rows in parts]
