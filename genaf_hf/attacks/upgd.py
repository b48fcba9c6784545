"""Universal PGD on the attacked classifier's own cross-entropy (Shafahi et al., AAAI 2020, arXiv 1811.11304)."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.attacks.norms import NORMS, Norm
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.registry import register_attack
from genaf_hf.attacks.uap import predictions
from genaf_hf.attacks.uapgd import momentum_steps
from genaf_hf.attacks.universal import EPS, Step, attacked, check_budget, raised, random_batches
from genaf_hf.models.pixel_model import PixelModel, evaluating

CITATION = """@inproceedings{shafahi2020universal,
  title = {Universal Adversarial Training},
  author = {Shafahi, Ali and Najibi, Mahyar and Xu, Zheng and Dickerson, John and Davis, Larry S. and Goldstein, Tom},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2020},
  url = {https://arxiv.org/abs/1811.11304}
}"""


def fifth_of_eps(eps: float, **others) -> float:
    """The first step size that is not given; `others` are settings that it does not depend on."""
    return eps / 5


@register_attack(
    *("model", "images", "labels"),
    universal=True,
    derived={"step_size": fifth_of_eps},
    norms=NORMS,
    citation=CITATION,
)
def upgd(
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = EPS,
    norm: Norm = "linf",
    steps: int = 400,
    step_size: float | None = None,
    restarts: int = 2,
    batch_size: int = 64,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """A universal perturbation that raises the classifier's own cross-entropy: what its worst enemy would use.

    The attacker has the model itself and labelled images of its task. From a uniform random start, steps along the
    accumulated gradient, as `uapgd` has them, shrink from `step_size` to nothing along a cosine; of several starts the
    perturbation is kept that leaves fewest of the attacker's images right.

    Args:
        model: that is attacked; left as it was.
        images: (n, 3, h, w) in [0, 1], the attacker's.
        labels: (n,) class ids of the model.
        eps: radius of the ball in pixel units.
        norm: `"linf"` or `"l2"`.
        steps: number of steps of each start, each on a fresh random batch.
        step_size: the first, in pixel units, default eps / 5.
        restarts: number of random starts.
        batch_size: images per step.
        seed: of the starts and of the batches.
        data: a name for the images, kept in the provenance.

    Raises:
        UserError: for a setting outside its range, or a model without finite values or gradients.
    """
    check_budget(restarts, None)
    step_size = fifth_of_eps(eps) if step_size is None else step_size

    def cross_entropy(delta: Tensor, batch: Tensor, of_batch: Tensor) -> Tensor:
        return F.cross_entropy(model(attacked(batch, delta)), of_batch)

    def falling_steps(delta: Tensor, step_size: float, norm: str) -> Step:
        lengths = (step_size * (1 + math.cos(math.pi * number / steps)) / 2 for number in range(steps))
        direction = torch.zeros_like(delta)
        accumulate = momentum_steps(direction, 1.0, norm)

        def step(gradient: Tensor) -> None:
            direction.zero_()
            accumulate(gradient)
            delta.data += next(lengths) * direction

        return step

    def right(found: UniversalPerturbation) -> float:
        with evaluating(model):
            return int((predictions(model, images, found.delta) == labels.to(found.delta.device)).sum())

    told = "upgd", "cross-entropy of the model"
    tried = [
        raised(
            *([model], (images, labels), lambda *_: cross_entropy, told, random_batches, falling_steps),
            eps=eps,
            norm=norm,
            steps=steps,
            step_size=step_size,
            batch_size=batch_size,
            seed=seed + start,
            data=data,
        )
        for start in range(restarts)
    ]
    return replace(min(tried, key=right), seed=seed)
