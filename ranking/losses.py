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


def distillation(scores: Tensor, teacher_scores: Tensor, *, temperature: float) -> Tensor:
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
