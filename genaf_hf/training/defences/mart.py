"""MART (Wang et al., ICLR 2020, https://openreview.net/forum?id=rklOg6EFwS)."""

from genaf_hf.attacks.norms import Norm
from genaf_hf.training.adversaries.pgd import PGD
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.mart import Mart
from genaf_hf.values.numbers import check_positive

CITATION = """@inproceedings{wang2020mart,
  title = {Improving Adversarial Robustness Requires Revisiting Misclassified Examples},
  author = {Wang, Yisen and Zou, Difan and Yi, Jinfeng and Bailey, James and Ma, Xingjun and Gu, Quanquan},
  booktitle = {International Conference on Learning Representations},
  year = {2020},
  url = {https://openreview.net/forum?id=rklOg6EFwS}
}"""


@register_defence(title="MART (Wang et al., ICLR 2020)", citation=CITATION)
def mart(
    *,
    eps: float = 4 / 255,
    steps: int = 3,
    step_size: float | None = None,
    norm: Norm = "linf",
    random_start: bool = True,
    beta: float = 5.0,
) -> tuple[PGD, Mart]:
    """Boosted cross-entropy on attacked images, and answers like the clean ones' where those are wrong.

    The paper's adversary: eps 8/255, 10 steps of 2/255.

    Raises:
        UserError: when beta is no positive number.
    """
    check_positive("beta", beta, 5)
    return PGD(eps=eps, steps=steps, step_size=step_size, norm=norm, random_start=random_start), Mart(beta)
