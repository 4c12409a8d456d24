"""The student: a small BERT of its own size that starts from what the teacher's word embeddings know.

Owns the student's size and its initial weights. What it then learns is ranking/module.py's business.
"""

from dataclasses import dataclass

import torch

from ranking.model import ClsEncoder, EncoderSizes


@dataclass(frozen=True)
class StudentSizes:
    """Size of a student; conf/ranker/*.yaml fills it."""

    num_layers: int
    width: int
    num_heads: int


def student_encoder(sizes: StudentSizes, *, teacher: ClsEncoder, num_tokens: int, dropout: float) -> ClsEncoder:
    """A new encoder whose word embeddings are the teacher's, projected on their first principal components.

    Distances between words survive the projection, so the student need not learn from a few thousand lists which
    words are alike.

    Args:
        sizes: of the student.
        teacher: whose words it takes.
        num_tokens: of the rows that it will read.
        dropout: while training.
    """
    encoder = ClsEncoder(
        sizes=EncoderSizes(
            vocabulary=teacher.sizes.vocabulary,
            num_layers=sizes.num_layers,
            width=sizes.width,
            num_heads=sizes.num_heads,
            feed_forward_width=4 * sizes.width,
            max_tokens=num_tokens,
        ),
        pad_token=teacher.pad_token,
        dropout=dropout,
    )
    with torch.no_grad():
        words = teacher.words.weight.detach().float()
        centred = words - words.mean(dim=0)
        _, _, components = torch.linalg.svd(centred.T @ centred)  # [H, H], rows by falling variance
        projected = centred @ components[: sizes.width].T
        encoder.words.weight.copy_(projected * (0.02 / projected.std().clamp(min=1e-6)))
        encoder.words.weight[teacher.pad_token].zero_()
    return encoder
