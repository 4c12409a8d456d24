"""Training losses of stage 1 as pure functions of logits.

Shapes: P positions with a target, M sampled negatives shared by all positions.
"""

import torch
from torch import Tensor


def sampled_softmax(
    positive_logits: Tensor, negative_logits: Tensor, *, log_expected_count: Tensor, is_target: Tensor
) -> Tensor:
    """Cross entropy of the target against sampled negatives, corrected for how often each is sampled.

    The sum over negatives estimates the full softmax's sum over all other items: a negative that enters the sample
    c times on average counts exp(logit) / c, that is logit - log c.

    Args:
        positive_logits: [P] scores of the targets.
        negative_logits: [P, M] scores of the negatives.
        log_expected_count: [M] log of the number of times that each negative's item is expected in the sample.
        is_target: [P, M] true where a negative happens to be the position's own target; it is left out.

    Returns:
        [P] loss of each position.

    Source: Bengio and Senecal, 2008, "Adaptive importance sampling"; Yi et al., RecSys 2019.
    """
    # In fp32: below 6e-8 an fp16 probability rounds to 0, and a rare item's corrected logit becomes +inf.
    corrected = negative_logits.float() - log_expected_count.float()
    corrected = corrected.masked_fill(is_target, float("-inf"))
    positive = positive_logits.float().unsqueeze(1)
    return torch.logsumexp(torch.cat([positive, corrected], dim=1), dim=1) - positive.squeeze(1)
