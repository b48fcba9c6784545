"""UAPGD (Deng & Karam, ICIP 2020) over a linear probe."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from genaf_hf.attacks.ascent import Objective, Step
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.attacks.losses import objective_words, towards
from genaf_hf.attacks.norms import steepest_ascent
from genaf_hf.attacks.universal import attacked, universal_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel

CITATION = """@inproceedings{deng2020uapgd,
  title = {Universal Adversarial Attack Via Enhanced Projected Gradient Descent},
  author = {Deng, Yingpeng and Karam, Lina J.},
  booktitle = {IEEE International Conference on Image Processing},
  year = {2020}
}"""


def momentum_steps(delta: Tensor, lengths: Iterator[float], norm: str, *, momentum: float = 0.9) -> Step:
    """Steps along the accumulated gradient, each gradient divided by its L1 norm; along its own for momentum 0.

    Args:
        delta, lengths, norm: as for `steepest_steps`.
        momentum: decay of the accumulated gradient.

    Raises:
        UserError: for a momentum below 0.
    """
    if momentum < 0:
        raise UserError(f"momentum is {momentum}, expected 0 or more, for example 0.9.")
    velocity = torch.zeros_like(delta)

    def step(gradient: Tensor) -> None:
        length = gradient.abs().sum().clamp(min=1e-12) if momentum else 1
        velocity.mul_(momentum).add_(gradient / length)
        delta.data += next(lengths) * steepest_ascent(velocity[None], norm)[0]

    return step


@universal_attack(
    *("images", "labels"),
    words=partial(objective_words, "cross-entropy of a linear probe"),
    stepping=momentum_steps,
    citation=CITATION,
)
def uapgd(encoder: PixelModel, images: Tensor, labels: Tensor, *, target: int | None = None) -> Objective:
    """A universal perturbation that raises the cross-entropy of a linear probe, by PGD with momentum (0.9).

    The attacker has labels for images of his own, not those of the downstream task, and trains the probe on them. With
    a target the perturbation lowers the cross-entropy at that class instead, so that every image is taken for it.

    Args:
        encoder, images: as for `l4a`, and its settings.
        labels: (n,) class ids of the attacker's images, of at least two classes.
        target: class id among the labels that all images are to be taken for; None for any but their own.
    """
    probe = LinearProbe(encoder, images, labels)
    wanted = None if target is None else probe.column(target)
    return lambda delta, batch, of_batch: towards(probe(attacked(batch, delta)), probe.targets(of_batch), wanted)
