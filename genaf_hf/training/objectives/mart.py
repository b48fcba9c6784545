"""The objective of MART (Wang et al., ICLR 2020, https://openreview.net/forum?id=rklOg6EFwS)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.training.global_batch import Logits
from genaf_hf.training.objectives.objective import Loss, Objective


class Mart(Objective):
    """BCE(attacked) + beta * mean of KL(clean || attacked) * (1 - p(y | clean)), equation 11 of the paper.

    The second term weighs each image by how far the model is from right on it unattacked. BCE is the boosted
    cross-entropy, -log p(y) - log(1 - the largest other probability).

    Args:
        beta: lambda of the paper, which the second term is multiplied by.
    """

    losses = ("adversarial_loss", "divergence_loss")

    def __init__(self, beta: float):
        self.beta = beta

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        boosted = F.cross_entropy(own.attacked, own.labels, label_smoothing=label_smoothing)
        adversarial_loss = boosted - log_of_all_but_the_largest_wrong(own.attacked, own.labels).mean()
        divergence = F.kl_div(own.attacked.log_softmax(1), own.clean.log_softmax(1), reduction="none", log_target=True)
        wrong = 1 - own.clean.softmax(1).gather(1, own.labels[:, None])[:, 0]
        divergence_loss = self.beta * (divergence.sum(1) * wrong).mean()
        terms = {"adversarial_loss": adversarial_loss, "divergence_loss": divergence_loss}
        return Loss(adversarial_loss + divergence_loss, terms=terms)


def log_of_all_but_the_largest_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """log(1 - the largest probability of a wrong class), each (n,).

    Summed over the other classes, so that it is finite where that probability rounds to 1; the authors add 1e-4.
    """
    wrong = logits.scatter(1, labels[:, None], -torch.inf).argmax(1, keepdim=True)
    return logits.scatter(1, wrong, -torch.inf).logsumexp(1) - logits.logsumexp(1)
