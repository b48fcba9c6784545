"""What a demo is asked for."""

from dataclasses import dataclass, field

from genaf_hf.attacks import ATTACKS, Attack, UniversalPerturbation
from genaf_hf.errors import UserError
from genaf_hf.pipelines.attack_arguments import (
    ATTACKS_HELP,
    SETTINGS_HELP,
    named_attacks,
    separate,
    separate_settings,
)


@dataclass
class DemoArguments:
    """Which two classifiers are shown, and what they are attacked with."""

    hardened: str = field(metadata={"help": "Hardened image classifier: Hub id or local folder."})
    undefended: str = field(metadata={"help": "Undefended one of the same classes and image size."})
    dataset_name: str = field(
        metadata={"help": "Examples and the attacker's images: Hub id, local folder (also of images), or digits."}
    )
    encoder: str | None = field(
        default=None, metadata={"help": "Public encoder, default the base_model of the hardened model's card."}
    )
    attacks: str = field(
        default="l4a,l4a-ugs,ssp,uapgd,fgsm,mi-fgsm,pgd,square",
        metadata={"help": ATTACKS_HELP},
    )
    attack_settings: dict | str | None = field(default=None, metadata={"help": SETTINGS_HELP})
    eps: list[float] = field(
        default_factory=lambda: [n / 255 for n in (2, 4, 8, 10, 16)], metadata={"help": "Eps to choose from."}
    )


def check_arguments(arguments: DemoArguments) -> None:
    """Refuses eps and settings that no attack can run with; the `UserError` names what was found."""
    if not isinstance(arguments.eps, list) or not arguments.eps:
        raise UserError(f"eps is {arguments.eps}, expected numbers to choose from, such as [0.1, 0.2].")
    attacks = [ATTACKS[name] for name in separate(arguments.attacks)]
    common, own = separate_settings(arguments.attack_settings, attacks)
    if given := [name for name, settings in {"all attacks": common, **own}.items() if "eps" in settings]:
        raise UserError(f"attack_settings give {given[0]} an eps, which is chosen on the page; name it with --eps.")
    if without := [attack.name for attack in attacks if "eps" not in attack.setting_names]:
        raise UserError(f"{without[0]} has no eps to choose, as the other attacks have; leave it out.")
    if on_models := [each.name for each in attacks if each.universal and not each.on_encoder]:
        raise UserError(
            f"{on_models[0]} is crafted on each model for all images, which is not shown here; leave it out."
        )
    for eps in arguments.eps:
        configured(arguments, eps)


def configured(
    arguments: DemoArguments, eps: float, published: UniversalPerturbation | None = None
) -> dict[str, Attack]:
    """The attacks at one eps; with the seed of a published perturbation, and its own attack with its steps too.

    Raises:
        UserError: for an eps or a setting out of range.
    """
    seed = published.seed if published and published.seed is not None else 0
    found = named_attacks(arguments.attacks, arguments.attack_settings, dae_eps=eps, eps=eps, seed=seed)
    if published and published.steps is not None and "steps" not in found[published.attack].given:
        found[published.attack] = found[published.attack].configure(steps=published.steps)
    return found
