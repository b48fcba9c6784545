"""Attacks as users name them: what hardening, audits, the search for adapters and the demo are asked to attack with."""

import logging
from collections.abc import Mapping, Sequence

from genaf_hf.attacks import ATTACKS, Attack
from genaf_hf.attacks.autoattack import is_installed
from genaf_hf.attacks.pgd import check_attack_settings, check_max_images, check_restarts
from genaf_hf.errors import UserError
from genaf_hf.values.numbers import number
from genaf_hf.values.settings import settings_by_name

logger = logging.getLogger(__name__)

DEFAULT_ATTACKS = "l4a,ssp,uapgd,advencoder-per,advencoder-pat,upgd,pgd,square"
LAST, LAST_IMAGES = "autoattack", 32  # of an audit at its defaults: what is the strongest, and on how many it is tried
LENGTHS = ("eps", "step_size")
OURS = "data"  # a setting that those who craft give
EXAMPLE = '{"steps": 200, "l4a": {"layer": 3}}'
ATTACKS_HELP = f"Names, separated by commas, of: {', '.join(ATTACKS)}."
SETTINGS_HELP = f"Settings of all attacks that have them, and by attack its own, as JSON: {EXAMPLE}."


def named_attacks(
    names: str | Sequence[str] | None,
    settings: str | Mapping | None = None,
    *,
    dae_eps: float | None = None,
    eps: float | None = None,
    norm: str = "linf",
    seed: int = 0,
) -> dict[str, Attack]:
    """The attacks that are asked for, with all their settings.

    Args:
        names: of the attacks, separated by commas where they are one text; None for those of an audit, which are
            `DEFAULT_ATTACKS` and, where it is installed, AutoAttack on at most `LAST_IMAGES` images.
        settings: see `SETTINGS_HELP`; an attack's own win.
        dae_eps: of universal attacks, where `settings` do not tell; default their own, 10/255.
        eps, norm: of other attacks that know the norm; default their own eps, 8/255.
        seed: of what is crafted.

    Raises:
        UserError: for an unknown attack or setting, or a setting of another kind or out of range.
    """
    chosen = [ATTACKS[name] for name in (of_an_audit() if names is None else separate(names))]
    common, own = separate_settings(settings, chosen)
    found = {}
    for attack in chosen:
        shared = {name: value for name, value in common.items() if name in attack.setting_names}
        given = {**shared, **own.get(attack.name, {})}
        budget = {"max_images": LAST_IMAGES} if names is None and attack.name == LAST else {}
        known = {**defaults(attack, dae_eps, eps, norm, seed), **budget, **given}
        found[attack.name] = checked(attack.configure(**known))
        if given.get("norm", attack.norms[0]) != attack.norms[0] and "eps" not in known:
            raise UserError(
                f"attack_settings give {attack.name} the norm {given['norm']} without an eps, which has another length "
                f'in each norm: give both, for example {{"{attack.name}": {{"norm": "l2", "eps": 3.0}}}}.'
            )
    return found


def settings_for(names: str, settings: str | Mapping) -> dict:
    """What settings of other attacks, as a file has them, say of some; what is no setting at all stays, to be refused.

    Args:
        names: of the attacks, separated by commas.
        settings: see `SETTINGS_HELP`.

    Raises:
        UserError: for an unknown attack, and when the settings are none.
    """
    groups = [ATTACKS[name] for name in separate(names)], [*ATTACKS.values()]
    own, known = ({name for each in group for name in (each.name, *each.setting_names)} for group in groups)
    given = settings_by_name("attack_settings", settings, EXAMPLE)
    return {name: value for name, value in given.items() if name in own or name not in known}


def attacks_by_name(
    attacks: str | Sequence[str | Attack] | Mapping[str, Attack] | None, *, seed: int = 0
) -> dict[str, Attack]:
    """The attacks that a caller gives: by name at the defaults, or with their settings, or the latter by other names.

    Args:
        attacks: as for `audit`.
        seed: of what is crafted by attacks at the defaults.

    Raises:
        UserError: for what is no attack, and for a name that is there twice.
    """
    if attacks is None:
        return named_attacks(None, seed=seed)
    given = separate(attacks) if isinstance(attacks, str) else attacks
    values = [*given.values()] if isinstance(given, Mapping) else [*given]
    if not values or not all(isinstance(each, str | Attack) for each in values):
        raise UserError(f'attacks are {attacks}, expected such as ["l4a", ATTACKS["pgd"].configure(eps=4 / 255)].')
    attacks = [named_attacks([each], seed=seed)[each] if isinstance(each, str) else checked(each) for each in values]
    names = [*given] if isinstance(given, Mapping) else [each.name for each in attacks]
    if len(set(names)) < len(names):
        raise UserError(f"attacks are {', '.join(names)}, expected different ones: give those of one by other names.")
    return dict(zip(names, attacks, strict=True))


def of_an_audit() -> list[str]:
    """The names of the attacks of an audit at its defaults."""
    found = separate(DEFAULT_ATTACKS)
    if is_installed():
        return [*found, LAST]
    logger.info("AutoAttack is not installed, and not among the attacks: pip install 'genaf_hf[autoattack]' adds it.")
    return found


def separate(names: str | Sequence[str]) -> list[str]:
    """The names, one by one.

    Raises:
        UserError: when there is none, or one twice.
    """
    given = names.split(",") if isinstance(names, str) else list(names)
    found = [name.strip() for name in given if name.strip()]
    if not found or len(set(found)) < len(found):
        raise UserError(
            f'attacks are "{names}", expected different names, separated by commas, of {", ".join(ATTACKS)}.'
        )
    return found


def separate_settings(
    settings: str | Mapping | None, attacks: Sequence[Attack]
) -> tuple[dict[str, object], dict[str, dict]]:
    """Settings of all attacks that have them, and by attack its own; lengths such as "8/255" as numbers.

    Raises:
        UserError: when they are no such JSON, or there is nothing that they are for.
    """
    given = settings_by_name("attack_settings", settings, EXAMPLE)
    if [name for name in given if name in ATTACKS and not is_mapping(given[name])]:
        raise UserError(f"attack_settings are {given}, expected settings by name, such as {EXAMPLE}.")
    own = {name: with_numbers(value, f" of {name}") for name, value in given.items() if is_mapping(value)}
    common = with_numbers({name: value for name, value in given.items() if not is_mapping(value)}, "")
    names = [attack.name for attack in attacks]
    if unknown := [name for name in own if name not in names]:
        raise UserError(f'attack_settings are for "{unknown[0]}", which is not among the attacks {", ".join(names)}.')
    settable = {name for attack in attacks for name in attack.setting_names}
    if unknown := [name for name in common if name not in settable]:
        raise UserError(
            f'attack_settings have "{unknown[0]}", a setting of none of the attacks {", ".join(names)}; they have '
            f"{', '.join(sorted(settable))}."
        )
    return common, own


def is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def with_numbers(settings: Mapping, of: str) -> dict:
    """Settings with the lengths as numbers that are words such as "8/255".

    Raises:
        UserError: names the setting; also for one that is not the user's to give.
    """
    if OURS in settings:
        raise UserError(f"attack_settings give the {OURS}{of}, which is told by itself: leave it out.")
    found = dict(settings)
    for name in LENGTHS:
        if isinstance(found.get(name), str):
            try:
                found[name] = number(found[name])
            except UserError as error:
                raise UserError(f"attack_settings give the {name}{of} {error}") from error
    return found


def defaults(attack: Attack, dae_eps: float | None, eps: float | None, norm: str, seed: int) -> dict:
    """What an attack is run with where nothing else is said."""
    if attack.universal:
        known = {"eps": dae_eps, "seed": seed}
    else:
        known = {"eps": eps, "norm": norm} if norm in attack.norms else {}
    return {name: value for name, value in known.items() if name in attack.setting_names and value is not None}


def checked(attack: Attack) -> Attack:
    """An attack with its settings.

    Raises:
        UserError: when one lacks, or one of those that every attack has is out of range.
    """
    known = attack.configure().settings
    check_restarts(known.get("restarts", 1))
    check_max_images(known.get("max_images"))
    steps = known.get("steps")
    if "eps" in known:
        check_attack_settings(eps=known["eps"], steps=1 if steps is None else steps, step_size=1, norm=attack.norm)
    elif not attack.universal:
        raise UserError(
            f"The attack {attack.name} has no setting eps, by which a report tells how far it changes an image: give "
            "its function one."
        )
    return attack
