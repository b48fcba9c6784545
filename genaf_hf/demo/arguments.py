"""What a demo is asked for."""

from dataclasses import dataclass, field

from genaf_hf.attacks import ATTACKS, ConfiguredAttack, UniversalPerturbation
from genaf_hf.errors import UserError
from genaf_hf.pipelines.audit_arguments import EXAMPLE, AuditArguments, attack_names, configure, other_settings


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
        metadata={"help": f"Names, separated by commas, of: {', '.join(ATTACKS)}."},
    )
    attack_settings: dict | str | None = field(
        default=None, metadata={"help": f"Other settings by attack, as JSON: {EXAMPLE}."}
    )
    eps: list[float] = field(
        default_factory=lambda: [n / 255 for n in (2, 4, 8, 10, 16)], metadata={"help": "Eps to choose from."}
    )


def audit_arguments(arguments: DemoArguments, model_name_or_path: str) -> AuditArguments:
    """What an audit of one of the two would be asked for."""
    return AuditArguments(
        model_name_or_path,
        arguments.dataset_name,
        arguments.attacks,
        encoder=arguments.encoder,
        attack_settings=arguments.attack_settings,
    )


def check_arguments(arguments: DemoArguments) -> None:
    """Refuses eps and settings that no attack can run with.

    Raises:
        UserError: names what was found.
    """
    if not isinstance(arguments.eps, list) or not arguments.eps:
        raise UserError(f"eps is {arguments.eps}, expected numbers to choose from, such as [0.1, 0.2].")
    for name, settings in other_settings(audit_arguments(arguments, arguments.hardened)).items():
        if "eps" in settings:
            raise UserError(f"attack_settings give {name} an eps, which is chosen on the page; name it with --eps.")
    for name in attack_names(audit_arguments(arguments, arguments.hardened)):
        if "eps" not in ATTACKS[name].settings:
            raise UserError(f"{name} has no eps to choose, as the other attacks have; leave it out.")
    for eps in arguments.eps:
        configured(arguments, eps)


def configured(
    arguments: DemoArguments, eps: float, published: UniversalPerturbation | None = None
) -> dict[str, ConfiguredAttack]:
    """The attacks at one eps; the attack of a published perturbation with its steps and its seed.

    Raises:
        UserError: for an eps or a setting out of range.
    """
    audit = audit_arguments(arguments, arguments.hardened)
    settings = dict(other_settings(audit))
    if published is not None:
        known = {"steps": published.steps, "seed": published.seed}
        known = {name: value for name, value in known.items() if value is not None}
        settings[published.attack] = {**known, **settings.get(published.attack, {})}
    audit.attack_settings, audit.dae_eps, audit.eps = settings, eps, eps
    return configure(audit)
