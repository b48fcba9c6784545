"""Cross-entropy of attacked images, and in part of clean ones."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from genaf_hf.errors import UserError
from genaf_hf.training.global_batch import Logits, by_kind
from genaf_hf.training.objectives.anchor import Anchor
from genaf_hf.training.objectives.objective import Loss, Objective
from genaf_hf.training.objectives.trades import divergence
from genaf_hf.values.numbers import check_share, is_number


class CrossEntropy(Objective):
    """(1 - c) * CE(attacked) + c * CE(clean) + divergence_weight * T^2 KL(clean || attacked) + anchor_weight * drift.

    With c = `clean_share` = 0 and no weights it is that of Madry et al. (ICLR 2018, https://arxiv.org/abs/1706.06083,
    equation 2.1), and the clean images are not passed through the model. The divergence pulls attacked answers to the
    clean ones and leaves these alone, where TRADES moves both. It is that of logits over a temperature T, times its
    square (Hinton et al., 2015, https://arxiv.org/abs/1503.02531): at a high one it tends to the squared distance of
    logits (Kannan et al., 2018, https://arxiv.org/abs/1803.06373), which does not vanish where the model is sure. The
    drift is that of clean and attacked features from the public encoder's, by the same shares: see `Anchor`.

    Args:
        clean_share: in [0, 1].
        single_pass: pass each image through the model once: as many of them as `clean_share` says clean, the others
            attacked. The loss is the same in expectation, at about the time of a step on clean images alone.
        divergence_weight: 0 or more; with a single pass no image has two answers that could be compared.
        divergence_temperature: T, above 0.
        anchor_weight: 0 or more.

    Raises:
        UserError: for a value out of its range.
    """

    def __init__(
        self,
        clean_share: float,
        single_pass: bool = False,
        divergence_weight: float = 0.0,
        divergence_temperature: float = 1.0,
        anchor_weight: float = 0.0,
    ):
        check_share("clean_share", clean_share)
        for name, weight in (("divergence_weight", divergence_weight), ("anchor_weight", anchor_weight)):
            if not is_number(weight) or not 0 <= weight < math.inf:
                raise UserError(f"{name} is {weight}, expected 0 or more.")
        if not is_number(divergence_temperature) or not 0 < divergence_temperature < math.inf:
            raise UserError(f"divergence_temperature is {divergence_temperature}, expected more than 0, for example 4.")
        if single_pass and divergence_weight > 0:
            raise UserError(
                f"divergence_weight is {divergence_weight}, but single_pass is True, so that no image is answered both "
                "clean and attacked: set divergence_weight to 0, too."
            )
        self.clean_share = clean_share
        self.divergence_weight, self.divergence_temperature = divergence_weight, divergence_temperature
        self.anchor_weight, self.anchor = anchor_weight, Anchor(clean_share, single_pass)
        self.reads_features = anchor_weight > 0
        self.reads_clean = (clean_share > 0 or divergence_weight > 0) and not single_pass
        self.stay_clean = clean_share if single_pass else 0.0
        self.losses = (
            "adversarial_loss",
            *(["clean_loss"] if clean_share > 0 else []),
            *(["divergence_loss"] if divergence_weight > 0 else []),
        )
        if anchor_weight > 0:
            self.penalties = self.anchor.losses

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        loss = self.of_logits(own, label_smoothing)
        if self.anchor_weight == 0:
            return loss
        drift = self.anchor(own, whole, eps_share=eps_share, label_smoothing=label_smoothing)
        return Loss(loss.of_rows + self.anchor_weight * drift.of_rows, terms={**loss.terms, **drift.terms})

    def of_logits(self, own: Logits, label_smoothing: float) -> Loss:
        """The part that is of answers."""
        if own.stays_clean is not None:
            each = F.cross_entropy(own.attacked, own.labels, reduction="none", label_smoothing=label_smoothing)
            clean_loss, adversarial_loss = by_kind(own.stays_clean, each)
            return Loss(each.mean(), terms={"adversarial_loss": adversarial_loss, "clean_loss": clean_loss})
        loss = adversarial_loss = F.cross_entropy(own.attacked, own.labels, label_smoothing=label_smoothing)
        terms = {"adversarial_loss": adversarial_loss}
        if self.clean_share > 0:
            clean_loss = F.cross_entropy(own.clean, own.labels, label_smoothing=label_smoothing)
            loss = torch.lerp(adversarial_loss, clean_loss, self.clean_share)
            terms["clean_loss"] = clean_loss
        if self.divergence_weight > 0:
            t = self.divergence_temperature
            apart = t**2 * divergence(own.clean.detach() / t, own.attacked / t)
            terms["divergence_loss"] = self.divergence_weight * apart
            loss = loss + terms["divergence_loss"]
        return Loss(loss, terms=terms)
