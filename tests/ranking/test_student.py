from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from ranking.decomposed import DecomposedRanker
from ranking.model import ClsEncoder, EncoderSizes, Ranker, segments_of
from ranking.student import Decomposed, HeadSizes, LayerDropped, SmallBert

SMALL = SmallBert(num_layers=1, width=4, num_heads=2)
HEAD = HeadSizes(segments=segments_of(length=10, history_tokens=4), num_dense=5, hidden=6)


def small_encoder(teacher: ClsEncoder) -> ClsEncoder:
    encoder = SMALL.build(teacher, head=HEAD, dropout=0.0).encoder
    assert encoder is not None
    return encoder


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
    student = small_encoder(teacher)

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
    student = small_encoder(teacher_of(words)).words.weight.detach()

    ratio = torch.pdist(student[1:]) / torch.pdist(words[1:])

    assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0.0)


def test_word_embeddings_begin_at_the_scale_of_bert_and_padding_at_zero() -> None:
    words = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) * 50 + 7
    weights = small_encoder(teacher_of(words)).words.weight.detach()

    assert weights.std().item() == pytest.approx(0.02, rel=0.05)
    assert not weights[0].any()


def test_the_teacher_is_left_as_it_was(build_ranker: Callable[..., Ranker]) -> None:
    teacher = build_ranker().encoder
    assert teacher is not None
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    small_encoder(teacher)
    assert_close(dict(teacher.state_dict()), before, rtol=0.0, atol=0.0)


def test_words_that_are_all_alike_make_no_infinite_weight() -> None:
    weights = small_encoder(teacher_of(torch.ones(9, 8))).words.weight
    assert torch.isfinite(weights).all()


def a_teacher(*, num_layers: int = 4, width: int = 8) -> ClsEncoder:
    sizes = EncoderSizes(
        vocabulary=20, num_layers=num_layers, width=width, num_heads=4, feed_forward_width=16, max_tokens=12
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ClsEncoder(sizes=sizes, pad_token=0, dropout=0.0).eval()


@pytest.mark.parametrize(("num_layers", "kept"), [(1, [3]), (2, [1, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])])
def test_dropped_layers_lie_evenly_and_the_last_one_stays(num_layers: int, kept: list[int]) -> None:
    teacher = a_teacher()
    student = LayerDropped(num_layers=num_layers).build(teacher, head=HEAD, dropout=0.0).encoder
    assert student is not None
    assert len(student.layers) == num_layers
    for ours, theirs in enumerate(kept):
        assert_close(student.layers[ours].state_dict(), teacher.layers[theirs].state_dict(), rtol=0.0, atol=0.0)
    assert_close(student.words.weight, teacher.words.weight, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("num_layers", [0, 5])
def test_more_layers_than_the_teacher_has_are_refused(num_layers: int) -> None:
    with pytest.raises(ValueError, match=rf"must lie between 1 and 4, the teacher's; got {num_layers}"):
        LayerDropped(num_layers=num_layers).build(a_teacher(), head=HEAD, dropout=0.0)


def test_a_decomposed_student_begins_with_all_layers_of_its_teacher() -> None:
    teacher = a_teacher()
    student = Decomposed(num_joint_layers=1).build(teacher, head=HEAD, dropout=0.0)
    assert isinstance(student, DecomposedRanker)
    layers = [*student.encoder.lower.layers, *student.encoder.joint]
    for ours, theirs in zip(layers, teacher.layers, strict=True):
        assert_close(ours.state_dict(), theirs.state_dict(), rtol=0.0, atol=0.0)
    trained = {name.split(".")[1] for name, own in student.encoder.named_parameters() if own.requires_grad}
    assert all(not own.requires_grad for own in student.encoder.lower.parameters())
    assert trained == {"0"}  # of joint


def test_a_narrow_decomposed_student_projects_what_it_holds_of_an_item() -> None:
    student = Decomposed(num_joint_layers=1, width=4).build(a_teacher(), head=HEAD, dropout=0.0)
    assert (student.encoder.width, student.encoder.joint[0].num_heads) == (4, 2)  # heads as wide as the teacher's


def test_a_decomposed_student_without_a_layer_to_read_by_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 and fewer than the 4 layers of the encoder; got 4"):
        Decomposed(num_joint_layers=4).build(a_teacher(), head=HEAD, dropout=0.0)
