"""Universal PGD on the attacked classifier's own cross-entropy (Shafahi et al., AAAI 2020, arXiv 1811.11304)."""

from functools import partial

from torch import Tensor

from genaf_hf.attacks.ascent import Objective, falling
from genaf_hf.attacks.losses import objective_words, towards
from genaf_hf.attacks.uapgd import momentum_steps
from genaf_hf.attacks.universal import attacked, universal_attack
from genaf_hf.models.pixel_model import PixelModel

CITATION = """@inproceedings{shafahi2020universal,
  title = {Universal Adversarial Training},
  author = {Shafahi, Ali and Najibi, Mahyar and Xu, Zheng and Dickerson, John and Davis, Larry S. and Goldstein, Tom},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2020},
  url = {https://arxiv.org/abs/1811.11304}
}"""


@universal_attack(
    *("images", "labels"),
    on="model",
    words=partial(objective_words, "cross-entropy of the model"),
    stepping=momentum_steps,
    lengths=falling,
    parts=5,
    citation=CITATION,
    steps=400,
    restarts=2,
    batch_size=64,
)
def upgd(model: PixelModel, images: Tensor, labels: Tensor, *, target: int | None = None) -> Objective:
    """A universal perturbation that raises the classifier's own cross-entropy: what its worst enemy would use.

    The attacker has the model itself and labelled images of its task. From a uniform random start, steps along the
    accumulated gradient, as `uapgd` has them, shrink from `step_size` to nothing along a cosine.

    Args:
        model: that is attacked; left as it was.
        images: (n, 3, h, w) in [0, 1], the attacker's. The other settings are those of `l4a`, but for the step size:
            the first is eps / 5 where it is not given.
        labels: (n,) class ids of the model.
        target: class id that all images are to be taken for; None for any but their own.
    """
    return lambda delta, batch, of_batch: towards(model(attacked(batch, delta)), of_batch, target)
