"""Attacks as users give them: perturbations, mappings of them by model, and attacks with their settings."""

from collections.abc import Mapping
from functools import partial

from genaf_hf.attacks import Attack, UniversalPerturbation
from genaf_hf.attacks.pgd import check_attack_settings
from genaf_hf.attacks.registry import configured
from genaf_hf.errors import UserError
from genaf_hf.evaluation.measurement import MODEL, PUBLIC_ENCODER
from genaf_hf.evaluation.threats import ImageThreat, Threat, UniversalThreat, told_apart
from genaf_hf.models.pixel_model import PixelModel

GivenAttack = UniversalPerturbation | Attack | partial | Mapping[str, UniversalPerturbation]


def threats_from(attacks: Mapping[str, GivenAttack], models: Mapping[str, PixelModel]) -> list[Threat]:
    """The threats that users name: perturbations, mappings of them by model, and attacks with their settings.

    Raises:
        UserError: for what is none, or does not tell all that a report holds, or was not crafted on a model.
    """
    if not isinstance(attacks, Mapping):
        raise UserError('attacks are not by name, expected for example {"pgd": ATTACKS["pgd"].configure()}.')
    return told_apart([threat_from(name, attack, models) for name, attack in attacks.items()])


def threat_from(name: str, attack: GivenAttack, models: Mapping[str, PixelModel]) -> Threat:
    """What `threats_from` makes of one of them."""
    if isinstance(attack, UniversalPerturbation):
        return UniversalThreat(name, PUBLIC_ENCODER, checked(dict.fromkeys(models, attack), models))
    if isinstance(attack, Mapping):
        return UniversalThreat(name, MODEL, checked(attack, models))
    attack = configured(attack) if isinstance(attack, Attack | partial) else attack
    given = attack.settings if isinstance(attack, Attack) else {}
    if isinstance(attack, Attack) and attack.universal:
        raise UserError(
            f'The attack "{name}" is {attack.name}, which crafts one perturbation for all images and has no '
            "images to craft it from here: craft it, and give the UniversalPerturbation, or ask genaf_hf.audit.audit."
        )
    if "eps" not in given:
        raise UserError(
            f'The attack "{name}" is {attack!r}, expected a UniversalPerturbation or functools.partial(attack, '
            "eps=..., steps=...), so that the report can say what it was run with."
        )
    if odd := [key for key, value in given.items() if not isinstance(value, str | int | float | list | tuple | None)]:
        raise UserError(f'The setting {odd[0]} of the attack "{name}" is no plain value that a report can hold.')
    check_attack_settings(eps=given["eps"], steps=given.get("steps") or 1, step_size=1, norm=attack.norm)
    return ImageThreat(name, attack)


def checked(
    perturbations: Mapping[str, UniversalPerturbation], models: Mapping[str, PixelModel]
) -> Mapping[str, UniversalPerturbation]:
    """Perturbations, one for each model.

    Raises:
        UserError: when one lacks, or has an eps that none can have.
    """
    for model in models:
        if model not in perturbations:
            crafted_on = ", ".join(perturbations) or "nothing"
            raise UserError(f'No attack was crafted on "{model}", only on {crafted_on}.')
        given = perturbations[model]
        check_attack_settings(eps=given.eps, steps=1, step_size=1, norm=given.norm)
    return perturbations
