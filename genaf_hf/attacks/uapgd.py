"""UAPGD (Deng & Karam, ICIP 2020) over a linear probe."""

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.attacks.norms import steepest_ascent
from genaf_hf.attacks.universal import Objective, Step, attacked, universal_attack
from genaf_hf.models.pixel_model import PixelModel

CITATION = """@inproceedings{deng2020uapgd,
  title = {Universal Adversarial Attack Via Enhanced Projected Gradient Descent},
  author = {Deng, Yingpeng and Karam, Lina J.},
  booktitle = {IEEE International Conference on Image Processing},
  year = {2020}
}"""


def momentum_steps(delta: Tensor, step_size: float, norm: str, *, momentum: float = 0.9) -> Step:
    """Steps along the accumulated gradient, each gradient divided by its L1 norm; along its own for momentum 0.

    Args:
        delta, step_size, norm: as for `steepest_steps`.
        momentum: decay of the accumulated gradient.
    """
    velocity = torch.zeros_like(delta)

    def step(gradient: Tensor) -> None:
        length = gradient.abs().sum().clamp(min=1e-12) if momentum else 1
        velocity.mul_(momentum).add_(gradient / length)
        delta.data += step_size * steepest_ascent(velocity[None], norm)[0]

    return step


@universal_attack(
    *("images", "labels"), words="cross-entropy of a linear probe", stepping=momentum_steps, citation=CITATION
)
def uapgd(encoder: PixelModel, images: Tensor, labels: Tensor) -> Objective:
    """A universal perturbation that raises the cross-entropy of a linear probe, by PGD with momentum (0.9).

    The attacker has labels for images of his own, not those of the downstream task, and trains the probe on them.

    Args:
        encoder, images: as for `l4a`, and its settings.
        labels: (n,) class ids of the attacker's images, of at least two classes.
    """
    probe = LinearProbe(encoder, images, labels)

    def objective(delta: Tensor, batch: Tensor, of_batch: Tensor) -> Tensor:
        return F.cross_entropy(probe(attacked(batch, delta)), probe.targets(of_batch))

    return objective
