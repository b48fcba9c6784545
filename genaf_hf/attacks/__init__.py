"""Attacks, one paper a file. Whatever file lies here is registered.

An attack is a function behind `register_attack`, or an objective behind `universal_attack`: it is in `ATTACKS` then,
from where the command line, reports, cards and the demo have its name, its settings, what its attacker must know and
its citation. `docs/add-an-attack.md` adds one of each kind.
"""

from importlib import import_module
from pkgutil import iter_modules

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
from genaf_hf.attacks.registry import ATTACKS, Attack, register_attack
from genaf_hf.attacks.square import square
from genaf_hf.attacks.ssp import ssp
from genaf_hf.attacks.std import std
from genaf_hf.attacks.uap import uap
from genaf_hf.attacks.uapgd import uapgd
from genaf_hf.attacks.universal import universal_attack
from genaf_hf.attacks.upgd import upgd

for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")

__all__ = [
    "ATTACKS",
    "Attack",
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
