from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from ranking.model import ClsEncoder, EncoderSizes, Ranker
from ranking.student import StudentSizes, student_encoder

SIZES = StudentSizes(num_layers=1, width=4, num_heads=2)
NUM_TOKENS = 10


def teacher_of(words: torch.Tensor) -> ClsEncoder:
    vocabulary, width = words.shape
    sizes = EncoderSizes(
        vocabulary=vocabulary, num_layers=1, width=width, num_heads=2, feed_forward_width=8, max_tokens=6
    )
    teacher = ClsEncoder(sizes=sizes, pad_token=0, dropout=0.0)
    with torch.no_grad():
        teacher.words.weight.copy_(words)
    return teacher


def test_a_student_has_the_size_asked_for_and_the_words_of_its_teacher(build_ranker: Callable[..., Ranker]) -> None:
    teacher = build_ranker().encoder
    assert teacher is not None
    student = student_encoder(SIZES, teacher=teacher, num_tokens=NUM_TOKENS, dropout=0.1)

    assert (len(student.layers), student.sizes.width, student.sizes.max_tokens) == (1, 4, 10)
    assert student.sizes.feed_forward_width == 16  # 4 times the width, as in BERT
    assert student.sizes.vocabulary == teacher.sizes.vocabulary
    assert student.pad_token == teacher.pad_token
    tokens = torch.tensor([[1, 5, 6, 0]])
    assert student.eval()(tokens, torch.tensor([0, 0, 1, 1])).shape == (1, 4)


def test_words_that_lie_in_a_plane_keep_their_distances() -> None:
    # All variance lies in 4 of the teacher's 8 directions, so a student of width 4 loses none of it:
    # its distances are the teacher's times one factor.
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(30, 4, generator=generator) @ torch.randn(4, 8, generator=generator)
    student = student_encoder(
        SIZES, teacher=teacher_of(words), num_tokens=NUM_TOKENS, dropout=0.0
    ).words.weight.detach()

    ratio = torch.pdist(student[1:]) / torch.pdist(words[1:])

    assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0.0)


def test_word_embeddings_begin_at_the_scale_of_bert_and_padding_at_zero() -> None:
    words = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) * 50 + 7
    weights = student_encoder(
        SIZES, teacher=teacher_of(words), num_tokens=NUM_TOKENS, dropout=0.0
    ).words.weight.detach()

    assert weights.std().item() == pytest.approx(0.02, rel=0.05)
    assert not weights[0].any()


def test_the_teacher_is_left_as_it_was(build_ranker: Callable[..., Ranker]) -> None:
    teacher = build_ranker().encoder
    assert teacher is not None
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student_encoder(SIZES, teacher=teacher, num_tokens=NUM_TOKENS, dropout=0.0)
    assert_close(dict(teacher.state_dict()), before, rtol=0.0, atol=0.0)


def test_words_that_are_all_alike_make_no_infinite_weight() -> None:
    weights = student_encoder(
        SIZES, teacher=teacher_of(torch.ones(9, 8)), num_tokens=NUM_TOKENS, dropout=0.0
    ).words.weight
    assert torch.isfinite(weights).all()
