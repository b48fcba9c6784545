"""Cross-entropy with the genetic regularization of Gen-AF."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.errors import UserError
from genaf_hf.training.genetic_regularization import genetic_regularization
from genaf_hf.training.global_batch import Logits
from genaf_hf.training.objectives.cross_entropy import CrossEntropy
from genaf_hf.training.objectives.objective import Loss

DROWNING = 10  # how many times the cross-entropy a regularization drowns it


class Genetic(CrossEntropy):
    """Cross-entropy, and that clean images relate to each other as attacked ones do (Zhou et al., IEEE S&P 2024).

    The weight of the regularization is lowered where the weighted regularization would exceed its share of the
    cross-entropy, which grows with eps.

    Args:
        clean_share, divergence_weight: as for `CrossEntropy`.
        weight: of the regularization, which is averaged over the rows of the update.
        share: the weighted regularization is at most this share of the attacked images' cross-entropy; inf is no bound.

    Raises:
        UserError: for a value out of range.
    """

    penalties = ("genetic_regularization",)

    def __init__(self, clean_share: float, weight: float, share: float, divergence_weight: float = 0.0):
        super().__init__(clean_share, divergence_weight=divergence_weight)
        if not 0 <= weight < math.inf:
            raise UserError(f"genetic_weight is {weight}, expected 0 or more.")
        if not share >= 0:
            raise UserError(f"genetic_share is {share}, expected 0 or more.")
        self.weight, self.share = weight, share
        self.reads_clean, self.relates_rows = True, weight > 0

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        loss = super().__call__(own, whole, eps_share=eps_share, label_smoothing=label_smoothing)
        if self.weight == 0:
            return loss
        update = whole()
        sample_weight = F.cross_entropy(update.clean, update.labels, reduction="none")
        regularization = genetic_regularization(update.clean, update.attacked, update.labels, sample_weight)
        weight: float | Tensor = self.weight
        if not math.isinf(self.share):
            largest = self.share * eps_share * F.cross_entropy(update.attacked.detach(), update.labels)
            positive = regularization.detach().clamp(min=torch.finfo(regularization.dtype).tiny)  # but for rounding
            weight = (largest / positive).clamp(max=self.weight)
        genetic_loss = weight * regularization
        terms = {"genetic_regularization": regularization, "genetic_loss": genetic_loss}
        return Loss(loss.of_rows, genetic_loss, {**loss.terms, **terms})

    def advice(self, logs: Mapping[str, float]) -> str | None:
        if logs.get("genetic_loss", 0) <= DROWNING * logs["adversarial_loss"]:
            return None
        return (
            f"The regularization is {logs['genetic_loss']:.1f}, and the cross-entropy {logs['adversarial_loss']:.2f} "
            "drowns in it: lower genetic_weight or genetic_share."
        )
