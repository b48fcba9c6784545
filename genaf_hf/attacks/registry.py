"""Attacks by name, so that a recipe, a report and a card speak of the same attack by the same name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps
from inspect import signature
from typing import get_type_hints

from genaf_hf.attacks.inputs import callers_modes_left, device_of, taken
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
        The decorator. What it hands back calls the function with checked arguments: `images` within [0, 1] in the
        model's precision, contiguous and without a history, `labels` as int64, `seeds` and settings as plain numbers.
        The caller's `torch.no_grad`, `torch.inference_mode` and default dtype do not count in it, nor, with
        `"encoder"` first, autocast.

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
        called = in_own_modes(function, fits_parameters=needs[0] == "encoder")
        ATTACKS[name] = Attack(name, called, needs, defaults)
        return called

    return register


def in_own_modes(function: Callable, *, fits_parameters: bool) -> Callable:
    """An attack that does the same for every type and memory layout of its arguments and in every mode of its caller.

    Args:
        function: the attack.
        fits_parameters: whether it has parameters of its own, and must not see the caller's autocast. Others keep it:
            a model that is trained in bfloat16 is attacked in bfloat16.
    """
    parameters = signature(function)
    hints = cache(lambda: get_type_hints(function))  # when it is called: they may name what is defined later

    @wraps(function)
    def called(*given, **settings):
        bound = parameters.bind(*given, **settings)
        with callers_modes_left(device_of(bound.arguments) if fits_parameters else None):
            bound.arguments.update(taken(bound.arguments, hints()))
            return function(*bound.args, **bound.kwargs)

    return called
