"""Defences by name, so that a recipe, a record and a card speak of the same defence by the same name."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import get_type_hints

from torch import nn

from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.attacks.inputs import checked_setting
from genaf_hf.attacks.registry import Attack
from genaf_hf.errors import UserError
from genaf_hf.evaluation.report import HARDENED
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.objectives.objective import Objective
from genaf_hf.values.numbers import alternatives, number
from genaf_hf.values.registry import Registry


@dataclass(frozen=True)
class Defence:
    """What a model is trained against and on.

    Attributes:
        name: e.g. `"pgd-at"`.
        settings: all of its own, by name.
        adversary: crafts the training images; None for clean images.
        objective: what is made of clean and attacked logits; None, with clean images, for the model's own loss.
    """

    name: str
    settings: Mapping[str, object]
    adversary: Adversary | None
    objective: Objective | None

    @property
    def model_name(self) -> str:
        """What a report calls the model that is trained: by the defence's own name where nothing hardens it."""
        return self.name if self.objective is None else HARDENED

    @property
    def reads_labels(self) -> bool:
        """Whether labels are read in training, which have to be there then."""
        return self.objective is None or self.objective.reads_labels

    @property
    def known(self) -> "KnownDefence":
        """What is known of the defence whatever its settings."""
        return DEFENCES[self.name]

    def check(self, model: nn.Module, images: int) -> None:
        """Refuses a model, or updates of so few images, as its adversary cannot work with; the `UserError` says why."""
        if self.adversary is not None:
            self.adversary.check_model(model)
            self.adversary.check_update(images)

    def attacks(self) -> Mapping[str, Attack]:
        """Attacks by name that a report on the trained model measures; none without an adversary, see `Adversary`."""
        return {} if self.adversary is None else self.adversary.attacks()

    def perturbations(self) -> dict[str, UniversalPerturbation]:
        """Universal perturbations that the model was trained on, by name."""
        return {} if self.adversary is None else self.adversary.perturbations()

    @property
    def identity(self) -> dict:
        """What tells it from others, as JSON takes it."""
        settings = {name: "inf" if value == math.inf else value for name, value in self.settings.items()}
        return {"name": self.name, "settings": settings}

    def record(self) -> dict:
        """What a training record holds of the defence once it was trained with, as JSON takes it."""
        return {
            **self.identity,
            "title": self.known.title,
            "citation": self.known.citation,
            "losses": list(self.objective.losses if self.objective else ()),
            "penalties": list(self.objective.penalties if self.objective else ()),
            "attacks": list(self.attacks()),
            "perturbations": list(self.perturbations()),
        }


@dataclass(frozen=True)
class KnownDefence:
    """A defence without values for its settings.

    Attributes:
        name: e.g. `"pgd-at"`.
        function: gives adversary and objective of settings.
        title: what it is and who published it, for cards, e.g. `"TRADES (Zhang et al., ICML 2019)"`.
        citation: BibTeX; None for what needs none.
        adapts: whether stage 2, adaptation of the most redundant layers on clean images, is a part of it.
        head_alone: whether stage 1 leaves the encoder as it is.
    """

    name: str
    function: Callable[..., tuple[Adversary | None, Objective | None]]
    title: str
    citation: str | None
    adapts: bool
    head_alone: bool

    @property
    def defaults(self) -> dict:
        """Settings that it has, by name, with their defaults."""
        return {name: each.default for name, each in signature(self.function).parameters.items()}

    def configure(self, **settings) -> Defence:
        """The defence with its defaults, changed by `settings`; with a state of its own.

        Raises:
            UserError: for a setting that it does not have, listing those it has, a value out of its range, or an
                adversary without an objective or the other way round.
        """
        if unknown := [name for name in settings if name not in self.defaults]:
            known = ", ".join(self.defaults) or "none"
            raise UserError(f'The defence {self.name} has no setting "{unknown[0]}"; it has {known}.')
        hints = get_type_hints(self.function)
        finite = {name: value for name, value in settings.items() if value != math.inf}
        checked = {name: setting(name, value, hints.get(name)) for name, value in finite.items()}
        settings = {**self.defaults, **settings, **checked}
        adversary, objective = self.function(**settings)
        if (adversary is None) != (objective is None):
            raise UserError(
                f"The defence {self.name} has an {'objective' if adversary is None else 'adversary'} alone, expected "
                "an adversary and an objective, or None for both to train on clean images by the model's own loss."
            )
        if adversary is not None:  # which knows what a default follows from
            settings |= {name: adversary.settings[name] for name in settings.keys() & adversary.settings.keys()}
        return Defence(self.name, settings, adversary, objective)


def setting(name: str, value: object, hint: object):
    """A setting as a plain value; a number also from words such as 8/255.

    Raises:
        UserError: when it is of another kind than the defence takes; names the setting.
    """
    if isinstance(value, str) and float in alternatives(hint):
        try:
            value = number(value)
        except UserError as error:
            raise UserError(f"{name} is {error}") from error
    return checked_setting(name, value, hint)


DEFENCES: Registry[KnownDefence] = Registry("defence")


def register_defence(
    *, title: str, citation: str | None = None, adapts: bool = False, head_alone: bool = False
) -> Callable[[Callable], Callable]:
    """Adds a function to `DEFENCES`, under its own name with hyphens.

        @register_defence(title="Mine (Me, 2026)")
        def mine(*, eps: float = 4 / 255, steps: int = 3, step_size: float = 2 / 255, beta: float = 6.0):
            return PGD(eps=eps, steps=steps, step_size=step_size), MyObjective(beta)

    What it takes by name are its settings: those that `GenAFConfig` has a field for are set by that, others by
    `defence_settings`.

    Args:
        title: what it is and who published it, for cards.
        citation: BibTeX.
        adapts: whether stage 2 is a part of it.
        head_alone: whether stage 1 leaves the encoder as it is.

    Raises:
        UserError: when the name is taken, or a setting has no default.
    """

    def register(function: Callable) -> Callable:
        name = function.__name__.replace("_", "-")
        for setting, each in signature(function).parameters.items():
            if each.kind is not Parameter.KEYWORD_ONLY or each.default is Parameter.empty:
                raise UserError(f'The setting "{setting}" of {name} is expected by name alone, with a default.')
        DEFENCES.add(name, KnownDefence(name, function, title, citation, adapts, head_alone))
        return function

    return register
