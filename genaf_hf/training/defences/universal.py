"""Universal adversarial training (Shafahi et al., AAAI 2020, https://arxiv.org/abs/1811.11304), with a bank of DAEs."""

from collections.abc import Sequence

from genaf_hf.training.adversaries.universal import Universal
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.cross_entropy import CrossEntropy

CITATION = """@inproceedings{shafahi2020universal,
  title = {Universal Adversarial Training},
  author = {Shafahi, Ali and Najibi, Mahyar and Xu, Zheng and Dickerson, John and Davis, Larry S. and Goldstein, Tom},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2020},
  url = {https://arxiv.org/abs/1811.11304}
}"""


@register_defence(title="universal adversarial training (Shafahi et al., AAAI 2020)", citation=CITATION)
def universal(
    *,
    eps: float = 10 / 255,
    step_size: float | None = None,
    clean_share: float = 0.5,
    live: int = 6,
    bank: Sequence[str] = ("l4a", "ssp", "uapgd", "fff"),
    bank_steps: int = 300,
    single_pass: bool = False,
    divergence_weight: float = 0.5,
) -> tuple[Universal, CrossEntropy]:
    """Cross-entropy on clean images and on images under perturbations that are the same for all, answered alike.

    Perturbations of one image alone, such as PGD's, it does not withstand. A step takes about twice as long as one of
    plain fine-tuning; with `single_pass`, where a share of each batch stays clean and the rest is attacked, as long. It
    takes a `divergence_weight` of 0, since no image is answered twice.
    """
    adversary = Universal(eps=eps, step_size=step_size, live=live, bank=bank, bank_steps=bank_steps)
    return adversary, CrossEntropy(clean_share, single_pass, divergence_weight)
