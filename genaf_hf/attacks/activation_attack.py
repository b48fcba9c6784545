"""Activation attack (Inkawhich et al., CVPR 2019), made universal: towards the features of one image."""

from torch import Tensor

from genaf_hf.attacks.ascent import Objective
from genaf_hf.attacks.universal import features, towards_image, universal_attack
from genaf_hf.models.pixel_model import PixelModel

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
    """A targeted universal perturbation without labels: `towards_image` with the features that heads read.

    Args:
        encoder, images: as for `l4a`, and its settings.
        image: which of the images t is, from 0 on; of `max_images` one of those that are drawn.
    """
    return towards_image(encoder, images, read=features, image=image)
