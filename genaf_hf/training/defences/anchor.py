"""An encoder hardened without labels: universal perturbations, and features that stay where they were."""

from collections.abc import Sequence

from genaf_hf.attacks.ascent import EPS
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.live_patch import AREA, SHARE, LivePatch
from genaf_hf.training.adversaries.mixture import mixed
from genaf_hf.training.adversaries.universal import BANK, Universal
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.defences.universal import CITATION as UNIVERSAL
from genaf_hf.training.objectives.anchor import Anchor

FARE = """@inproceedings{schlarmann2024robustclip,
  title = {Robust {CLIP}: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large Vision-Language
           Models},
  author = {Schlarmann, Christian and Singh, Naman Deep and Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  url = {https://arxiv.org/abs/2402.12336}
}"""


CLUSTERS = """@inproceedings{caron2018deepcluster,
  title = {Deep Clustering for Unsupervised Learning of Visual Features},
  author = {Caron, Mathilde and Bojanowski, Piotr and Joulin, Armand and Douze, Matthijs},
  booktitle = {European Conference on Computer Vision},
  year = {2018},
  url = {https://arxiv.org/abs/1807.05520}
}"""


@register_defence(
    title="universal adversarial training of features (Shafahi et al., AAAI 2020; after FARE, Schlarmann et al., 2024)",
    citation=f"{UNIVERSAL}\n\n{CLUSTERS}\n\n{FARE}",
)
def anchor(
    *,
    eps: float = EPS,
    step_size: float | None = None,
    clean_share: float = 0.5,
    live: int | None = None,
    class_share: float = 1.0,
    bank: Sequence[str] = BANK,
    bank_steps: int = 300,
    patch_share: float = SHARE,
    patch_area: float = AREA,
    single_pass: bool = False,
) -> tuple[Adversary, Anchor]:
    """Features of clean images, and of those under perturbations that are the same for all, stay the public encoder's.

    The live perturbations push them away, each those of a cluster of the public encoder's features (`class_share`), as
    `universal` has one for each class; a `patch_share` of the attacked images gets a live patch in their place. No
    labels are read, so the head stays as it is: this is for an encoder that others fine-tune. FARE crafts a
    perturbation for each image.
    """
    perturbations = Universal(
        eps=eps,
        step_size=step_size,
        live=live,
        class_share=class_share,
        bank=bank,
        bank_steps=bank_steps,
        of_head=False,
    )
    return mixed(perturbations, (LivePatch(area=patch_area), patch_share)), Anchor(clean_share, single_pass)
