"""Adversarial weight perturbation (Wu et al., NeurIPS 2020, https://arxiv.org/abs/2004.05884)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_hf.errors import UserError
from genaf_hf.models.batch_norm import batch_norms, normalizing_by_batch
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.training.adversaries.batch import Batch
from genaf_hf.training.adversaries.pgd import PGD
from genaf_hf.values.numbers import is_number


class WeightPGD(PGD):
    """As `PGD`, and then it attacks the weights: for the rest of the training step each weight W is W + v.

    v = gamma * ||W|| * g / ||g||, where g is the gradient of the attacked images' cross-entropy (equations 8 and 9 of
    the paper with one step), for every weight of two or more axes. The gradient that the step leaves is that at W + v;
    the update is of W. BatchNorm that is trained normalises by the attacked images meanwhile, as in the authors' copy:
    v would else shift its features, which an update does not feel and its running statistics do. Under gradient
    accumulation each micro-batch has its own v.

    Args:
        gamma: length of v, in units of the weight's.
        settings: as for `PGD`.

    Raises:
        UserError: for a setting outside its range.
    """

    changes_model = True

    def __init__(self, *, gamma: float, **settings):
        if not is_number(gamma) or not 0 < gamma < 1:
            raise UserError(f"gamma is {gamma}, expected a share of a weight's length in (0, 1), for example 0.005.")
        super().__init__(**settings)
        self.gamma = gamma
        self._before: dict[nn.Parameter, Tensor] | None = None  # weights as they were; None outside of a training step

    @contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        trained = (each for each in model.parameters() if each.requires_grad and each.ndim > 1)
        self._before = before = {each: each.detach().clone() for each in trained}
        try:
            yield
        finally:
            self._before = None
            with torch.no_grad():
                for weight, value in before.items():
                    weight.copy_(value)

    def craft(self, model: PixelModel, batch: Batch) -> Tensor:
        attacked = super().craft(model, batch)
        if self._before is not None:
            self._attack_weights(model, attacked, batch.labels, [*self._before])
        return attacked

    def _attack_weights(
        self, model: PixelModel, attacked: Tensor, labels: Tensor, weights: Sequence[nn.Parameter]
    ) -> None:
        """Adds v to each weight."""
        for weight in weights:
            weight.requires_grad_()  # which a compiled model's have not while its images are attacked
        trained = [norm for norm in batch_norms(model).values() if norm.training]
        with evaluating(model), normalizing_by_batch(trained), torch.enable_grad():
            loss = F.cross_entropy(model(attacked), labels)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    gradient = reduce(gradient, "mean")
                    weight.add_(self.gamma * weight.norm() * gradient / gradient.norm().clamp(min=1e-20))
