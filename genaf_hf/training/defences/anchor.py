"""An encoder hardened without labels: universal perturbations, and features that stay where they were."""

from collections.abc import Sequence

from genaf_hf.attacks.universal import EPS
from genaf_hf.training.adversaries.universal import Universal
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.defences.universal import UNIVERSAL_TRAINING
from genaf_hf.training.objectives.anchor import Anchor

FARE = """@inproceedings{schlarmann2024robustclip,
  title = {Robust {CLIP}: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large Vision-Language
           Models},
  author = {Schlarmann, Christian and Singh, Naman Deep and Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  url = {https://arxiv.org/abs/2402.12336}
}"""


@register_defence(
    title="universal adversarial training of features (Shafahi et al., AAAI 2020; after FARE, Schlarmann et al., 2024)",
    citation=f"{UNIVERSAL_TRAINING}\n\n{FARE}",
)
def anchor(
    *,
    eps: float = EPS,
    step_size: float | None = None,
    clean_share: float = 0.5,
    live: int = 2,
    bank: Sequence[str] = ("l4a", "ssp", "fff"),
    bank_steps: int = 300,
    single_pass: bool = False,
) -> tuple[Universal, Anchor]:
    """Features of clean images, and of those under perturbations that are the same for all, stay the public encoder's.

    The live perturbations push them away. No labels are read, so the head stays as it is: this is for an encoder that
    others fine-tune. FARE crafts a perturbation for each image.
    """
    adversary = Universal(eps=eps, step_size=step_size, live=live, bank=bank, bank_steps=bank_steps)
    return adversary, Anchor(clean_share, single_pass)
