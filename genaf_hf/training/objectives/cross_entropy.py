"""Cross-entropy of attacked images, and in part of clean ones."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from genaf_hf.errors import UserError
from genaf_hf.training.global_batch import Logits, means_by
from genaf_hf.training.objectives.objective import Loss, Objective


class CrossEntropy(Objective):
    """(1 - clean_share) * CE(attacked) + clean_share * CE(clean).

    With a share of 0 it is that of Madry et al. (ICLR 2018, https://arxiv.org/abs/1706.06083, equation 2.1), and the
    clean images are not passed through the model.

    Args:
        clean_share: in [0, 1].
        single_pass: pass each image through the model once: as many of them as `clean_share` says clean, the others
            attacked. The loss is the same in expectation, at about the time of a step on clean images alone.

    Raises:
        UserError: for a share out of this range.
    """

    def __init__(self, clean_share: float, single_pass: bool = False):
        if not 0 <= clean_share <= 1:
            raise UserError(f"clean_share is {clean_share}, expected a share in [0, 1].")
        self.clean_share = clean_share
        self.reads_clean = clean_share > 0 and not single_pass
        self.stay_clean = clean_share if single_pass else 0.0
        self.losses = ("adversarial_loss", *(["clean_loss"] if clean_share > 0 else []))

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        if own.stays_clean is not None:
            each = F.cross_entropy(own.attacked, own.labels, reduction="none", label_smoothing=label_smoothing)
            clean_loss, adversarial_loss = means_by(own.stays_clean, each)
            return Loss(each.mean(), terms={"adversarial_loss": adversarial_loss, "clean_loss": clean_loss})
        loss = adversarial_loss = F.cross_entropy(own.attacked, own.labels, label_smoothing=label_smoothing)
        terms = {"adversarial_loss": adversarial_loss}
        if self.clean_share > 0:
            clean_loss = F.cross_entropy(own.clean, own.labels, label_smoothing=label_smoothing)
            loss = torch.lerp(adversarial_loss, clean_loss, self.clean_share)
            terms["clean_loss"] = clean_loss
        return Loss(loss, terms=terms)
