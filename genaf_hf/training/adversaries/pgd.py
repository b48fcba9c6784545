"""Projected gradient descent on the labels (Madry et al., ICLR 2018, https://arxiv.org/abs/1706.06083)."""

from collections.abc import Mapping

from torch import Tensor

from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.norms import Norm
from genaf_hf.attacks.pgd import check_attack_settings, default_step_size, pgd
from genaf_hf.attacks.registry import Attack
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.batch import Batch


class PGD(Adversary):
    """One PGD attack for each image; eps and step size grow with the share of eps.

    Args:
        eps, steps, step_size, norm, random_start: as for `genaf_hf.pgd`.

    Raises:
        UserError: for a setting outside its range.
    """

    def __init__(
        self,
        *,
        eps: float,
        steps: int,
        step_size: float | None = None,
        norm: Norm = "linf",
        random_start: bool = True,
    ):
        step_size = default_step_size(eps, steps) if step_size is None and steps else step_size
        check_attack_settings(eps=eps, steps=steps, step_size=step_size, norm=norm)
        super().__init__(eps=eps, steps=steps, step_size=step_size, norm=norm, random_start=random_start)

    def at(self, eps_share: float) -> dict:
        """Settings of the attack at a share of eps."""
        return {**self.settings, **{name: self.settings[name] * eps_share for name in ("eps", "step_size")}}

    def craft(self, model: PixelModel, batch: Batch) -> Tensor:
        return pgd(model, batch.images, batch.labels, **self.at(batch.eps_share), seeds=batch.seeds)

    def attacks(self) -> Mapping[str, Attack]:
        return {"pgd": ATTACKS["pgd"].configure(**self.settings)}
