"""Dispersion reduction (Lu et al., CVPR 2020, https://arxiv.org/abs/1911.11616), made universal."""

from torch import Tensor

from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.registry import register_attack
from genaf_hf.attacks.universal import attacked, raise_objective, universal_step_size
from genaf_hf.models.pixel_model import PixelModel

CITATION = """@inproceedings{lu2020dispersion,
  title = {Enhancing Cross-Task Black-Box Transferability of Adversarial Examples With Dispersion Reduction},
  author = {Lu, Yantao and Jia, Yunhan and Wang, Jianyu and Li, Bai and Chai, Weiheng and Carin, Lawrence and
            Velipasalar, Senem},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020},
  url = {https://arxiv.org/abs/1911.11616}
}"""


@register_attack("encoder", "images", eps=0.05, derived={"step_size": universal_step_size}, citation=CITATION)
def std(
    encoder: PixelModel,
    images: Tensor,
    *,
    eps: float,
    steps: int = 500,
    step_size: float | None = None,
    layer: int | str = 2,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """A universal perturbation that flattens a layer's activations: maximises -std(h_l(x + delta)), per image.

    Args:
        layer: as for `l4a`; a higher one by default, because flattening the lowest does little: on a small ResNet it
            left 79 % of accuracy at 10/255, where flattening the second stage left 61 %.
        encoder, images, eps, steps, step_size, batch_size, seed, data: as for `l4a`.

    Returns:
        The perturbation, with its provenance.

    Raises:
        UserError: for a setting or an image outside its range, or an unknown layer.
    """

    def objective(delta: Tensor, batch: Tensor) -> Tensor:
        return -encoder.hidden_states(attacked(batch, delta), up_to=layer)[-1].flatten(1).std(dim=1).mean()

    return raise_objective(
        encoder,
        images,
        objective,
        attack="std",
        words=f"minus the standard deviation of hidden state {layer}",
        eps=eps,
        steps=steps,
        step_size=step_size,
        batch_size=batch_size,
        seed=seed,
        data=data,
    )
