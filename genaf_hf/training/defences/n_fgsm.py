"""Adversarial training with N-FGSM (de Jorge et al., NeurIPS 2022, https://arxiv.org/abs/2202.01181)."""

from genaf_hf.attacks import ATTACKS
from genaf_hf.training.adversaries.n_fgsm import NFGSM
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.cross_entropy import CrossEntropy


@register_defence(
    title="adversarial training with N-FGSM (de Jorge et al., NeurIPS 2022)", citation=ATTACKS["n-fgsm"].citation
)
def n_fgsm(*, eps: float = 4 / 255, noise: float = 2.0, step: float = 1.0) -> tuple[NFGSM, CrossEntropy]:
    """Cross-entropy on images attacked by one step alone: half of PGD's time.

    The paper's adversary: eps 8/255.
    """
    return NFGSM(eps=eps, noise=noise, step=step), CrossEntropy(clean_share=0)
