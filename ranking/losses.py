"""Training losses of stage 2 as pure functions of scores.

Shapes: P lists, C candidates a list.
"""

import torch
from torch import Tensor


def listwise_softmax(scores: Tensor, relevance: Tensor) -> Tensor:
    """Cross entropy between the softmax of the scores and the normalised relevance.

    Args:
        scores: [P, C].
        relevance: [P, C], each row with a positive sum.

    Returns:
        [P] loss of each list.

    Source: Cao et al., ICML 2007, "Learning to rank: from pairwise approach to listwise approach" (top-1 form).
    """
    target = relevance / relevance.sum(dim=1, keepdim=True)
    return -(target * torch.log_softmax(scores.float(), dim=1)).sum(dim=1)


def listwise_kl(scores: Tensor, teacher_scores: Tensor, *, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student's softmax from the teacher's, over one list.

    Args:
        scores: [P, C] of the student.
        teacher_scores: [P, C].
        temperature: above 1 the order of unlikely candidates counts for more.

    Returns:
        [P] divergence, times temperature squared so that its gradient keeps its size.

    Source: Hinton, Vinyals and Dean, 2015, "Distilling the knowledge in a neural network".
    """
    teacher = torch.log_softmax(teacher_scores.float() / temperature, dim=1)
    student = torch.log_softmax(scores.float() / temperature, dim=1)
    return (teacher.exp() * (teacher - student)).sum(dim=1) * temperature**2


def centred_mse(scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """Mean squared difference of the scores after each list's mean is taken off, for it orders nothing.

    Args:
        scores: [P, C] of the student.
        teacher_scores: [P, C].

    Returns:
        [P] of each list.

    Source: Ba and Caruana, NeurIPS 2014, "Do deep nets really need to be deep?" (logit matching).
    """
    difference = scores.float() - teacher_scores.float()
    return (difference - difference.mean(dim=1, keepdim=True)).square().mean(dim=1)


def margin_mse(scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """Mean squared difference of the margins by which the first candidate, the chosen one, leads the others.

    Args:
        scores: [P, C] of the student, C at least 2.
        teacher_scores: [P, C].

    Returns:
        [P] of each list.

    Source: Hofstaetter et al., 2020, "Improving efficient neural ranking models with cross-architecture knowledge
    distillation".
    """
    difference = scores.float() - teacher_scores.float()
    return (difference[:, :1] - difference[:, 1:]).square().mean(dim=1)


def info_nce(scores: Tensor, teacher_scores: Tensor, *, temperature: float) -> Tensor:
    """Cross entropy of what the teacher likes best against all others of the list.

    Args:
        scores: [P, C] of the student.
        teacher_scores: [P, C].
        temperature: of the student's softmax.

    Returns:
        [P] of each list.

    Source: van den Oord, Li and Vinyals, 2018, "Representation learning with contrastive predictive coding".
    """
    best = teacher_scores.argmax(dim=1, keepdim=True)
    return -torch.log_softmax(scores.float() / temperature, dim=1).gather(1, best).squeeze(1)
