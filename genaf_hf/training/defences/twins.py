"""TWINS (Liu et al., CVPR 2023, https://arxiv.org/abs/2303.11135)."""

from genaf_hf.attacks.norms import Norm
from genaf_hf.training.adversaries.twin_pgd import TwinPGD
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.twins import Twins
from genaf_hf.values.numbers import check_positive

CITATION = """@inproceedings{liu2023twins,
  title = {{TWINS}: A Fine-Tuning Framework for Improved Transferability of Adversarial Robustness and Generalization},
  author = {Liu, Ziquan and Xu, Yi and Ji, Xiangyang and Chan, Antoni B.},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2023},
  url = {https://arxiv.org/abs/2303.11135}
}"""


@register_defence(title="TWINS (Liu et al., CVPR 2023)", citation=CITATION)
def twins(
    *,
    eps: float = 4 / 255,
    steps: int = 3,
    step_size: float | None = None,
    norm: Norm = "linf",
    random_start: bool = True,
    frozen_weight: float = 1.0,
) -> tuple[TwinPGD, Twins]:
    """Attacked images, half of each batch normalised by the public encoder's statistics; for models with BatchNorm.

    The paper's adversary: eps 8/255, 10 steps of 2/255, and an encoder that was trained on attacked images before.

    Raises:
        UserError: when the weight is no positive number.
    """
    check_positive("frozen_weight", frozen_weight, 1)
    adversary = TwinPGD(eps=eps, steps=steps, step_size=step_size, norm=norm, random_start=random_start)
    return adversary, Twins(frozen_weight)
