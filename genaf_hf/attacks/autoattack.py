"""AutoAttack (Croce & Hein, ICML 2020, https://arxiv.org/abs/2003.01690), by the authors' own package."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from genaf_hf.attacks.norms import NORMS, Norm
from genaf_hf.attacks.pgd import check_attack_settings, check_batch_size, check_max_images, gradient_of, loss_of
from genaf_hf.attacks.registry import register_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import evaluating, only_trainable

logger = logging.getLogger(__name__)

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
WITHOUT_DLR = ("apgd-ce", "fab-t", "square")
PACKAGE = "pyautoattack"
NAMES = {"linf": "Linf", "l2": "L2"}  # the authors'
TARGETS = 9
CITATION = """@inproceedings{croce2020autoattack,
  title = {Reliable Evaluation of Adversarial Robustness With an Ensemble of Diverse Parameter-free Attacks},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
  url = {https://arxiv.org/abs/2003.01690}
}"""


def is_installed() -> bool:
    """Whether there is the authors' package, which the first installation does without."""
    return find_spec(PACKAGE) is not None


@register_attack("model", "images", "labels", eps=8 / 255, norms=NORMS, citation=CITATION, on_standing=True)
def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    max_images: int | None = None,
    batch_size: int = 250,
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """Adversarial images by the standard version: APGD-CE, APGD-T, FAB-T and Square, each on what is left.

    APGD-T's loss needs four classes. With fewer the others are run, and the log says so. With fewer than ten classes
    the targeted attacks go through all the wrong ones, instead of nine.

    Args:
        max_images: so many of the images at most are attacked, the first ones; the others come back as they are.
        batch_size: images at a time.
        seeds: the first one seeds the package, which draws for a whole batch at once.
        model, images, labels, eps, norm: as for `pgd`.

    Returns:
        (n, 3, h, w) in [0, 1], at most `eps` away from `images`; an image that withstands all is as it was.

    Raises:
        UserError: when the package is not installed, or for a setting or an image outside its range.
    """
    check_attack_settings(eps=eps, steps=1, step_size=eps, norm=norm)
    check_max_images(max_images)
    check_batch_size(batch_size)
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise UserError("AutoAttack is not installed: pip install 'genaf_hf[autoattack]'.") from error
    seed = 0 if seeds is None else seeds[0]
    devices = [images.device] if images.is_cuda else []
    with evaluating(model), only_trainable(model, []), torch.random.fork_rng(devices):
        first = images[:1].requires_grad_()
        gradient_of(loss_of(model, labels, lambda logits, _: logits.sum())(first), first)
        classes = model(images[:1]).shape[1]
        attacks = STANDARD if classes >= 4 else WITHOUT_DLR
        if attacks != STANDARD:
            logger.warning(
                "AutoAttack's standard version needs at least 4 classes, this model has %d: %s are run, apgd-t is not.",
                *(classes, ", ".join(attacks)),
            )
        authors = AutoAttack(
            model, norm=NAMES[norm], eps=eps, version="custom", attacks=list(attacks), seed=seed, device=images.device
        )
        authors.apgd.n_restarts = authors.fab.n_restarts = authors.apgd_targeted.n_restarts = 1
        authors.apgd_targeted.n_target_classes = authors.fab.n_target_classes = min(TARGETS, classes - 1)
        first_ones = images[:max_images]
        attacked, _ = authors.run_standard_evaluation(first_ones, labels[:max_images], batch_size=batch_size)
    return torch.cat([attacked, images[len(first_ones) :]])
