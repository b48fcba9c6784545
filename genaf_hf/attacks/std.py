"""Dispersion reduction (Lu et al., CVPR 2020, https://arxiv.org/abs/1911.11616), made universal."""

from torch import Tensor

from genaf_hf.attacks.ascent import Objective
from genaf_hf.attacks.universal import attacked, hidden_state, universal_attack
from genaf_hf.models.pixel_model import PixelModel

CITATION = """@inproceedings{lu2020dispersion,
  title = {Enhancing Cross-Task Black-Box Transferability of Adversarial Examples With Dispersion Reduction},
  author = {Lu, Yantao and Jia, Yunhan and Wang, Jianyu and Li, Bai and Chai, Weiheng and Carin, Lawrence and
            Velipasalar, Senem},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020},
  url = {https://arxiv.org/abs/1911.11616}
}"""


@universal_attack(
    "images", words="minus the standard deviation of hidden state {layer}", reads=hidden_state, citation=CITATION
)
def std(encoder: PixelModel, images: Tensor, *, layer: int | str = 2) -> Objective:
    """A universal perturbation that flattens a layer's activations: maximises -std(h_l(x + delta)), per image.

    Args:
        encoder, images: as for `l4a`, and its settings.
        layer: as for `l4a`; a higher one by default, because flattening the lowest does little: on a small ResNet it
            left 79 % of accuracy at 10/255, where flattening the second stage left 61 %.
    """

    def objective(delta: Tensor, batch: Tensor) -> Tensor:
        return -hidden_state(encoder, attacked(batch, delta), layer=layer).flatten(1).std(dim=1).mean()

    return objective
