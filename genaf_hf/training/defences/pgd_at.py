"""Adversarial training with PGD (Madry et al., ICLR 2018, https://arxiv.org/abs/1706.06083)."""

from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.norms import Norm
from genaf_hf.training.adversaries.pgd import PGD
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.cross_entropy import CrossEntropy


@register_defence(title="adversarial training with PGD (Madry et al., ICLR 2018)", citation=ATTACKS["pgd"].citation)
def pgd_at(
    *,
    eps: float = 4 / 255,
    steps: int = 3,
    step_size: float | None = None,
    norm: Norm = "linf",
    random_start: bool = True,
) -> tuple[PGD, CrossEntropy]:
    """Cross-entropy on attacked images alone.

    The paper's adversary: eps 8/255, 7 steps of 2/255.
    """
    adversary = PGD(eps=eps, steps=steps, step_size=step_size, norm=norm, random_start=random_start)
    return adversary, CrossEntropy(clean_share=0)
