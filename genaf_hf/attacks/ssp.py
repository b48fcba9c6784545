"""Self-supervised perturbation (Naseer et al., CVPR 2020, https://arxiv.org/abs/2006.04924), made universal."""

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.registry import register_attack
from genaf_hf.attacks.universal import attacked, raise_objective, universal_step_size
from genaf_hf.models.pixel_model import PixelModel

CITATION = """@inproceedings{naseer2020ssp,
  title = {A Self-supervised Approach for Adversarial Robustness},
  author = {Naseer, Muzammal and Khan, Salman and Hayat, Munawar and Khan, Fahad Shahbaz and Porikli, Fatih},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020},
  url = {https://arxiv.org/abs/2006.04924}
}"""


@register_attack("encoder", "images", eps=0.05, derived={"step_size": universal_step_size}, citation=CITATION)
def ssp(
    encoder: PixelModel,
    images: Tensor,
    *,
    eps: float,
    steps: int = 500,
    step_size: float | None = None,
    layer: int | str = 1,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """A universal perturbation that distorts a layer's activations: maximises MSE(h_l(x)^2, h_l(x + delta)^2).

    Args:
        encoder, images, eps, steps, step_size, layer, batch_size, seed, data: as for `l4a`.

    Returns:
        The perturbation, with its provenance.

    Raises:
        UserError: for a setting or an image outside its range, or an unknown layer.
    """

    def objective(delta: Tensor, batch: Tensor) -> Tensor:
        with torch.no_grad():
            clean = encoder.hidden_states(batch, up_to=layer)[-1]
        return F.mse_loss(encoder.hidden_states(attacked(batch, delta), up_to=layer)[-1].square(), clean.square())

    return raise_objective(
        encoder,
        images,
        objective,
        attack="ssp",
        words=f"mean squared change of the squared hidden state {layer}",
        eps=eps,
        steps=steps,
        step_size=step_size,
        batch_size=batch_size,
        seed=seed,
        data=data,
    )
