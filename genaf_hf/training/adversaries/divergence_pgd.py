"""Projected gradient descent on the divergence from the clean answers (Zhang et al., ICML 2019, arXiv 1901.08573)."""

import torch
from torch import Tensor

from genaf_hf.attacks.pgd import pgd
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.training.adversaries.batch import Batch
from genaf_hf.training.adversaries.pgd import PGD
from genaf_hf.training.objectives.trades import divergence


class DivergencePGD(PGD):
    """As `PGD`, but it raises KL(clean || attacked) and does not read the labels.

    Its start is random, as the divergence has no gradient at the clean image: a uniform point of the ball, where the
    authors draw from a Gaussian of standard deviation 0.001.
    """

    def craft(self, model: PixelModel, batch: Batch) -> Tensor:
        with evaluating(model), torch.no_grad():
            clean = model(batch.images)
        settings = {**self.at(batch.eps_share), "loss": lambda logits, _: divergence(clean, logits)}
        return pgd(model, batch.images, batch.labels, **settings, seeds=batch.seeds)
