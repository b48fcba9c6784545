"""Projected gradient descent on the divergence from the clean answers (Zhang et al., ICML 2019, arXiv 1901.08573)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genaf_hf.attacks.pgd import pgd
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.training.adversaries.pgd import PGD
from genaf_hf.training.objectives.trades import divergence


class DivergencePGD(PGD):
    """As `PGD`, but it raises KL(clean || attacked) and does not read the labels.

    Its start is random, as the divergence has no gradient at the clean image: a uniform point of the ball, where the
    authors draw from a Gaussian of standard deviation 0.001.
    """

    def craft(
        self, model: PixelModel, images: Tensor, labels: Tensor, *, seeds: Sequence[int], eps_share: float = 1.0
    ) -> Tensor:
        with evaluating(model), torch.no_grad():
            clean = model(images)
        return pgd(
            model, images, labels, **self.at(eps_share), seeds=seeds, loss=lambda logits, _: divergence(clean, logits)
        )
