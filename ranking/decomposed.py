"""The decomposed ranker: context and candidate are read apart, and joined by one position's attention over both.

Owns its layers. What the lower layers make of a candidate's text knows nothing of the query, so a release holds it for
every item; a request runs them once over its context, and per candidate only the joint layers at the CLS position. The
joint layers never ask for keys and values: for one query position, attention is a product with the states themselves
once the query went through the keys' weights, which is a tenth of the work.

Sources: MacAvaney et al., SIGIR 2020, "Efficient document re-ranking for transformers by precomputing term
representations" (PreTTR); Cao et al., ACL 2020, "DeFormer".
"""

# Shapes: B lists, C candidates, P texts, Sc and Si tokens of a context and of a candidate, F dense features, H width of
# the lower layers, W of the joint ones, A heads, E width of a head.

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ranking.model import BertLayer, ClsEncoder, EncoderSizes, RankerParts

LARGEST = 127  # of int8


class DecomposedEncoder(nn.Module):
    """CLS state of each candidate from what the lower layers made of context and candidates.

    Args:
        sizes: of all layers together, as a cross-encoder would have them.
        num_joint_layers: how many of them are joint.
        width: W, where it is less than H: states are projected, which is what a release then holds of an item.
        num_context_tokens: Sc; a candidate's positions and segment are those it has behind the context.
        pad_token: id of [PAD].
        dropout: in the joint layers.

    Raises:
        ValueError: no layer is left to read a text with.
    """

    state_scale: Tensor

    def __init__(
        self,
        *,
        sizes: EncoderSizes,
        num_joint_layers: int,
        width: int,
        num_context_tokens: int,
        pad_token: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if not 1 <= num_joint_layers < sizes.num_layers:
            raise ValueError(
                f"joint layers must be at least 1 and fewer than the {sizes.num_layers} layers of the encoder; got "
                f"{num_joint_layers}"
            )
        self.sizes = sizes
        self.num_context_tokens = num_context_tokens
        self.width = width
        lower = replace(sizes, num_layers=sizes.num_layers - num_joint_layers)
        self.lower = ClsEncoder(sizes=lower, pad_token=pad_token, dropout=0.0).requires_grad_(False)
        self.projection: nn.Module = nn.Identity()
        if width != sizes.width:
            self.projection = nn.Sequential(
                nn.Linear(sizes.width, width), nn.LayerNorm(width, elementwise_affine=False)
            )
        joint = replace(
            sizes,
            width=width,
            num_heads=sizes.num_heads * width // sizes.width,
            feed_forward_width=width * sizes.feed_forward_width // sizes.width,
        )
        self.joint = nn.ModuleList(BertLayer(sizes=joint, dropout=dropout) for _ in range(num_joint_layers))
        self.register_buffer("state_scale", torch.ones(width))

    def read_context(self, tokens: Tensor) -> Tensor:
        """[P, Sc] -> states of the lower layers [P, Sc, H], zero at padding."""
        return self.lower.states(tokens, torch.zeros_like(tokens[0]), first_position=0)

    def read_candidates(self, tokens: Tensor) -> Tensor:
        """[P, Si] -> states of the lower layers [P, Si, H], zero at padding."""
        return self.lower.states(tokens, torch.ones_like(tokens[0]), first_position=self.num_context_tokens)

    @torch.inference_mode()
    def states_of(self, tokens: NDArray[np.int32], *, of_context: bool, batch_size: int = 256) -> NDArray[np.float16]:
        """States of the lower layers of any number of contexts [P, Sc] or candidates [P, Si]: [P, S, H]."""
        read, device = (self.read_context if of_context else self.read_candidates), self.state_scale.device
        states = np.zeros((*tokens.shape, self.sizes.width), dtype=np.float16)
        name = "contexts" if of_context else "candidates"
        for start in tqdm(range(0, len(tokens), batch_size), desc=f"texts of {name}", unit="batch", disable=None):
            batch = tokens[start : start + batch_size]
            longest = max(int(np.flatnonzero((batch != self.lower.pad_token).any(axis=0)).max(initial=0)) + 1, 1)
            given = torch.from_numpy(batch[:, :longest].astype(np.int64)).to(device)
            states[start : start + batch_size, :longest] = read(given).half().cpu().numpy()
        return states

    def project(self, states: Tensor) -> Tensor:
        """[..., H] -> [..., W]; what is zero stays so."""
        projected: Tensor = self.projection(states) * present(states)
        return projected

    def forward(self, context: Tensor, candidates: Tensor) -> Tensor:
        """[B, Sc, W], [B, C, Si, W] -> CLS states [B, C, W]."""
        shape = candidates.shape[0], candidates.shape[1], self.width
        context_mask = present(context).transpose(1, 2).unsqueeze(1)  # [B, 1, 1, Sc]
        candidate_mask = present(candidates).transpose(2, 3)  # [B, C, 1, Si]
        cls = context[:, :1].expand(shape)
        for layer in self.joint:
            cls = attended_apart(cast(BertLayer, layer), cls, context, candidates, context_mask, candidate_mask)
        return cls

    def fit_state_scale(self, states: Tensor) -> None:
        """Let int8 hold all of these states [..., W] of items."""
        largest = states.reshape(-1, self.width).abs().amax(dim=0)
        self.state_scale.copy_(largest.clamp(min=1e-6) / LARGEST)

    def as_int8(self, states: Tensor) -> Tensor:
        """[..., W] -> [..., W]; beyond what was fitted it is cut off."""
        return (states / self.state_scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)

    def of_int8(self, states: Tensor) -> Tensor:
        """The reverse of `as_int8`."""
        return states.float() * self.state_scale


class DecomposedRanker(RankerParts):
    """A ranker whose candidates' texts were read beforehand."""

    def __init__(self, *, encoder: DecomposedEncoder, num_dense: int, hidden: int, dropout: float) -> None:
        super().__init__(encoder=encoder, text_width=encoder.width, num_dense=num_dense, hidden=hidden, dropout=dropout)
        self.encoder = encoder

    def forward(self, context: Tensor, candidates: Tensor, dense: Tensor) -> Tensor:
        """Of the lower layers [B, Sc, H] and [B, C, Si, H], and [B, C, F] -> scores [B, C]."""
        encoder = self.encoder
        return self.scores(encoder(encoder.project(context), encoder.project(candidates)), dense)


class ServedDecomposedRanker(nn.Module):
    """The same as it is served: contexts as tokens, candidates as int8."""

    def __init__(self, ranker: DecomposedRanker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, context_tokens: Tensor, candidate_states: Tensor, dense: Tensor) -> Tensor:
        """[B, Sc], [B, C, Si, W] int8, [B, C, F] -> scores [B, C]."""
        encoder = self.ranker.encoder
        context = encoder.project(encoder.read_context(context_tokens))
        return self.ranker.scores(encoder(context, encoder.of_int8(candidate_states)), dense)


class ItemReader(nn.Module):
    """What is read of a candidate beforehand, from its tokens, as item_states.py reads a catalogue."""

    def __init__(self, encoder: DecomposedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        """[P, Si] -> int8 [P, Si, W]."""
        # Through half precision, as the states of a catalogue, that rounding to int8 falls alike.
        read = self.encoder.read_candidates(tokens).half().float()
        return self.encoder.as_int8(self.encoder.project(read).half().float())


def attended_apart(
    layer: BertLayer, cls: Tensor, context: Tensor, candidates: Tensor, context_mask: Tensor, candidate_mask: Tensor
) -> Tensor:
    """What `layer` makes of the CLS states over context and candidate together, without their keys and values.

    A key's bias adds the same to all of a head's logits and drops out of the softmax.

    Args:
        layer: of width W.
        cls: [B, C, W].
        context: [B, Sc, W].
        candidates: [B, C, Si, W].
        context_mask: [B, 1, 1, Sc] true at tokens.
        candidate_mask: [B, C, 1, Si] likewise.

    Returns:
        [B, C, W].
    """
    heads = layer.num_heads
    each = layer.query.out_features // heads
    key = layer.key.weight.view(heads, each, -1)  # [A, E, W]
    query = layer.query(cls).unflatten(-1, (heads, each)) * each**-0.5  # [B, C, A, E]
    asked = torch.matmul(query.unsqueeze(-2), key).squeeze(-2)  # [B, C, A, W]
    rows = (*asked.shape[:3], context.shape[1])
    of_context = torch.matmul(asked.flatten(1, 2), context.transpose(1, 2)).view(rows)  # [B, C, A, Sc]
    of_candidate = torch.matmul(asked, candidates.transpose(2, 3))  # [B, C, A, Si]
    logits = torch.cat(
        [of_context.masked_fill(~context_mask, -torch.inf), of_candidate.masked_fill(~candidate_mask, -torch.inf)],
        dim=-1,
    )
    share = torch.softmax(logits, dim=-1)
    of_context, of_candidate = share[..., : context.shape[1]], share[..., context.shape[1] :]
    pooled = torch.matmul(of_context.flatten(1, 2), context).view(asked.shape)
    pooled = pooled + torch.matmul(of_candidate, candidates)  # [B, C, A, W]
    value = layer.value.weight.view(heads, each, -1).transpose(1, 2)  # [A, W, E]
    attended = torch.matmul(pooled.unsqueeze(-2), value).squeeze(-2).flatten(2) + layer.value.bias
    states = layer.attention_norm(cls + layer.dropout(layer.attention_out(attended)))
    hidden = functional.gelu(layer.intermediate(states))
    result: Tensor = layer.output_norm(states + layer.dropout(layer.output(hidden)))
    return result


def present(states: Tensor) -> Tensor:
    """[..., S, W] -> [..., S, 1]: true where a token is; a state of one is never all zero."""
    return (states != 0).any(dim=-1, keepdim=True)
