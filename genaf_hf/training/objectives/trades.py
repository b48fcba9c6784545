"""The objective of TRADES (Zhang et al., ICML 2019, https://arxiv.org/abs/1901.08573)."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from genaf_hf.training.global_batch import Logits
from genaf_hf.training.objectives.objective import Loss, Objective


class Trades(Objective):
    """CE(clean) + beta * KL(clean || attacked), equation 5 of the paper.

    Args:
        beta: 1/lambda of the paper, which the second term is multiplied by.
    """

    losses = ("clean_loss", "divergence_loss")

    def __init__(self, beta: float):
        self.beta = beta

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        clean_loss = F.cross_entropy(own.clean, own.labels, label_smoothing=label_smoothing)
        divergence_loss = self.beta * divergence(own.clean, own.attacked)
        return Loss(clean_loss + divergence_loss, terms={"clean_loss": clean_loss, "divergence_loss": divergence_loss})


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """Mean over the rows of KL(softmax(clean) || softmax(attacked)), each (n, classes)."""
    return F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
