"""Adversarial weight perturbation on top of PGD (Wu et al., NeurIPS 2020, https://arxiv.org/abs/2004.05884)."""

from genaf_hf.attacks.norms import Norm
from genaf_hf.training.adversaries.weight_pgd import WeightPGD
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.cross_entropy import CrossEntropy

CITATION = """@inproceedings{wu2020awp,
  title = {Adversarial Weight Perturbation Helps Robust Generalization},
  author = {Wu, Dongxian and Xia, Shu-Tao and Wang, Yisen},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  url = {https://arxiv.org/abs/2004.05884}
}"""


@register_defence(title="adversarial weight perturbation (Wu et al., NeurIPS 2020)", citation=CITATION)
def awp(
    *,
    eps: float = 4 / 255,
    steps: int = 3,
    step_size: float | None = None,
    norm: Norm = "linf",
    random_start: bool = True,
    gamma: float = 0.005,
) -> tuple[WeightPGD, CrossEntropy]:
    """Cross-entropy on attacked images under attacked weights, `gamma` of each one's length.

    The paper's adversary: eps 8/255, 10 steps of 2/255.
    """
    settings = {"eps": eps, "steps": steps, "step_size": step_size, "norm": norm, "random_start": random_start}
    return WeightPGD(gamma=gamma, **settings), CrossEntropy(clean_share=0)
