"""Attacks by name, so that a recipe, a report and a card speak of the same attack by the same name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature

from genaf_hf.errors import UserError

NEEDS = ("encoder", "model", "images", "labels")


@dataclass(frozen=True)
class Attack:
    """An attack with its defaults.

    Attributes:
        name: e.g. `"l4a-fuse"`.
        function: e.g. `l4a_fuse`.
        needs: what the attacker must have, in the order of the function's positional arguments: the public
            `"encoder"` or the `"model"` itself, `"images"`, their `"labels"`.
        defaults: settings by name.
    """

    name: str
    function: Callable
    needs: tuple[str, ...]
    defaults: dict

    @property
    def universal(self) -> bool:
        """Whether it knows only the public encoder, and returns one perturbation for all images."""
        return self.needs[0] == "encoder"

    def configure(self, **settings) -> partial:
        """The attack with its defaults, changed by `settings`, to be called with what it needs.

        Raises:
            UserError: for a setting that the attack does not have; lists those it has.
        """
        known = list(signature(self.function).parameters)[len(self.needs) :]
        if unknown := [name for name in settings if name not in known]:
            raise UserError(f'{self.name} has no setting "{unknown[0]}"; it has {", ".join(known)}.')
        return partial(self.function, **{**self.defaults, **settings})


class Attacks(dict[str, Attack]):
    """Attacks by name; an unknown name is refused with the known ones listed."""

    def __missing__(self, name: str) -> Attack:
        raise UserError(f'There is no attack "{name}"; there are {", ".join(self)}.')


ATTACKS = Attacks()


def attack_name(function: Callable) -> str:
    """The name under which a function is known as an attack: `l4a_fuse` is `"l4a-fuse"`."""
    return function.__name__.replace("_", "-")


def register_attack(*needs: str, **defaults) -> Callable[[Callable], Callable]:
    """Adds a function to `ATTACKS`, under its own name with hyphens.

        @register_attack("model", "images", "labels", eps=8 / 255)
        def my_attack(model, images, labels, *, eps, seeds=None): ...

    Args:
        needs: what its positional arguments are, see `Attack.needs`. With `"encoder"` first it returns a
            `UniversalPerturbation`, with `"model"` first adversarial images, and takes `seeds`, one per image.
        defaults: settings.

    Returns:
        The decorator, which hands back the function as it is.

    Raises:
        UserError: when `needs` is unknown, or the name is taken.
    """
    if not needs or needs[0] not in ("encoder", "model") or not {*needs} <= {*NEEDS}:
        raise UserError(f"An attack cannot need {', '.join(needs) or 'nothing'}; expected encoder or model, then "
                         "images and labels.")  # fmt: skip

    def register(function: Callable) -> Callable:
        name = attack_name(function)
        if name in ATTACKS:
            raise UserError(f'There is an attack "{name}" already.')
        ATTACKS[name] = Attack(name, function, needs, defaults)
        return function

    return register
