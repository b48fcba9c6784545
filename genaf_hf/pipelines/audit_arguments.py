"""What an audit is asked for: its flags, and the attacks that they name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import formatannotation
from pathlib import Path
from typing import get_type_hints

from genaf_hf.attacks import ATTACKS, ConfiguredAttack
from genaf_hf.attacks.pgd import check_attack_settings
from genaf_hf.errors import UserError
from genaf_hf.values.numbers import LARGEST_EPS, is_number, is_whole, kinds_of, make_plain, number

OURS = ("seeds", "data")  # settings of attacks that the audit gives
LENGTHS = {"eps", "step_size"}
EXAMPLE = '{"l4a": {"layer": 3}}'


@dataclass
class AuditArguments:
    """Which classifier is audited on which images, and what it is attacked with."""

    model_name_or_path: str = field(metadata={"help": "Image classifier: Hub id or local folder."})
    dataset_name: str = field(metadata={"help": "Hub id, local folder (also of images in class folders), or digits."})
    attacks: str = field(
        default="l4a,pgd,square", metadata={"help": f"Names, separated by commas, of: {', '.join(ATTACKS)}."}
    )
    encoder: str | None = field(
        default=None, metadata={"help": "Public encoder, default the base_model of the model's card."}
    )
    output_dir: str = field(default="audit", metadata={"help": "Folder of the report and the pictures."})
    dae_eps: float = field(default=10 / 255, metadata={"help": "Eps of the attacks on the public encoder."})
    eps: float = field(default=8 / 255, metadata={"help": "Eps of the task-aware attacks."})
    attack_settings: dict | str | None = field(
        default=None, metadata={"help": f"Other settings by attack, as JSON: {EXAMPLE}."}
    )
    sweep: list[float] = field(
        default_factory=lambda: [0.25, 0.5, 2.0, 4.0],
        metadata={"help": "Factors on the eps for the picture of accuracy against eps."},
    )
    limit: int | None = field(default=None, metadata={"help": "Audit on a stratified subset of this size."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    encoder_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the encoder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration (subset) of the dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the dataset."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images; found if there is one."})
    label_column: str | None = field(default=None, metadata={"help": "Column of class labels; found if there is one."})
    train_split: str | None = field(default=None, metadata={"help": "Split that the attacker's images are drawn from."})
    test_split: str | None = field(default=None, metadata={"help": "Split to report."})
    skip_broken_images: bool = field(default=False, metadata={"help": "Leave out images that cannot be read."})
    batch_size: int = field(default=64, metadata={"help": "Images at a time on each process."})
    seed: int = field(default=0, metadata={"help": "Of the attacks."})
    update_card: bool = field(
        default=False, metadata={"help": "Put the findings into the model's own card, in its folder or on the Hub."}
    )
    create_pr: bool = field(default=False, metadata={"help": "On the Hub, update the card by a pull request."})

    def __post_init__(self):
        make_plain(self)


def check_arguments(arguments: AuditArguments) -> list[dict[str, ConfiguredAttack]]:
    """The attacks at their eps, then at each factor of the sweep.

    Raises:
        UserError: for an unknown attack or setting, or a setting out of range.
    """
    sweep = arguments.sweep
    if not isinstance(sweep, list) or not all(map(is_factor, sweep)):
        raise UserError(f"sweep is {sweep}, expected positive numbers other than 1, such as [0.5, 2, 4].")
    if arguments.update_card and arguments.model_revision is not None:
        raise UserError(
            f'model_revision is "{arguments.model_revision}", but the card is that of the newest commit: leave out '
            "model_revision, or update_card."
        )
    if arguments.create_pr and (not arguments.update_card or Path(arguments.model_name_or_path).is_dir()):
        raise UserError("create_pr is given, but no card on the Hub is updated: leave it out, or add update_card.")
    for setting in ("limit", "batch_size"):
        if (value := getattr(arguments, setting)) is not None and not (is_whole(value) and value > 0):
            raise UserError(f"{setting} is {value}, expected at least 1 image.")
    return [configure(arguments, factor) for factor in (1, *sweep)]


def is_factor(value: object) -> bool:
    return is_number(value) and value > 0 and value != 1


def attack_names(arguments: AuditArguments) -> list[str]:
    """The attacks that were asked for.

    Raises:
        UserError: when there is none, or one twice.
    """
    given = arguments.attacks if isinstance(arguments.attacks, str) else ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        known = ", ".join(ATTACKS)
        raise UserError(
            f'attacks are "{arguments.attacks}", expected different names, separated by commas, of {known}.'
        )
    return names


def other_settings(arguments: AuditArguments) -> dict[str, dict]:
    """What `attack_settings` says, by attack.

    Raises:
        UserError: when it is no JSON object of objects, or has settings that are unknown or of another kind.
    """
    given = arguments.attack_settings or {}
    try:
        given = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError as error:
        raise UserError(f"attack_settings are {given}, expected JSON such as {EXAMPLE}.") from error
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise UserError(f"attack_settings are {given}, expected settings by attack, such as {EXAMPLE}.")
    if unknown := [name for name in given if name not in attack_names(arguments)]:
        raise UserError(f'attack_settings are for "{unknown[0]}", which is not among the attacks {arguments.attacks}.')
    given = {name: with_numbers(name, settings) for name, settings in given.items()}
    for name, settings in given.items():
        check_kinds(name, settings)
    return given


def with_numbers(attack: str, settings: Mapping) -> dict:
    """The settings of an attack with the lengths as numbers that are words such as "8/255".

    Raises:
        UserError: names the setting.
    """
    found = dict(settings)
    for name in LENGTHS & found.keys():
        if isinstance(found[name], str):
            try:
                found[name] = number(found[name])
            except UserError as error:
                raise UserError(f"attack_settings give {attack} the {name} {error}") from error
    return found


def check_kinds(attack: str, settings: Mapping) -> None:
    """Refuses settings of an attack that JSON cannot give, or of another kind than the attack takes.

    Raises:
        UserError: names the setting and the kind.
    """
    hints = get_type_hints(ATTACKS[attack].function)
    for name, value in settings.items():
        if name in OURS:
            raise UserError(f"attack_settings give {attack} {name}, which the audit gives itself; leave them out.")
        kind = hints.get(name, object)
        kinds = kinds_of(kind)
        kinds |= {int} if float in kinds else {list} if tuple in kinds else set()
        if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
            raise UserError(
                f"attack_settings give {attack} the {name} {json.dumps(value)}, expected {formatannotation(kind)}."
            )


def configure(arguments: AuditArguments, factor: float = 1.0) -> dict[str, ConfiguredAttack]:
    """The attacks with their settings, at `factor` times their eps; at another than 1 only those that have an eps.

    Raises:
        UserError: for an unknown attack or setting, or a setting out of range.
    """
    others = other_settings(arguments)
    configured = {}
    for name in attack_names(arguments):
        attack, given = ATTACKS[name], dict(others.get(name, {}))
        if "eps" in attack.settings:
            eps = given.get("eps", arguments.dae_eps if attack.universal else arguments.eps)
            norm = given.get("norm", "linf")
            check_attack_settings(eps=eps, steps=1, step_size=1, norm=norm)
            given["eps"] = min(factor * eps, LARGEST_EPS[norm])
        elif factor != 1:
            continue
        if attack.universal and "seed" in attack.settings:
            given.setdefault("seed", arguments.seed)
        configured[name] = attack.configure(**given)
        if "steps" in attack.settings:
            check_attack_settings(eps=1, steps=configured[name].settings["steps"], step_size=1)
    return configured
