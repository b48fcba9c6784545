"""UAPGD (Deng & Karam, ICIP 2020) over a linear probe."""

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.registry import register_attack
from genaf_hf.attacks.universal import (
    ascend_perturbation,
    attacked,
    check_universal_settings,
    crafted,
    random_batches,
    random_start,
    universal_step_size,
)
from genaf_hf.models.pixel_model import PixelModel

CITATION = """@inproceedings{deng2020uapgd,
  title = {Universal Adversarial Attack Via Enhanced Projected Gradient Descent},
  author = {Deng, Yingpeng and Karam, Lina J.},
  booktitle = {IEEE International Conference on Image Processing},
  year = {2020}
}"""


@register_attack("encoder", "images", "labels", eps=0.05, derived={"step_size": universal_step_size}, citation=CITATION)
def uapgd(
    encoder: PixelModel,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 500,
    step_size: float | None = None,
    momentum: float = 0.9,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """A universal perturbation that raises the cross-entropy of a linear probe, by PGD with momentum.

    The attacker has labels for images of his own, not those of the downstream task, and trains the probe on them.

    Args:
        labels: (n,) class ids of the attacker's images, of at least two classes.
        momentum: decay of the accumulated gradient.
        encoder, images, eps, steps, step_size, batch_size, seed, data: as for `l4a`.

    Returns:
        The perturbation, with its provenance.

    Raises:
        UserError: for a setting, an image or a label outside its range.
    """
    step_size = universal_step_size(eps, step_size)
    check_universal_settings(eps=eps, steps=steps, step_size=step_size, batch_size=batch_size)
    probe = LinearProbe(encoder, images, labels)

    def objective(delta: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        chosen, targets = batch
        return F.cross_entropy(probe(attacked(chosen, delta)), targets)

    generator = torch.Generator().manual_seed(seed)
    delta = random_start(encoder, images.shape[1:], eps, generator)
    batches = random_batches(encoder, (images, probe.targets(labels)), batch_size, generator)
    delta = ascend_perturbation(
        encoder, objective, batches, delta, eps=eps, steps=steps, step_size=step_size, momentum=momentum
    )
    words = "cross-entropy of a linear probe"
    return crafted(encoder, delta, "uapgd", words, eps=eps, steps=steps, step_size=step_size, seed=seed, data=data)
