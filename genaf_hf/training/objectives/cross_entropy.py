"""Cross-entropy of attacked images, and in part of clean ones."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from genaf_hf.errors import UserError
from genaf_hf.training.global_batch import Logits
from genaf_hf.training.objectives.objective import Loss, Objective


class CrossEntropy(Objective):
    """(1 - clean_share) * CE(attacked) + clean_share * CE(clean).

    With a share of 0 it is that of Madry et al. (ICLR 2018, https://arxiv.org/abs/1706.06083, equation 2.1), and the
    clean images are not passed through the model.

    Args:
        clean_share: in [0, 1].

    Raises:
        UserError: for a share out of this range.
    """

    def __init__(self, clean_share: float):
        if not 0 <= clean_share <= 1:
            raise UserError(f"clean_share is {clean_share}, expected a share in [0, 1].")
        self.clean_share = clean_share
        self.reads_clean = clean_share > 0
        self.losses = ("adversarial_loss", *(["clean_loss"] if self.reads_clean else []))

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        loss = adversarial_loss = F.cross_entropy(own.attacked, own.labels, label_smoothing=label_smoothing)
        terms = {"adversarial_loss": adversarial_loss}
        if self.clean_share > 0:
            clean_loss = F.cross_entropy(own.clean, own.labels, label_smoothing=label_smoothing)
            loss = torch.lerp(adversarial_loss, clean_loss, self.clean_share)
            terms["clean_loss"] = clean_loss
        return Loss(loss, terms=terms)
