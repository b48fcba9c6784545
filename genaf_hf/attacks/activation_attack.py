"""Activation attack (Inkawhich et al., CVPR 2019), made universal: towards the features of one image."""

import torch
from torch import Tensor

from genaf_hf.attacks.universal import Objective, attacked, universal_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel, evaluating

CITATION = """@inproceedings{inkawhich2019activation,
  title = {Feature Space Perturbations Yield More Transferable Adversarial Examples},
  author = {Inkawhich, Nathan and Wen, Wei and Li, Hai and Chen, Yiran},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019}
}"""


@universal_attack(
    "images", words="minus the squared distance of the features to those of image {image}", citation=CITATION
)
def activation_attack(encoder: PixelModel, images: Tensor, *, image: int = 0) -> Objective:
    """A targeted universal perturbation without labels: minimises ||f(x + delta) - f(t)||^2 for one image t.

    Whatever a model that reads these features answers to t, it tends to answer to every image with the perturbation.

    Args:
        encoder, images: as for `l4a`, and its settings.
        image: which of the images t is, from 0 on; of `max_images` one of those that are drawn.
    """
    if not 0 <= image < len(images):
        raise UserError(f"image is {image}, expected one of the attacker's {len(images)} images, counted from 0.")
    with evaluating(encoder), torch.no_grad():
        wanted = encoder.features(images[image : image + 1].to(encoder.device))

    def objective(delta: Tensor, batch: Tensor) -> Tensor:
        return -(encoder.features(attacked(batch, delta)) - wanted).square().sum(dim=1).mean()

    return objective
