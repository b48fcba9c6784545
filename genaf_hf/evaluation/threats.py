"""Threats: attacks at all their settings, each against somebody. What is evaluated is crafted and run through them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import ClassVar

import torch
from datasets import Dataset
from torch import Tensor, nn

from genaf_hf.attacks import ATTACKS, ConfiguredAttack, UniversalPerturbation
from genaf_hf.attacks.inputs import Encoders
from genaf_hf.attacks.linear_probe import check_target
from genaf_hf.attacks.norms import per_image_l2, random_in_ball
from genaf_hf.attacks.pgd import check_attack_settings
from genaf_hf.attacks.registry import configured
from genaf_hf.attacks.universal import check_image
from genaf_hf.data import random_subset, stratified_subset, with_pixel_values
from genaf_hf.errors import UserError
from genaf_hf.evaluation.measurement import CLEAN, MODEL, PERTURBATION, PUBLIC_ENCODER, is_patch
from genaf_hf.evaluation.perturbation_cache import crafted_once, digest, tensor_digest
from genaf_hf.evaluation.report import ADAPTIVE, RobustnessReport
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.values.numbers import LARGEST_EPS, is_whole
from genaf_hf.values.provenance import public_name

ATTACKER_IMAGES = 2048
AT_HAND = "-at-hand"  # ends the name of a perturbation that was not crafted for the report

Attack = UniversalPerturbation | ConfiguredAttack | partial | Mapping[str, UniversalPerturbation]


@dataclass(frozen=True, eq=False)
class Attacker:
    """What somebody has who crafts a perturbation for all images.

    Attributes:
        encoder: the public one, or several that are attacked at once; None where no attack needs any.
        images: (n, 3, h, w) in [0, 1].
        labels: (n,) class ids, for attacks that need them; None where nobody has any.
        words: what these images are, e.g. `"1167 images of digits, split train"`.
    """

    encoder: Encoders | None
    images: Tensor
    labels: Tensor | None
    words: str

    @classmethod
    def of(cls, train: Dataset, dataset_name: str, model: PixelModel, encoder: Encoders | None) -> "Attacker":
        """Somebody who has images that a model is trained on, or such as those.

        Args:
            train: with the column `image`, and `label` if there are any; of many images a subset is taken, by labels a
                stratified one.
            dataset_name: Hub id or local folder.
            model: whose image processor makes them.
            encoder: the public one, or several; None where no attack needs any.
        """
        draw = stratified_subset if "label" in train.column_names else random_subset
        some = draw(train, ATTACKER_IMAGES, seed=0)
        known = with_pixel_values(some, model.processor)[:]
        return cls(
            encoder,
            images=model.to_images(known["pixel_values"]),
            labels=known["labels"].to(model.device) if "labels" in known else None,
            words=f"{len(some)} images of {public_name(dataset_name)}, split {train.split or 'train'}",
        )

    def craft(self, attack: ConfiguredAttack, target: Encoders) -> UniversalPerturbation:
        """The perturbation that an attack crafts on a model or several, from the cache where it was crafted before.

        Raises:
            UserError: for a setting that the attack refuses.
        """
        needed = attack.needs[1:]
        if needed and "data" in attack.settings:
            attack = attack.changed(data=self.said(attack))
        data = [getattr(self, need) for need in needed]
        return crafted_once(attack, target, *data, data_digests=[self.digests[need] for need in needed])

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the images, which are large, and of the labels, where there are any."""
        data = {"images": self.images, "labels": self.labels}
        return {name: tensor_digest(each) for name, each in data.items() if each is not None}

    def check(self, attack: ConfiguredAttack) -> None:
        """Refuses a class or an image that an attack is to lead to and this attacker has not; `UserError` names it."""
        if not attack.on_encoder:  # those on the model are led to a class of its own
            return
        image, target, most = (attack.settings.get(name) for name in ("image", "target", "max_images"))
        if is_whole(image):
            check_image(image, min(len(self.images), most or len(self.images)))
        if is_whole(target) and self.labels is not None:
            check_target(target, self.labels)

    def said(self, attack: ConfiguredAttack) -> str:
        """What an attack is crafted from, in words."""
        return f"{self.words}, {'with' if 'labels' in attack.needs else 'without'} labels"


@dataclass(frozen=True, eq=False)
class Threat:
    """An attack at all its settings against each model itself, on every image for itself.

    Attributes:
        name: in the report.
        attack: with its settings.
        after: names of other threats; of the images only those are attacked that all of them leave right.
    """

    name: str
    attack: ConfiguredAttack
    after: tuple[str, ...] = field(default=(), kw_only=True)
    universal: ClassVar[bool] = False

    @property
    def knowledge(self) -> str:
        """What the attacker knows: `"model"`, or `"model's answers"`."""
        return self.attack.knowledge

    @property
    def on_standing(self) -> bool:
        """Whether it is for those images alone that others leave right."""
        return self.attack.on_standing

    def try_out(self, attacker: Attacker, model: PixelModel) -> None:
        """Runs what can be run before a model is trained, so that settings are refused before any long work.

        Args:
            attacker: who crafts it.
            model: any of those classes.

        Raises:
            UserError: for a setting that the attack refuses.
        """
        image = attacker.images[:1]
        with evaluating(model), torch.no_grad():
            wrong = model(image).argmin(1)  # what is wrong already, attacks that search give up at once
        self.attack_images(model, image, wrong, seeds=[0])

    def crafted(self, attacker: Attacker, models: Mapping[str, PixelModel]) -> "Threat":
        """The same, with all that it needs before it runs.

        Args:
            attacker: who crafts it.
            models: all that it is for, by the names that the report uses.

        Raises:
            UserError: for a setting that the attack refuses.
        """
        return self

    def settings(self, model: str) -> dict:
        """Everything that the attack on a model is run with, as JSON holds it."""
        given = self.attack.settings
        known = {name: list(value) if type(value) is tuple else value for name, value in given.items()}
        if given.get("init"):
            known["init"] = public_name(given["init"])
        after = {"after": list(self.after)} if self.after else {}
        return {"attack": self.attack.name, "norm": self.attack.norm, **known, **after}

    def tensors(self, model: str) -> dict[str, Tensor]:
        """What the attack on a model is made of beside its settings."""
        return {}

    def on(self, model: str) -> Callable[..., Tensor]:
        """The attack on a model, called as `attack(model, images, labels, seeds=...)`.

        Images are (n, 3, h, w) in [0, 1], as what it gives, labels class ids, seeds one for each image.

        Raises:
            UserError: when called, if the attack gives no such images.
        """
        return self.attack_images

    def attack_images(self, model: nn.Module, images: Tensor, labels: Tensor, *, seeds: Sequence[int]) -> Tensor:
        given = {"model": model, "images": images, "labels": labels.to(images.device)}
        attacked = self.attack(*(given[need] for need in self.attack.needs), seeds=seeds)
        if not isinstance(attacked, Tensor) or attacked.shape != images.shape:
            found = tuple(attacked.shape) if isinstance(attacked, Tensor) else type(attacked).__name__
            raise UserError(
                f'The attack "{self.attack.name}" gives {found}, expected the attacked images, a tensor of '
                f"shape {tuple(images.shape)}."
            )
        return attacked

    def noise(self, model: str) -> tuple[dict, Callable[..., Tensor]]:
        """What the attack on a model is held against: noise of its norm and size, and what tells it from other."""
        known = self.settings(model)
        size = {name: known[name] for name in ("norm", "eps")}
        return size, partial(noise, **size)

    def shuffled(self, model: str) -> Callable[..., Tensor] | None:
        """The attack on a model without its pattern, called as `on` is; None where nothing of it can be shuffled."""
        return None


@dataclass(frozen=True, eq=False)
class UniversalThreat(Threat):
    """One perturbation for all images, crafted on the public encoder, or adaptively on each model.

    Attributes:
        attack: None of a perturbation that was given ready.
        adaptive: whether it is crafted on each model.
        perturbations: by the name of the model that they are for; none before they are crafted.
        at_hand: whether the attacker has the perturbation, and not even the encoder.
    """

    attack: ConfiguredAttack | None
    adaptive: bool
    perturbations: Mapping[str, UniversalPerturbation] = field(default_factory=dict)
    at_hand: bool = False
    universal: ClassVar[bool] = True

    @property
    def knowledge(self) -> str:
        """What the attacker knows: `"perturbation at hand"`, `"public encoder"`, or `"model"`."""
        if self.at_hand:
            return PERTURBATION
        return MODEL if self.adaptive else PUBLIC_ENCODER

    @property
    def on_standing(self) -> bool:
        return False

    def try_out(self, attacker: Attacker, model: PixelModel) -> None:
        if not self.adaptive:
            attacker.craft(self.attack, attacker.encoder)
        elif not self.attack.on_encoder and "steps" in self.attack.settings:  # on one, its twin is crafted
            brief = self.attack.changed(steps=min(1, self.attack.settings["steps"]))
            brief(model, *(getattr(attacker, need) for need in self.attack.needs[1:]))

    def crafted(self, attacker: Attacker, models: Mapping[str, PixelModel]) -> "UniversalThreat":
        if self.adaptive:
            found = {name: attacker.craft(self.attack, model) for name, model in models.items()}
        else:
            found = dict.fromkeys(models, attacker.craft(self.attack, attacker.encoder))
        return replace(self, perturbations=found)

    def settings(self, model: str) -> dict:
        known = {} if self.attack is None else super().settings(model)
        if self.at_hand:  # all else that is said of it may be the same of another one
            known = {"content": digest(None, self.tensors(model))[:16]}
        found = {**known, **self.perturbations[model].provenance}
        return {**found, "encoder": model} if self.adaptive else found

    def tensors(self, model: str) -> dict[str, Tensor]:
        return {"delta": self.perturbations[model].delta}

    def on(self, model: str) -> Callable[..., Tensor]:
        perturbation = self.perturbations[model]
        return lambda _, images, __, *, seeds: perturbation(images, seeds=seeds)

    def noise(self, model: str) -> tuple[dict, Callable[..., Tensor]]:
        known = self.settings(model)
        if not is_patch(known):
            return super().noise(model)
        patch = self.perturbations[model]
        drawn = torch.rand(patch.delta.shape, generator=torch.Generator().manual_seed(0))
        pasted = {name: known[name] for name in ("top", "left", "shape", "degrees", "smallest")}
        size = {"patch": list(patch.delta.shape), **pasted}
        random = replace(patch, delta=drawn.to(patch.delta))
        return size, lambda _, images, __, *, seeds: random(images, seeds=seeds)

    def shuffled(self, model: str) -> Callable[..., Tensor] | None:
        """The perturbation with its pixels in random order: of its norm, its size and its colors, but no pattern."""
        perturbation = self.perturbations[model]
        pixels = perturbation.delta.flatten(1)
        order = torch.randperm(pixels.shape[1], generator=torch.Generator().manual_seed(0)).to(pixels.device)
        mixed = replace(perturbation, delta=pixels[:, order].view_as(perturbation.delta))
        return lambda _, images, __, *, seeds: mixed(images, seeds=seeds)


def noise(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, norm: str = "linf", seeds: Sequence[int]
) -> Tensor:
    """Images with random noise on the surface of the ball, called as an attack is; model and labels are not used."""
    drawn = random_in_ball(images, 1.0, norm, seeds)
    drawn = drawn.sign() if norm == "linf" else drawn / per_image_l2(drawn)
    return (images + eps * drawn).clamp(0, 1)


# ---- which there are ----


def threats_of(attacks: Mapping[str, ConfiguredAttack]) -> list[Threat]:
    """The threats that attacks by name are: one on the public encoder also adaptively, on each model."""
    found: list[Threat] = []
    for name, attack in attacks.items():
        if attack.universal and not attack.on_encoder:
            found.append(UniversalThreat(name, attack, adaptive=True))
        elif attack.universal:
            found += [UniversalThreat(name, attack, adaptive=False), UniversalThreat(name + ADAPTIVE, attack, True)]
        else:
            found.append(Threat(name, attack))
    return found


def in_turn(threats: Sequence[Threat]) -> list[Threat]:
    """The threats, of which some only attack what others before them within the same ball leave right."""
    found: list[Threat] = []
    for threat in threats:
        if threat.on_standing:
            eps, norm = threat.attack.settings["eps"], threat.attack.norm
            alike = (each for each in found if not each.universal and each.attack.norm == norm)
            threat = replace(threat, after=tuple(each.name for each in alike if each.attack.settings["eps"] <= eps))
        found.append(threat)
    return found


def at_hand(
    perturbations: Mapping[str, UniversalPerturbation], models: Mapping[str, PixelModel]
) -> list[UniversalThreat]:
    """The threats that ready-made perturbations are to all models."""
    return [
        UniversalThreat(name + AT_HAND, None, False, dict.fromkeys(models, each), at_hand=True)
        for name, each in perturbations.items()
    ]


def swept(attacks: Mapping[str, ConfiguredAttack], factor: float) -> dict[str, ConfiguredAttack]:
    """The attacks at `factor` times their eps: the first universal one that has an eps, and the first on images."""
    with_eps = {name: attack for name, attack in attacks.items() if "eps" in attack.settings}
    kinds = ([name for name, attack in with_eps.items() if attack.universal is kind] for kind in (True, False))
    left_out = [name for names in kinds for name in names[1:]]
    return {
        name: attack.changed(eps=min(factor * attack.settings["eps"], LARGEST_EPS[attack.norm]))
        for name, attack in with_eps.items()
        if name not in left_out
    }


def worst_of(report: RobustnessReport, threats: Sequence[Threat], model: str) -> list[Threat]:
    """The threats of the verdict on a model."""
    return [threat for each in report.verdict(model) for threat in threats if threat.name == each.attack]


def on_shown(threat: Threat, name: str, model: PixelModel, images: Tensor, labels: Tensor) -> Tensor:
    """The first images of a dataset under a threat, for a picture.

    Args:
        threat: that was crafted.
        name: of the model, in the report.
        model: that is attacked.
        images: (n, 3, h, w) in [0, 1].
        labels: (n,) class ids.
    """
    return threat.on(name)(model, images, labels, seeds=range(len(images)))


def attacks_of(report: RobustnessReport) -> dict[str, ConfiguredAttack]:
    """The attacks of a report by name, at all settings that they were run with.

    Raises:
        UserError: when there is no such attack here, or the report does not hold all its settings, as of a perturbation
            that was given ready.
    """
    found = {}
    for each in report.measurements:
        name = each.attack.removesuffix(ADAPTIVE)
        if each.attack == CLEAN or name in found:
            continue
        if each.knowledge == PERTURBATION:
            raise UserError(
                f'The perturbation "{name}" was at hand, and no report holds it: audit anew, with --perturbations.'
            )
        attack = ATTACKS[each.settings["attack"]]
        if lacking := [setting for setting in attack.defaults if setting not in each.settings]:
            raise UserError(
                f'The report does not tell the {lacking[0]} of "{each.attack}", so that it cannot be run again from '
                "the report alone: measure the model anew."
            )
        known = {setting: value for setting, value in each.settings.items() if setting in attack.settings}
        found[name] = attack.configure(**known)
    return found


# ---- what users give ----


def threats_from(attacks: Mapping[str, Attack], models: Mapping[str, PixelModel]) -> list[Threat]:
    """The threats that users name: perturbations, mappings of them by model, and attacks with their settings.

    Raises:
        UserError: for what is none, or does not tell all that a report holds, or was not crafted on a model.
    """
    if not isinstance(attacks, Mapping):
        raise UserError('attacks are not by name, expected for example {"pgd": ATTACKS["pgd"].configure()}.')
    if CLEAN in attacks:
        raise UserError(f'An attack is called "{CLEAN}", which means no attack: give it another name.')
    return [threat_from(name, attack, models) for name, attack in attacks.items()]


def threat_from(name: str, attack: Attack, models: Mapping[str, PixelModel]) -> Threat:
    """What `threats_from` makes of one of them."""
    if isinstance(attack, UniversalPerturbation):
        attack = dict.fromkeys(models, attack)
        return UniversalThreat(name, None, adaptive=False, perturbations=checked(name, attack, models))
    if isinstance(attack, Mapping):
        return UniversalThreat(name, None, adaptive=True, perturbations=checked(name, attack, models))
    attack = configured(attack) if isinstance(attack, ConfiguredAttack | partial) else attack
    given = attack.settings if isinstance(attack, ConfiguredAttack) else {}
    if isinstance(attack, ConfiguredAttack) and attack.universal:
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
    return Threat(name, attack)


def checked(
    name: str, perturbations: Mapping[str, UniversalPerturbation], models: Mapping[str, PixelModel]
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
