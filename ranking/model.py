"""The BERT ranker: an encoder over [CLS] history [SEP] candidate [SEP], joined by dense features.

Owns layers only. The teacher and students that read context and candidate together are this one class in two sizes;
who reads them apart is decomposed.py's. The last layer computes the CLS position alone, which is exact and takes 0.55
to 0.75 of the time.

Shapes: B lists, C candidates, P = B * C pairs, S tokens, F dense features, H encoder width, D width of the towers'
embeddings where a teacher reads them, else 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of a BERT encoder."""

    vocabulary: int
    num_layers: int
    width: int
    num_heads: int
    feed_forward_width: int
    max_tokens: int
    layer_norm_epsilon: float = 1e-12

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"ranker width must be a multiple of its heads; got {self.width} and {self.num_heads}")


class BertLayer(nn.Module):
    """Post-norm transformer layer of BERT; `queries` may be fewer than `states`."""

    def __init__(self, *, sizes: EncoderSizes, dropout: float) -> None:
        super().__init__()
        self.num_heads = sizes.num_heads
        self.query = nn.Linear(sizes.width, sizes.width)
        self.key = nn.Linear(sizes.width, sizes.width)
        self.value = nn.Linear(sizes.width, sizes.width)
        self.attention_out = nn.Linear(sizes.width, sizes.width)
        self.attention_norm = nn.LayerNorm(sizes.width, eps=sizes.layer_norm_epsilon)
        self.intermediate = nn.Linear(sizes.width, sizes.feed_forward_width)
        self.output = nn.Linear(sizes.feed_forward_width, sizes.width)
        self.output_norm = nn.LayerNorm(sizes.width, eps=sizes.layer_norm_epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """[P, Q, H] positions to compute, [P, S, H] positions to read, [P, 1, 1, S] true at tokens -> [P, Q, H]."""
        attended = functional.scaled_dot_product_attention(
            self._heads(self.query(queries)), self._heads(self.key(states)), self._heads(self.value(states)), mask
        )
        attended = attended.transpose(1, 2).flatten(2)
        queries = self.attention_norm(queries + self.dropout(self.attention_out(attended)))
        hidden = functional.gelu(self.intermediate(queries))
        result: Tensor = self.output_norm(queries + self.dropout(self.output(hidden)))
        return result

    def _heads(self, states: Tensor) -> Tensor:
        pairs, length, width = states.shape
        return states.view(pairs, length, self.num_heads, width // self.num_heads).transpose(1, 2)


class ClsEncoder(nn.Module):
    """BERT whose output is the CLS state alone."""

    def __init__(self, *, sizes: EncoderSizes, pad_token: int, dropout: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.pad_token = pad_token
        self.words = nn.Embedding(sizes.vocabulary, sizes.width, padding_idx=pad_token)
        self.positions = nn.Embedding(sizes.max_tokens, sizes.width)
        self.segments = nn.Embedding(2, sizes.width)
        self.embedding_norm = nn.LayerNorm(sizes.width, eps=sizes.layer_norm_epsilon)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(BertLayer(sizes=sizes, dropout=dropout) for _ in range(sizes.num_layers))
        for embedding in (self.words, self.positions, self.segments):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """[P, S] token ids, [S] segment of each position -> [P, H]."""
        states, mask = self._embedded(tokens, segments, first_position=0)
        for layer in self.layers[:-1]:
            states = layer(states, states, mask)
        cls: Tensor = self.layers[-1](states[:, :1], states, mask)
        return cls[:, 0]

    def states(self, tokens: Tensor, segments: Tensor, *, first_position: int) -> Tensor:
        """A part of a row read by itself, from its first position on: [P, S], [S] -> [P, S, H], zero at padding."""
        states, mask = self._embedded(tokens, segments, first_position=first_position)
        for layer in self.layers:
            states = layer(states, states, mask)
        return states * mask[:, 0, 0, :, None]

    def _embedded(self, tokens: Tensor, segments: Tensor, *, first_position: int) -> tuple[Tensor, Tensor]:
        place = first_position + torch.arange(tokens.shape[1], device=tokens.device)
        states = self.words(tokens) + self.positions(place) + self.segments(segments)
        return self.dropout(self.embedding_norm(states)), (tokens != self.pad_token)[:, None, None, :]

    def load_bert(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a Hugging Face BERT of the same sizes; further layers of it are left out."""
        names = {
            "words": "embeddings.word_embeddings",
            "positions": "embeddings.position_embeddings",
            "segments": "embeddings.token_type_embeddings",
            "embedding_norm": "embeddings.LayerNorm",
        }
        parts = {
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "attention_out": "attention.output.dense",
            "attention_norm": "attention.output.LayerNorm",
            "intermediate": "intermediate.dense",
            "output": "output.dense",
            "output_norm": "output.LayerNorm",
        }
        for number in range(len(self.layers)):
            names |= {f"layers.{number}.{ours}": f"encoder.layer.{number}.{theirs}" for ours, theirs in parts.items()}
        own = self.state_dict()
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                if f"{ours}.{kind}" in own:
                    source = state[f"{theirs}.{kind}"]
                    own[f"{ours}.{kind}"].copy_(source[: len(own[f"{ours}.{kind}"])])


class RankerParts(nn.Module):
    """Score of each candidate: a part from dense features, plus a part from text joined with them.

    The joint part starts at exactly 0, so that training begins from the dense part once that was fitted, and what the
    text adds is learnt as a correction. How the text is read is a subclass's.

    Args:
        encoder: of the text; None for a ranker of dense features alone.
        text_width: of what the encoder gives of a candidate.
        num_dense: F.
        hidden: width of the hidden layers.
        dropout: in the dense part and the joint part.
    """

    dense_mean: Tensor
    dense_deviation: Tensor

    def __init__(
        self, *, encoder: nn.Module | None, text_width: int, num_dense: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.register_buffer("dense_mean", torch.zeros(num_dense))
        self.register_buffer("dense_deviation", torch.ones(num_dense))
        self.dense_hidden = nn.Sequential(nn.Linear(num_dense, hidden), nn.GELU(), nn.Dropout(dropout))
        self.dense_score = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )
        if encoder is not None:
            self.joint = nn.Sequential(
                nn.Linear(text_width + hidden, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 1)
            )
            nn.init.zeros_(self.joint[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.joint[-1].bias)  # type: ignore[arg-type]

    def fit_scale(self, dense: NDArray[np.float32]) -> None:
        """Standardise the dense features [..., F] by their mean and deviation here."""
        flat = dense.reshape(-1, dense.shape[-1])
        self.dense_mean.copy_(torch.from_numpy(flat.mean(axis=0)))
        self.dense_deviation.copy_(torch.from_numpy(np.maximum(flat.std(axis=0), 1e-3)))

    def take_dense_part(self, dense: "RankerParts") -> None:
        """Start from the dense part of another ranker and keep it: what is learnt from now on is the text's part.

        Trained further on the few candidates that a text model can afford, the dense part forgets (docs/log.md).
        """
        own = self.state_dict()
        own.update({name: tensor for name, tensor in dense.state_dict().items() if name.startswith("dense_")})
        self.load_state_dict(own)
        for part in (self.dense_hidden, self.dense_score):
            part.requires_grad_(False)

    @torch.no_grad()
    def weigh(self, *, dense: float, text: float) -> None:
        """Multiply each part's scores by its weight, in the weights of its last layer."""
        for part, weight in ((self.dense_score, dense), (self.joint, text)):
            for parameter in part[-1].parameters():
                parameter.mul_(weight)

    def dense_part(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """[..., F] -> hidden [..., hidden] and score [...]; a NaN counts as the mean, an outlier as 8 deviations."""
        scaled = torch.nan_to_num((dense - self.dense_mean) / self.dense_deviation, nan=0.0).clamp(-8.0, 8.0)
        hidden = self.dense_hidden(scaled)
        return hidden, self.dense_score(hidden).squeeze(-1)

    def scores(self, text: Tensor | None, dense: Tensor) -> Tensor:
        """What the encoder gives of each candidate [B, C, H], and [B, C, F] -> scores [B, C]."""
        hidden, score = self.dense_part(dense)
        if text is not None:
            score = score + self.joint(torch.cat([text, hidden], dim=-1)).squeeze(-1)
        result: Tensor = score
        return result


class Ranker(RankerParts):
    """A cross-encoder: context and candidate are one row of tokens.

    Args:
        encoder: of the rows; None for a ranker of dense features alone.
        num_dense: F.
        segments: [S] segment of each token position.
        hidden: width of the hidden layers.
        dropout: in the dense part and the joint part.
        embedding_width: D of a teacher that reads the towers' embeddings too (ranking/embedded.py): they come behind
            the dense features, and only the joint part reads them.

    Raises:
        ValueError: the encoder reads fewer tokens than a row has, or there is none to read embeddings beside.
    """

    segments: Tensor

    def __init__(
        self,
        *,
        encoder: ClsEncoder | None,
        num_dense: int,
        segments: NDArray[np.int64],
        hidden: int,
        dropout: float,
        embedding_width: int = 0,
    ) -> None:
        if encoder is None and embedding_width:
            raise ValueError("a ranker reads the towers' embeddings beside a text; this one has no text encoder")
        if encoder is not None and len(segments) > encoder.sizes.max_tokens:
            raise ValueError(
                f"the ranker's token row has {len(segments)} tokens but its encoder reads {encoder.sizes.max_tokens}; "
                "shorten features.text (query_tokens, history_tokens, candidate_tokens) or take another checkpoint"
            )
        width = 0 if encoder is None else encoder.sizes.width
        read = width + (hidden if embedding_width else 0)
        super().__init__(encoder=encoder, text_width=read, num_dense=num_dense, hidden=hidden, dropout=dropout)
        self.encoder = encoder
        self.embedding_width = embedding_width
        if embedding_width:
            self.embedding_hidden = nn.Sequential(nn.Linear(embedding_width, hidden), nn.GELU(), nn.Dropout(dropout))
        self.register_buffer("segments", torch.from_numpy(segments), persistent=False)

    def forward(self, tokens: Tensor, dense: Tensor) -> Tensor:
        """[B, C, S], [B, C, F + D] -> scores [B, C]."""
        if self.encoder is None:
            return self.scores(None, dense)
        return self.scores(self.encoder(tokens.flatten(0, 1), self.segments).unflatten(0, tokens.shape[:2]), dense)

    def dense_part(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """[..., F + D] -> hidden [..., hidden] and score [...], of the dense features alone."""
        return super().dense_part(dense[..., : dense.shape[-1] - self.embedding_width])

    def scores(self, text: Tensor | None, dense: Tensor) -> Tensor:
        """What the encoder gives of each candidate [B, C, H], and [B, C, F + D] -> scores [B, C]."""
        if text is not None and self.embedding_width:
            embedding = torch.nan_to_num(dense[..., -self.embedding_width :])
            text = torch.cat([text, self.embedding_hidden(embedding)], dim=-1)
        return super().scores(text, dense)


def segments_of(*, length: int, history_tokens: int) -> NDArray[np.int64]:
    """[S] BERT segment of each position of the layout [CLS] history [SEP] candidate [SEP]: 0, then 1."""
    segments = np.ones(length, dtype=np.int64)
    segments[: history_tokens + 2] = 0
    return segments


def bert_sizes(config: Any, *, num_layers: int | None = None) -> EncoderSizes:
    """Sizes of a Hugging Face BERT configuration, with fewer layers where that is asked for."""
    return EncoderSizes(
        vocabulary=int(config.vocab_size),
        num_layers=int(num_layers or config.num_hidden_layers),
        width=int(config.hidden_size),
        num_heads=int(config.num_attention_heads),
        feed_forward_width=int(config.intermediate_size),
        max_tokens=int(config.max_position_embeddings),
        layer_norm_epsilon=float(config.layer_norm_eps),
    )
