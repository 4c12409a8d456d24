"""A pretrained sentence encoder, and embeddings of texts kept on disk by content.

Owns loading from a local checkpoint and the cache. Which text an item has is features.text' business.
"""

import hashlib
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

logger = logging.getLogger(__name__)

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

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [len(texts), E]; an empty text is all zeros."""
        directory = checkpoint_directory(self.checkpoint)
        cached = self._cache_path(texts, directory)
        if cached is not None and cached.is_file():
            stored: NDArray[np.float32] = np.load(cached, allow_pickle=False)
            logger.info("text embeddings of %d texts read from %s", len(texts), cached)
            return stored
        embeddings = self._embed(texts, directory)
        if cached is not None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(".partial.npy")
            np.save(partial, embeddings, allow_pickle=False)
            partial.replace(cached)
        return embeddings

    def _cache_path(self, texts: Sequence[str], directory: Path) -> Path | None:
        if self.cache_dir is None:
            return None
        digest = hashlib.sha256(str(self.max_tokens).encode())
        # All of the weights: a fine-tuned checkpoint has the configuration and the size of the one it came from.
        for file in sorted(path for path in directory.iterdir() if path.suffix in CHECKPOINT_SUFFIXES):
            with file.open("rb") as content:
                digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
        for text in texts:
            digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
        return self.cache_dir / f"{digest.hexdigest()[:32]}.npy"

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str], directory: Path) -> NDArray[np.float32]:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        model = AutoModel.from_pretrained(directory, local_files_only=True).eval()
        embeddings = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.float32)
        order = sorted((place for place, text in enumerate(texts) if text), key=lambda place: len(texts[place]))
        for start in tqdm(range(0, len(order), self.batch_size), desc="text embeddings", unit="batch"):
            places = order[start : start + self.batch_size]
            batch = tokenizer(
                [texts[place][: 16 * self.max_tokens] for place in places],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            states = model(**batch).last_hidden_state  # [b, S, E]
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
            embeddings[places] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return embeddings
