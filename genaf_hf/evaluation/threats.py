"""Threats: attacks at all their settings, each against somebody. What is evaluated is crafted and run through them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from genaf_hf.attacks import ATTACKS, Attack, UniversalPerturbation
from genaf_hf.attacks.norms import per_image_l2, random_in_ball
from genaf_hf.errors import UserError
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.measurement import CLEAN, EVERY_ATTACK, MODEL, PERTURBATION, PUBLIC_ENCODER, is_patch
from genaf_hf.evaluation.report import ADAPTIVE, RobustnessReport
from genaf_hf.models.identity import digest
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.values.numbers import LARGEST_EPS
from genaf_hf.values.provenance import public_name

AT_HAND = "-at-hand"  # ends the name of a perturbation that was not crafted for the report


@dataclass(frozen=True, eq=False)
class Threat:
    """What models are up against.

    Attributes:
        name: in the report.
        knowledge: what the attacker knows, as in `Measurement`.
        universal: whether it is one perturbation for all images.
    """

    name: str
    knowledge: str = field(init=False)
    universal: ClassVar[bool]

    @property
    def on_standing(self) -> bool:
        """Whether it is for those images alone that others leave right."""
        return False

    def iterates_in(self, eps: float) -> bool:
        """Whether it raises the loss of each image by several steps in the L-inf ball of this eps or a larger one."""
        return False

    def try_out(self, attacker: Attacker, model: PixelModel) -> None:
        """Runs what can be run before a model is trained, so that settings are refused before any long work.

        Args:
            attacker: who crafts it.
            model: any of those classes.

        Raises:
            UserError: for a setting that the attack refuses.
        """

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
        raise NotImplementedError

    def tensors(self, model: str) -> dict[str, Tensor]:
        """What the attack on a model is made of beside its settings."""
        return {}

    def on(self, model: str) -> Callable[..., Tensor]:
        """The attack on a model, called as `attack(model, images, labels, seeds=...)`.

        Images are (n, 3, h, w) in [0, 1], as what it gives, labels class ids, seeds one for each image.

        Raises:
            UserError: when called, if the attack gives no such images.
        """
        raise NotImplementedError

    def noise(self, model: str) -> tuple[dict, Callable[..., Tensor]]:
        """What the attack on a model is held against: noise of its norm and size, and what tells it from other."""
        known = self.settings(model)
        size = {name: known[name] for name in ("norm", "eps")}
        return size, partial(noise, **size)

    def shuffled(self, model: str) -> Callable[..., Tensor] | None:
        """The attack on a model without its pattern, called as `on` is; None where nothing of it can be shuffled."""
        return None


@dataclass(frozen=True, eq=False)
class ImageThreat(Threat):
    """An attack at all its settings against each model itself, on every image for itself.

    Attributes:
        attack: with its settings.
        after: names of other threats; of the images only those are attacked that all of them leave right.
    """

    attack: Attack
    after: tuple[str, ...] = ()
    universal: ClassVar[bool] = False

    def __post_init__(self):
        object.__setattr__(self, "knowledge", self.attack.knowledge)

    @property
    def on_standing(self) -> bool:
        return self.attack.on_standing

    def iterates_in(self, eps: float) -> bool:
        attack, known = self.attack, self.attack.settings
        untargeted = "labels" in attack.needs and known.get("target") is None and self.knowledge == MODEL
        several = (known.get("steps") or 0) > 1 and not self.on_standing
        return untargeted and several and attack.norm == "linf" and known["eps"] >= eps

    def try_out(self, attacker: Attacker, model: PixelModel) -> None:
        image = attacker.images[:1]
        with evaluating(model), torch.no_grad():
            wrong = model(image).argmin(1)  # what is wrong already, attacks that search give up at once
        self.attack_images(model, image, wrong, seeds=[0])

    def settings(self, model: str) -> dict:
        return settings_of(self.attack) | ({"after": list(self.after)} if self.after else {})

    def on(self, model: str) -> Callable[..., Tensor]:
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


@dataclass(frozen=True, eq=False)
class UniversalThreat(Threat):
    """One perturbation for all images, of each model.

    Attributes:
        knowledge: `"perturbation at hand"` of an attacker who has the perturbation and not even the encoder, `"public
            encoder"`, or `"model"` where it was crafted on each model itself.
        perturbations: by the name of the model that they are for.
    """

    knowledge: str
    perturbations: Mapping[str, UniversalPerturbation]
    universal: ClassVar[bool] = True

    def settings(self, model: str) -> dict:
        found = self.perturbations[model].provenance
        if self.knowledge == PERTURBATION:  # all else that is said of it may be the same of another one
            return {"content": digest(None, self.tensors(model))[:16], **found}
        return {**found, "encoder": model} if self.knowledge == MODEL else found

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


@dataclass(frozen=True, eq=False)
class CraftedThreat(UniversalThreat):
    """One perturbation for all images, which an attack at all its settings crafts on the public encoder or each model.

    Attributes:
        perturbations: none before they are crafted.
        attack: with its settings.
    """

    perturbations: Mapping[str, UniversalPerturbation] = field(default_factory=dict)
    attack: Attack = field(kw_only=True)

    def try_out(self, attacker: Attacker, model: PixelModel) -> None:
        if self.knowledge == PUBLIC_ENCODER:
            attacker.craft(self.attack)
        elif not self.attack.on_encoder and "steps" in self.attack.settings:  # on one, its twin is crafted
            in_one_step(self.attack)(model, *(getattr(attacker, need) for need in self.attack.needs[1:]))

    def crafted(self, attacker: Attacker, models: Mapping[str, PixelModel]) -> "CraftedThreat":
        if self.knowledge == PUBLIC_ENCODER:
            found = dict.fromkeys(models, attacker.craft(self.attack))
        else:
            found = {name: attacker.craft(self.attack, model) for name, model in models.items()}
        return replace(self, perturbations=found)

    def settings(self, model: str) -> dict:
        return settings_of(self.attack) | super().settings(model)


def in_one_step(attack: Attack) -> Attack:
    """An attack of one step at most, where it has steps: by that its other settings are tried out."""
    steps = attack.settings.get("steps")
    return attack if steps is None else attack.configure(steps=min(1, steps))


def settings_of(attack: Attack) -> dict:
    """Everything that an attack is run with, as JSON holds it."""
    given = attack.settings
    known = {name: list(value) if type(value) is tuple else value for name, value in given.items()}
    if given.get("init"):
        known["init"] = public_name(given["init"])
    return {"attack": attack.name, "norm": attack.norm, **known}


def noise(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, norm: str = "linf", seeds: Sequence[int]
) -> Tensor:
    """Images with random noise on the surface of the ball, called as an attack is; model and labels are not used."""
    drawn = random_in_ball(images, 1.0, norm, seeds)
    drawn = drawn.sign() if norm == "linf" else drawn / per_image_l2(drawn)
    return (images + eps * drawn).clamp(0, 1)


def threats_of(attacks: Mapping[str, Attack]) -> list[Threat]:
    """The threats that attacks by name are: one on the public encoder also adaptively, on each model.

    Raises:
        UserError: as `told_apart`.
    """
    found: list[Threat] = []
    for name, attack in attacks.items():
        if not attack.universal:
            found.append(ImageThreat(name, attack))
        elif attack.on_encoder:
            found.append(CraftedThreat(name, PUBLIC_ENCODER, attack=attack))
            found.append(CraftedThreat(name + ADAPTIVE, MODEL, attack=attack))
        else:
            found.append(CraftedThreat(name, MODEL, attack=attack))
    return told_apart(found)


def told_apart(threats: Sequence[Threat]) -> list[Threat]:
    """The threats, if a report can tell each of them by its name.

    Raises:
        UserError: names what is there twice, or is a word for something else.
    """
    names = [each.name for each in threats]
    if taken := [name for name in names if name in (CLEAN, EVERY_ATTACK)]:
        meant = {CLEAN: "no attack", EVERY_ATTACK: "all of them at once"}[taken[0]]
        raise UserError(f'An attack is called "{taken[0]}", which means {meant}: give it another name.')
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f'Two attacks are called "{twice[0]}" in the report, where "{ADAPTIVE}" is added to one that is crafted on '
            f'the model itself, too, and "{AT_HAND}" to a perturbation: give one of them another name.'
        )
    return [*threats]


def in_turn(threats: Sequence[Threat]) -> list[Threat]:
    """The threats, of which some only attack what others before them within the same ball leave right."""
    found: list[Threat] = []
    for threat in threats:
        if isinstance(threat, ImageThreat) and threat.on_standing:
            eps, norm = threat.attack.settings["eps"], threat.attack.norm
            alike = (each for each in found if isinstance(each, ImageThreat) and each.attack.norm == norm)
            threat = replace(threat, after=tuple(each.name for each in alike if each.attack.settings["eps"] <= eps))
        found.append(threat)
    return found


def at_hand(
    perturbations: Mapping[str, UniversalPerturbation], models: Mapping[str, PixelModel]
) -> list[UniversalThreat]:
    """The threats that ready-made perturbations are to all models."""
    return [
        UniversalThreat(name + AT_HAND, PERTURBATION, dict.fromkeys(models, each))
        for name, each in perturbations.items()
    ]


def swept(attacks: Mapping[str, Attack], factor: float) -> dict[str, Attack]:
    """The attacks at `factor` times their eps: the first universal one that has an eps, and the first on images.

    Those on what others leave right are left out, which are slow, and have no others beside them here.
    """
    with_eps = {name: each for name, each in attacks.items() if "eps" in each.settings and not each.on_standing}
    kinds = ([name for name, attack in with_eps.items() if attack.universal is kind] for kind in (True, False))
    left_out = [name for names in kinds for name in names[1:]]
    return {
        name: attack.configure(eps=min(factor * attack.settings["eps"], LARGEST_EPS[attack.norm]))
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


def attacks_of(report: RobustnessReport) -> dict[str, Attack]:
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
        known = {setting: value for setting, value in each.settings.items() if setting in attack.setting_names}
        found[name] = attack.configure(**known)
    return found
