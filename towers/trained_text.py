"""A sentence encoder that is trained with the towers, by its last layers or whole.

Owns which of its weights learn, the states that the frozen layers below them give (made once for each text), and how
the text embeddings of the item table learn: to encode a catalogue anew in every step would cost more than all else
together. So a step reads the table as it stands. What comes back of the step's loss is the gradient of each row's
embedding, whatever the row was (target, negative, part of a history) and whatever the loss; the rows with the largest
are encoded anew, their gradient goes on into the encoder, and their embeddings go back into the table. The others'
gradient is let go. All rows are encoded anew before each epoch and each validation.

Which text an item or a query has is features' business.

Shapes: N texts, S tokens without special ones, R rows of the item table, E embedding width.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from towers.errors import UnfitPieces
from towers.model import ItemTable
from towers.state_file import StateFile
from towers.text_encoder import (
    CHECKPOINT_SUFFIXES,
    SentenceEncoder,
    batches_by_length,
    checkpoint_directory,
    embed_distinct,
)

logger = logging.getLogger(__name__)

TEXT_ENCODER_DIR = "text_encoder"
TEXTS_AT_A_TIME = 64  # whose activations are held at once


@dataclass(frozen=True)
class TextTraining:
    """How the sentence encoder is trained with the towers.

    Attributes:
        trainable_layers: last layers that learn; None: all of them, and the embeddings of tokens.
        learning_rate: of the encoder, far below that of towers which begin from nothing.
        items_per_step: rows of the item table whose gradient goes on into the encoder.
    """

    trainable_layers: int | None
    learning_rate: float
    items_per_step: int

    def check(self, encoder: str) -> None:
        """Refuse what the checkpoint cannot do, before it is loaded.

        Raises:
            UnfitPieces: it has fewer layers, or none would learn.
        """
        config = json.loads((checkpoint_directory(encoder) / "config.json").read_text(encoding="utf-8"))
        layers = int(config["num_hidden_layers"])
        if self.trainable_layers is not None and not 1 <= self.trainable_layers <= layers:
            raise UnfitPieces(
                f"text.trainable_layers must lie between 1 and {layers}, the layers of {encoder}; got "
                f"{self.trainable_layers}: set text=full to train all of it, or text=precomputed to train none"
            )
        if self.items_per_step < 1:
            raise UnfitPieces(
                f"text.items_per_step must be at least 1; got {self.items_per_step}: set text=precomputed to train no "
                "encoder"
            )


class QueryTokens:
    """Query texts for batches as they are: an encoder that changes embeds them in the step."""

    def __init__(self, sentences: SentenceEncoder) -> None:
        self.tokenizer = sentences.tokenizer

    def embed(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens [N, S]."""
        return tokens


class TrainedText(nn.Module):
    """Embeddings of texts by an encoder of which some weights learn, and the item table's by it.

    Without dropout: the states of the frozen layers are made once, and training must resume to the bit.

    Args:
        sentences: the encoder, whose trained weights change in place.
        item_texts: [R, S] tokens of the item table.
        settings: what learns.
        directory: has room for the states of the frozen layers.

    Raises:
        UnfitPieces: the encoder's layers are not where BERT's are.
    """

    def __init__(
        self, sentences: SentenceEncoder, *, item_texts: NDArray[np.int64], settings: TextTraining, directory: Path
    ) -> None:
        super().__init__()
        self.sentences = sentences
        self.settings = settings
        bert: Any = sentences.encoder
        if not isinstance(getattr(getattr(bert, "encoder", None), "layer", None), nn.ModuleList):
            raise UnfitPieces(
                f"only encoders with the layers of BERT can be trained; got {type(bert).__name__}: set "
                "text=precomputed, or features.encoder.checkpoint to one"
            )
        self._tokens = torch.from_numpy(item_texts)  # on the host, as keys of the states below
        self._has_text = (self._tokens != sentences.pad).any(dim=1)
        layers = len(bert.encoder.layer)
        self._num_lower = None if settings.trainable_layers is None else layers - settings.trainable_layers
        learns: list[nn.Module] = [bert.embeddings, bert.encoder]
        self._states = None
        if self._num_lower is not None:
            learns = list(bert.encoder.layer[self._num_lower :])
            self._states = StateFile(directory, width=bert.config.hidden_size)
        self.trained = [parameter.requires_grad_() for module in learns for parameter in module.parameters()]
        for module in bert.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.train()  # as the towers: without dropout it is all one
        self._is_stale = True
        self.register_load_state_dict_post_hook(_mark_stale)  # type: ignore[no-untyped-call]
        logger.info("%d weights of the text encoder learn", sum(parameter.numel() for parameter in self.trained))

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, S] right-padded, without special tokens -> [N, E]; a row of padding is all zeros."""
        parts = torch.split(tokens.cpu(), TEXTS_AT_A_TIME)
        if len(parts) == 1:
            return self._encode(parts[0])
        encoded = [checkpoint(self._encode, part, use_reentrant=False) for part in parts]
        return torch.cat([part for part in encoded if part is not None])

    def prepare(self, tokens: NDArray[np.int64]) -> None:
        """Make what the frozen layers give for texts [N, S] that training will meet.

        Their last bits depend on the texts beside them. Made when a step meets them, a training that was killed would
        not go on as it would have.
        """
        if self._states is None:
            return
        distinct = np.unique(tokens, axis=0)
        for _, batch in tqdm(batches_by_length(distinct, pad=self.sentences.pad), desc="text states", unit="batch"):
            self._padded_states(self._states, batch)

    def mark_stale(self) -> None:
        """The encoder has changed, and the item table has not."""
        self._is_stale = True

    def refresh(self, table: ItemTable) -> None:
        """Encode all texts of the item table, if the encoder has changed since."""
        if self._is_stale:
            embeddings = embed_distinct(
                self._encode, self._tokens.numpy(), pad=self.sentences.pad, describe="item text embeddings"
            )
            with torch.no_grad():
                table.text_embedding.copy_(torch.from_numpy(embeddings))
            self._is_stale = False

    @contextmanager
    def learning(self, table: ItemTable) -> Iterator[None]:
        """What is computed with the item table meanwhile teaches the encoder when its gradient comes back."""
        embeddings = table.text_embedding
        if not self._has_text.any():
            yield
            return
        table.text_embedding = _LearnedByTheLargest.apply(  # type: ignore[no-untyped-call]
            embeddings, self, *self.trained
        )
        try:
            yield
        finally:
            table.text_embedding = embeddings
            self.mark_stale()

    def gradients(self, embeddings: Tensor, gradient: Tensor) -> list[Tensor]:
        """Gradients of the trained weights from those of the item table's text embeddings; see the module.

        Args:
            embeddings: [R, E] of the item table; rows that are encoded anew are written into it.
            gradient: [R, E].
        """
        has_text = self._has_text.to(gradient.device)
        norms = gradient.norm(dim=1).masked_fill(~has_text, 0.0)
        rows = norms.topk(min(self.settings.items_per_step, int(self._has_text.sum()))).indices
        totals = [torch.zeros_like(parameter) for parameter in self.trained]
        for part in torch.split(rows, TEXTS_AT_A_TIME):
            with torch.enable_grad():
                fresh = self._encode(self._tokens[part.cpu()])
                found = torch.autograd.grad(fresh, self.trained, gradient[part])
            for total, own in zip(totals, found, strict=True):
                total += own
            with torch.no_grad():
                embeddings[part] = fresh
        return totals

    def save(self, directory: Path, *, encoder: str) -> None:
        """Write a checkpoint in Hugging Face format.

        Args:
            directory: to make.
            encoder: checkpoint that training began from; its tokenizer goes along.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for file in checkpoint_directory(encoder).iterdir():
            if file.suffix in CHECKPOINT_SUFFIXES - {".safetensors", ".bin"}:
                shutil.copyfile(file, directory / file.name)
        model: Any = self.sentences.encoder
        model.save_pretrained(directory)

    def _encode(self, tokens: Tensor) -> Tensor:
        """[N, S] on the host -> [N, E]."""
        longest = int((tokens != self.sentences.pad).sum(dim=1).max())
        tokens = tokens[:, : max(longest, 1)].contiguous()
        if self._states is None:
            embeddings: Tensor = self.sentences(tokens.to(self._device))
            return embeddings
        states, mask = self._padded_states(self._states, tokens)
        return self.sentences.pooled(self._through(states, mask, upper=True), mask)

    def _padded_states(self, kept: StateFile, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the frozen layers give for [N, S]: states [N, S + 2, E] and their mask [N, S + 2]."""
        ids, mask = self.sentences.with_special_tokens(tokens)
        lengths = mask.sum(dim=1).tolist()
        keys = [row[:length].numpy().tobytes() for row, length in zip(ids, lengths, strict=True)]
        self._add_missing(kept, keys, ids, mask)
        states = torch.zeros((*ids.shape, kept.width))
        for place, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            states[place, :length] = torch.from_numpy(kept[key])
        return states.to(self._device), mask.to(self._device)

    @torch.no_grad()
    def _add_missing(self, kept: StateFile, keys: list[bytes], ids: Tensor, mask: Tensor) -> None:
        """Make the states of the texts that are met for the first time."""
        first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in kept}
        if not first:
            return
        places = torch.tensor(sorted(first.values()))
        bert: Any = self.sentences.encoder
        mask = mask[places].to(self._device)
        states = bert.embeddings(input_ids=ids[places].to(self._device))  # [n, S + 2, E]
        made = self._through(states, mask, upper=False).cpu().numpy()
        for row, place in enumerate(places.tolist()):
            kept.add(keys[place], made[row, : int(mask[row].sum())])

    def _through(self, states: Tensor, mask: Tensor, *, upper: bool) -> Tensor:
        """States [N, S + 2, E] after the layers below those that learn, or after these."""
        bert: Any = self.sentences.encoder
        layers = bert.encoder.layer
        refused = (1.0 - mask[:, None, None, :].to(states.dtype)) * torch.finfo(states.dtype).min
        for layer in layers[self._num_lower :] if upper else layers[: self._num_lower]:
            states = layer(states, refused)
        return states

    @property
    def _device(self) -> torch.device:
        return self.trained[0].device


def _mark_stale(text: TrainedText, _: object) -> None:
    text.mark_stale()


class _LearnedByTheLargest(torch.autograd.Function):
    """The item table's text embeddings as they stand; what comes back trains the encoder."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, text: TrainedText, *trained: Tensor) -> Tensor:
        ctx.embeddings, ctx.text = embeddings, text
        return embeddings.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, *ctx.text.gradients(ctx.embeddings, gradients[0])
