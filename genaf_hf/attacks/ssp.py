"""Self-supervised perturbation (Naseer et al., CVPR 2020, https://arxiv.org/abs/2006.04924), made universal."""

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.attacks.ascent import Objective
from genaf_hf.attacks.universal import attacked, hidden_state, universal_attack
from genaf_hf.models.pixel_model import PixelModel

CITATION = """@inproceedings{naseer2020ssp,
  title = {A Self-supervised Approach for Adversarial Robustness},
  author = {Naseer, Muzammal and Khan, Salman and Hayat, Munawar and Khan, Fahad Shahbaz and Porikli, Fatih},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020},
  url = {https://arxiv.org/abs/2006.04924}
}"""


@universal_attack(
    "images", words="mean squared change of the squared hidden state {layer}", reads=hidden_state, citation=CITATION
)
def ssp(encoder: PixelModel, images: Tensor, *, layer: int | str = 1) -> Objective:
    """A universal perturbation that distorts a layer's activations: maximises MSE(h_l(x)^2, h_l(x + delta)^2).

    Args:
        encoder, images, layer: as for `l4a`, and its settings.
    """

    def objective(delta: Tensor, batch: Tensor) -> Tensor:
        with torch.no_grad():
            clean = hidden_state(encoder, batch, layer=layer)
        return F.mse_loss(hidden_state(encoder, attacked(batch, delta), layer=layer).square(), clean.square())

    return objective
