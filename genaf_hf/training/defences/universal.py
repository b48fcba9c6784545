"""Universal adversarial training (Shafahi et al., AAAI 2020, https://arxiv.org/abs/1811.11304), with a bank of DAEs."""

from collections.abc import Sequence

from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.ascent import EPS
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.live_patch import AREA, SHARE, LivePatch
from genaf_hf.training.adversaries.mixture import mixed
from genaf_hf.training.adversaries.universal import BANK, Universal
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.cross_entropy import CrossEntropy

UNIVERSAL_TRAINING = ATTACKS["upgd"].citation  # the same paper
CLASS_WISE = """@inproceedings{benz2021universal,
  title = {Universal Adversarial Training with Class-Wise Perturbations},
  author = {Benz, Philipp and Zhang, Chaoning and Karjauv, Adil and Kweon, In So},
  booktitle = {IEEE International Conference on Multimedia and Expo},
  year = {2021},
  url = {https://ieeexplore.ieee.org/document/9428419}
}"""
CITATION = f"{UNIVERSAL_TRAINING}\n\n{CLASS_WISE}"


@register_defence(
    title="universal adversarial training (Shafahi et al., AAAI 2020; by class, Benz et al., ICME 2021)",
    citation=CITATION,
)
def universal(
    *,
    eps: float = EPS,
    step_size: float | None = None,
    clean_share: float = 0.5,
    live: int | None = None,
    class_share: float | None = None,
    bank: Sequence[str] = BANK,
    bank_steps: int = 300,
    patch_share: float = SHARE,
    patch_area: float = AREA,
    single_pass: bool = False,
    divergence_weight: float = 0.5,
    divergence_temperature: float = 1.0,
    ascent_share: float = 0.0,
) -> tuple[Adversary, CrossEntropy]:
    """Cross-entropy on clean images and on images under perturbations that many share, answered alike.

    Live perturbations are each for the images of a class, up to 32 classes or in part (`class_share`), else for images
    of any class as those of the bank are.
    Perturbations of one image alone, such as PGD's, are not withstood. As large a share of the attacked images as
    `patch_share` says gets a live patch in place of a perturbation.

    With an `ascent_share` live perturbations do not climb the loss that weights are trained on: as large a share of the
    images that have one is passed once more, and moves it against the logit of their label less the mean of all. Where
    there are few images, longer attacks on the model itself are withstood then. A `divergence_temperature` above 1,
    with labels that are smoothed, withstands the longest better, for clean accuracy.

    A step takes about twice as long as one of plain fine-tuning; with `single_pass`, where a share of each batch stays
    clean and the rest is attacked, as long. It takes a `divergence_weight` of 0, since no image is answered twice.
    """
    perturbations = Universal(
        eps=eps,
        step_size=step_size,
        live=live,
        class_share=class_share,
        bank=bank,
        bank_steps=bank_steps,
        ascent_share=ascent_share,
    )
    adversary = mixed(perturbations, (LivePatch(area=patch_area), patch_share))
    return adversary, CrossEntropy(clean_share, single_pass, divergence_weight, divergence_temperature)
