"""Attacks, one paper a file."""

from genaf_hf.attacks.l4a import l4a
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import pgd

__all__ = ["UniversalPerturbation", "l4a", "pgd"]
