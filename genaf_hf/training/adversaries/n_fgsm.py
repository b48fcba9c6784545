"""One step from large noise (de Jorge et al., NeurIPS 2022, https://arxiv.org/abs/2202.01181)."""

from collections.abc import Mapping

from torch import Tensor

from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.n_fgsm import check_n_fgsm_settings, n_fgsm
from genaf_hf.attacks.registry import Attack
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.batch import Batch


class NFGSM(Adversary):
    """One N-FGSM step for each image, not clipped to the ball, as the paper trains.

    Args:
        eps: radius of the ball in pixel units.
        noise, step: of the attack, in units of `eps`.

    Raises:
        UserError: for a setting outside its range.
    """

    def __init__(self, *, eps: float, noise: float = 2.0, step: float = 1.0):
        check_n_fgsm_settings(eps=eps, noise=noise, step=step)
        super().__init__(eps=eps, noise=noise, step=step)

    def craft(self, model: PixelModel, batch: Batch) -> Tensor:
        settings = {**self.settings, "eps": self.settings["eps"] * batch.eps_share}
        return n_fgsm(model, batch.images, batch.labels, **settings, seeds=batch.seeds)

    def attacks(self) -> Mapping[str, Attack]:
        return {"n-fgsm": ATTACKS["n-fgsm"].configure(**self.settings, within_eps=True)}
