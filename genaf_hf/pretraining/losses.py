"""Losses of pre-training without labels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, equation 1), a scalar.

    Every view has the other one of its image as the positive, and the views of all other images as negatives.

    Args:
        first, second: projections of two views of the same n images, (n, d).
        temperature: that similarities are divided by.
    """
    views = F.normalize(torch.cat([first, second]), dim=1)
    similarity = (views @ views.T / temperature).fill_diagonal_(-math.inf)
    positives = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(similarity, positives)


def dino_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """DINO's loss (Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294, equation 3 and algorithm 1), a scalar.

    Mean cross-entropy of the student's view with the centered and sharpened teacher's, over all pairs of two views.

    Args:
        student: logits (n, k) of every view, first those of the views that the teacher has too.
        teacher: logits (n, k) of the global views; no gradient passes.
        center: (k,).
        student_temperature: that the student's logits are divided by.
        teacher_temperature: that the teacher's are; the lower, the sharper.
    """
    targets = [F.softmax((logits.detach() - center) / teacher_temperature, 1) for logits in teacher]
    predictions = [F.log_softmax(logits / student_temperature, 1) for logits in student]
    losses = [
        -(target * prediction).sum(1).mean()
        for i, target in enumerate(targets)
        for j, prediction in enumerate(predictions)
        if i != j
    ]
    return torch.stack(losses).mean()


def next_center(center: Tensor, teacher: Tensor, momentum: float) -> Tensor:
    """DINO's center (k,) after a batch of the teacher's logits (n, k) (equation 4)."""
    return momentum * center + (1 - momentum) * teacher.detach().mean(0)


def teacher_momentum(start: float, progress: float) -> float:
    """DINO's momentum of the teacher: from `start` to 1 by a cosine, at a share of training in [0, 1]."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
