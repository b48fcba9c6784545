"""Attacks, one paper a file.

An attack is a function under a decorator that puts it into `ATTACKS`, from where the command line, reports, cards and
the demo have its name, its settings, what its attacker must know and its citation. Adding one is a file here, its
import below, and one test.

On the public encoder, if it raises an objective by steps of one perturbation for all images, the file holds the
objective and nothing else:

    @universal_attack("images", words="mean activation of hidden state {layer}", citation=CITATION)
    def loud(encoder: PixelModel, images: Tensor, *, layer: int | str = 1) -> Objective:
        return lambda delta, batch: encoder.hidden_states(attacked(batch, delta), up_to=layer)[-1].mean()

Start, batches, steps, eps, checks and provenance are the decorator's, see `universal_attack`; `std` is an example,
`fff` one with other steps, `l4a_ugs` one with other batches. Where there is more to it than an objective, as in `uap`,
and for attacks on the model itself, the function is the whole attack:

    @register_attack("model", "images", "labels", eps=8 / 255, steps=10, citation=CITATION)
    def shy(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, steps: int, seeds=None) -> Tensor: ...

It returns adversarial images (n, 3, h, w) in [0, 1], at most `eps` away. Its settings are keyword arguments with
annotations, by which values of another kind are refused. It finds its arguments checked, gradients enabled and no
autocast, and leaves the model as it was (`evaluating`, `gradient_of`). `seeds` has one seed for each image: what is
random in an image depends on its own alone. `knowledge`, `norms` and `derived` are said to the decorator where they are
others than usual, see `Attack`. With `universal=True` it returns one perturbation for all images, as `upgd` does.

The test is that the attack does what its paper says: for a universal one an entry in `OBJECTIVES` of
`tests/test_universal_attacks.py`, by which it is compared with its start and with noise; for others a result that can
be told by hand, in `tests/test_per_image_attacks.py`. What holds for every attack (the set it stays in, no trace left,
seeds, modes of the caller, refusals) is tested there for all of `ATTACKS`, and `tests/test_readme.py` asks for its name
in README.
"""

from genaf_hf.attacks.activation_attack import activation_attack
from genaf_hf.attacks.advencoder import advencoder_pat, advencoder_per
from genaf_hf.attacks.adversarial_patch import adversarial_patch
from genaf_hf.attacks.autoattack import autoattack
from genaf_hf.attacks.feature_pgd import feature_pgd
from genaf_hf.attacks.fff import fff
from genaf_hf.attacks.fgsm import fgsm
from genaf_hf.attacks.l4a import l4a, l4a_fuse, l4a_ugs
from genaf_hf.attacks.mi_fgsm import mi_fgsm
from genaf_hf.attacks.n_fgsm import n_fgsm
from genaf_hf.attacks.patch import UniversalPatch
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import pgd
from genaf_hf.attacks.registry import ATTACKS, Attack, ConfiguredAttack, register_attack
from genaf_hf.attacks.square import square
from genaf_hf.attacks.ssp import ssp
from genaf_hf.attacks.std import std
from genaf_hf.attacks.uap import uap
from genaf_hf.attacks.uapgd import uapgd
from genaf_hf.attacks.universal import universal_attack
from genaf_hf.attacks.upgd import upgd

__all__ = [
    "ATTACKS",
    "Attack",
    "ConfiguredAttack",
    "UniversalPatch",
    "UniversalPerturbation",
    "activation_attack",
    "advencoder_pat",
    "advencoder_per",
    "adversarial_patch",
    "autoattack",
    "feature_pgd",
    "fff",
    "fgsm",
    "l4a",
    "l4a_fuse",
    "l4a_ugs",
    "mi_fgsm",
    "n_fgsm",
    "pgd",
    "register_attack",
    "square",
    "ssp",
    "std",
    "uap",
    "uapgd",
    "universal_attack",
    "upgd",
]
