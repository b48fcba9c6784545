"""Gen-AF against universal perturbations (Zhou et al., IEEE S&P 2024; Shafahi et al., AAAI 2020)."""

from collections.abc import Sequence

from genaf_hf.attacks.ascent import EPS
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.live_patch import AREA, SHARE, LivePatch
from genaf_hf.training.adversaries.mixture import mixed
from genaf_hf.training.adversaries.universal import BANK, Universal
from genaf_hf.training.defences import gen_af, universal
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.genetic import Genetic

CITATION = f"{gen_af.CITATION}\n\n{universal.CITATION}"


@register_defence(
    title="Gen-AF (Zhou et al., IEEE S&P 2024) against universal perturbations (Shafahi et al., AAAI 2020; by class, "
    "Benz et al., ICME 2021)",
    citation=CITATION,
    adapts=True,
)
def gen_af_universal(
    *,
    eps: float = EPS,
    step_size: float | None = None,
    clean_share: float = 0.5,
    genetic_weight: float = 200.0,
    genetic_share: float = 0.2,
    live: int | None = None,
    class_share: float | None = None,
    bank: Sequence[str] = BANK,
    bank_steps: int = 300,
    patch_share: float = SHARE,
    patch_area: float = AREA,
    divergence_weight: float = 0.5,
) -> tuple[Adversary, Genetic]:
    """Gen-AF with its dual tracks, its regularization and its second stage, and the adversary of `universal`."""
    perturbations = Universal(
        eps=eps, step_size=step_size, live=live, class_share=class_share, bank=bank, bank_steps=bank_steps
    )
    adversary = mixed(perturbations, (LivePatch(area=patch_area), patch_share))
    return adversary, Genetic(clean_share, genetic_weight, genetic_share, divergence_weight)
