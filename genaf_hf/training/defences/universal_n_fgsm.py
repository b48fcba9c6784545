"""Universal adversarial training with N-FGSM beside it, for who expects attackers that know the model."""

from collections.abc import Sequence

from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.ascent import EPS
from genaf_hf.training.adversaries.mixture import Mixture
from genaf_hf.training.adversaries.n_fgsm import NFGSM
from genaf_hf.training.adversaries.universal import BANK, Universal
from genaf_hf.training.defences import universal
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.cross_entropy import CrossEntropy
from genaf_hf.values.numbers import check_positive

CITATION = f"{universal.CITATION}\n\n{ATTACKS['n-fgsm'].citation}"


@register_defence(
    title="universal adversarial training (Shafahi et al., AAAI 2020; by class, Benz et al., ICME 2021) with N-FGSM "
    "(de Jorge et al., NeurIPS 2022)",
    citation=CITATION,
)
def universal_n_fgsm(
    *,
    eps: float = EPS,
    step_size: float | None = None,
    clean_share: float = 0.25,
    live: int | None = None,
    class_share: float | None = None,
    bank: Sequence[str] = BANK,
    bank_steps: int = 300,
    single_pass: bool = True,
    per_image_share: float = 0.5,
    per_image_eps: float = 4 / 255,
) -> tuple[Mixture, CrossEntropy]:
    """Cross-entropy on clean images, on images under perturbations that are the same for all, and under N-FGSM.

    `per_image_share` is the dial: so many of the attacked images are attacked by N-FGSM, each for itself, at
    `per_image_eps`. The more there are, the more PGD is withstood, and the less clean accuracy is left. A step takes
    1 + (1 - clean_share) * per_image_share times as long as one of plain fine-tuning.
    """
    check_positive("per_image_eps", per_image_eps, 4 / 255)
    shared = Universal(
        eps=eps, step_size=step_size, live=live, class_share=class_share, bank=bank, bank_steps=bank_steps
    )
    adversary = Mixture(shared, NFGSM(eps=per_image_eps), per_image_share)
    return adversary, CrossEntropy(clean_share, single_pass)
