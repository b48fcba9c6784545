"""Universal adversarial training with N-FGSM beside it, for who expects attackers that know the model."""

from collections.abc import Sequence

from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.ascent import EPS
from genaf_hf.attacks.pgd import check_linf
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.live_patch import AREA, SHARE, LivePatch
from genaf_hf.training.adversaries.mixture import mixed
from genaf_hf.training.adversaries.n_fgsm import NFGSM
from genaf_hf.training.adversaries.universal import BANK, Universal
from genaf_hf.training.defences import universal
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.cross_entropy import CrossEntropy
from genaf_hf.values.numbers import check_share

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
    patch_share: float = SHARE,
    patch_area: float = AREA,
    single_pass: bool = True,
    per_image_share: float = 0.5,
    per_image_eps: float = 4 / 255,
) -> tuple[Adversary, CrossEntropy]:
    """Cross-entropy on clean images, on images under perturbations that are the same for all, and under N-FGSM.

    `per_image_share` is the dial: so many of the attacked images are attacked by N-FGSM, each for itself, at
    `per_image_eps`. The more there are, the more PGD is withstood, and the less clean accuracy is left. Of the others
    as large a share as `patch_share` says gets a live patch. A step takes 1 + (1 - clean_share) * per_image_share times
    as long as one of plain fine-tuning.
    """
    check_linf("per_image_eps", per_image_eps)
    for name, share in (("per_image_share", per_image_share), ("patch_share", patch_share)):
        check_share(name, share)
    shared = Universal(
        eps=eps, step_size=step_size, live=live, class_share=class_share, bank=bank, bank_steps=bank_steps
    )
    patched = patch_share * (1 - per_image_share)
    adversary = mixed(shared, (LivePatch(area=patch_area), patched), (NFGSM(eps=per_image_eps), per_image_share))
    return adversary, CrossEntropy(clean_share, single_pass)
