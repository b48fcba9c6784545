"""Universal adversarial training of a classifier whose features stay near the public encoder's."""

from collections.abc import Sequence

from genaf_hf.attacks.ascent import EPS
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.live_patch import AREA, SHARE, LivePatch
from genaf_hf.training.adversaries.mixture import mixed
from genaf_hf.training.adversaries.universal import BANK, Universal
from genaf_hf.training.defences.anchor import FARE
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.defences.universal import CITATION as UNIVERSAL
from genaf_hf.training.objectives.cross_entropy import CrossEntropy


@register_defence(
    title="universal adversarial training (Shafahi et al., AAAI 2020; by class, Benz et al., ICME 2021) with features "
    "that stay near the public encoder's (after FARE, Schlarmann et al., ICML 2024)",
    citation=f"{UNIVERSAL}\n\n{FARE}",
)
def universal_anchor(
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
    ascent_share: float = 0.5,
    anchor_weight: float = 10.0,
) -> tuple[Adversary, CrossEntropy]:
    """`universal`, and as `anchor_weight` times the loss of `anchor` how far features are from the public encoder's.

    For images of what the public encoder knows, where a linear probe on it is about as good as a fine-tune: little is
    forgotten there, and what attacks the features leads nowhere. On others it holds the training back.

    A step takes a pass of the public encoder without gradients and that of the live perturbations (`ascent_share`, as
    in `universal`) longer than one of `universal`.
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
    return adversary, CrossEntropy(clean_share, single_pass, divergence_weight, anchor_weight=anchor_weight)
