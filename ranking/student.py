"""Students: what a teacher can be distilled into, and what each begins with.

Owns a student's form and its initial weights. What it then learns is ranking/module.py's business.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ranking.decomposed import DecomposedEncoder, DecomposedRanker
from ranking.model import ClsEncoder, EncoderSizes, Ranker


@dataclass(frozen=True)
class HeadSizes:
    """What all rankers of one run share beside the encoder.

    Attributes:
        segments: [S] segment of each token position; the context is what is of segment 0.
        num_dense: dense features.
        hidden: width of the hidden layers.
    """

    segments: NDArray[np.int64]
    num_dense: int
    hidden: int

    @property
    def num_context_tokens(self) -> int:
        """Tokens up to the first [SEP]."""
        return int((self.segments == 0).sum())


class Student(Protocol):
    """A form of student; conf/ranker/student/*.yaml fills one."""

    def build(self, teacher: ClsEncoder, *, head: HeadSizes, dropout: float) -> Ranker | DecomposedRanker:
        """A student that begins with what can be taken from its teacher."""
        ...


@dataclass(frozen=True)
class SmallBert:
    """A small BERT of its own size, whose words are the teacher's projected on their first principal components.

    Distances between words survive the projection, so the student need not learn from a few thousand lists which
    words are alike.
    """

    num_layers: int
    width: int
    num_heads: int

    def build(self, teacher: ClsEncoder, *, head: HeadSizes, dropout: float) -> Ranker:
        """See `Student`."""
        encoder = ClsEncoder(
            sizes=EncoderSizes(
                vocabulary=teacher.sizes.vocabulary,
                num_layers=self.num_layers,
                width=self.width,
                num_heads=self.num_heads,
                feed_forward_width=4 * self.width,
                max_tokens=len(head.segments),
            ),
            pad_token=teacher.pad_token,
            dropout=dropout,
        )
        with torch.no_grad():
            words = teacher.words.weight.detach().float()
            centred = words - words.mean(dim=0)
            _, _, components = torch.linalg.svd(centred.T @ centred)  # [H, H], rows by falling variance
            projected = centred @ components[: self.width].T
            encoder.words.weight.copy_(projected * (0.02 / projected.std().clamp(min=1e-6)))
            encoder.words.weight[teacher.pad_token].zero_()
        return _cross_encoder(encoder, head=head, dropout=dropout)


@dataclass(frozen=True)
class LayerDropped:
    """Every so-manieth layer of the teacher, the last one among them.

    Source: Sajjad et al., 2023, "On the effect of dropping layers of pre-trained transformer models".
    """

    num_layers: int

    def build(self, teacher: ClsEncoder, *, head: HeadSizes, dropout: float) -> Ranker:
        """See `Student`.

        Raises:
            ValueError: the teacher has fewer layers.
        """
        of_teacher = len(teacher.layers)
        if not 1 <= self.num_layers <= of_teacher:
            raise ValueError(
                f"ranker.student.form.num_layers must lie between 1 and {of_teacher}, the teacher's; got "
                f"{self.num_layers}"
            )
        kept = np.rint(np.arange(1, self.num_layers + 1) * of_teacher / self.num_layers).astype(int) - 1
        encoder = ClsEncoder(
            sizes=replace(teacher.sizes, num_layers=self.num_layers), pad_token=teacher.pad_token, dropout=dropout
        )
        own = {name: value for name, value in teacher.state_dict().items() if not name.startswith("layers.")}
        for ours, theirs in enumerate(kept.tolist()):
            layer = teacher.layers[theirs].state_dict()
            own |= {f"layers.{ours}.{name}": value for name, value in layer.items()}
        encoder.load_state_dict(own)
        return _cross_encoder(encoder, head=head, dropout=dropout)


@dataclass(frozen=True)
class Decomposed:
    """The teacher's own layers, of which all but the last read context and candidate apart.

    Attributes:
        num_joint_layers: last ones, which join them.
        width: of the joint layers and of what the release holds of an item; null: the teacher's. Narrower joint layers
            begin at random.
    """

    num_joint_layers: int
    width: int | None = None

    def build(self, teacher: ClsEncoder, *, head: HeadSizes, dropout: float) -> DecomposedRanker:
        """See `Student`."""
        width = self.width or teacher.sizes.width
        encoder = DecomposedEncoder(
            sizes=teacher.sizes,
            num_joint_layers=self.num_joint_layers,
            width=width,
            num_context_tokens=head.num_context_tokens,
            pad_token=teacher.pad_token,
            dropout=dropout,
        )
        state, num_lower = teacher.state_dict(), len(encoder.lower.layers)
        encoder.lower.load_state_dict({name: state[name] for name in encoder.lower.state_dict()})
        if width == teacher.sizes.width:
            for number, layer in enumerate(encoder.joint):
                layer.load_state_dict(teacher.layers[num_lower + number].state_dict())
        return DecomposedRanker(encoder=encoder, num_dense=head.num_dense, hidden=head.hidden, dropout=dropout)


def _cross_encoder(encoder: ClsEncoder, *, head: HeadSizes, dropout: float) -> Ranker:
    return Ranker(
        encoder=encoder, num_dense=head.num_dense, segments=head.segments, hidden=head.hidden, dropout=dropout
    )
