"""Attacks by name, so that a recipe, a report and a card speak of the same attack by the same name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps
from inspect import Parameter, signature
from typing import get_type_hints

from genaf_hf.attacks.inputs import callers_modes_left, check_model, device_of, taken
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
        parameters = signature(self.function).parameters.values()
        known = [each.name for each in parameters][len(self.needs) :]
        any_name = any(each.kind is Parameter.VAR_KEYWORD for each in parameters)
        if unknown := [name for name in settings if name not in known and not any_name]:
            raise UserError(f'{self.name} has no setting "{unknown[0]}"; it has {", ".join(known)}.')
        return partial(self.function, **{**self.defaults, **settings})


class Attacks(dict[str, Attack]):
    """Attacks by name; an unknown name is refused with the known ones listed."""

    def __missing__(self, name: str) -> Attack:
        raise UserError(f'There is no attack "{name}"; there are {", ".join(self)}.')


ATTACKS = Attacks()


def attack_name(function: Callable) -> str:
    """The name under which a function is known as an attack: `l4a_fuse` is `"l4a-fuse"`.

    That of a `functools.partial` is its function's, that of an object its class's.
    """
    function = getattr(function, "func", function)
    return getattr(function, "__name__", type(function).__name__).replace("_", "-")


def register_attack(*needs: str, **defaults) -> Callable[[Callable], Callable]:
    """Adds a function to `ATTACKS`, under its own name with hyphens.

        @register_attack("model", "images", "labels", eps=8 / 255)
        def my_attack(model, images, labels, *, eps, seeds=None): ...

    Args:
        needs: what its positional arguments are, whatever their names, see `Attack.needs`. With `"encoder"` first it
            returns a `UniversalPerturbation`, with `"model"` first adversarial images; if anything in it is random, it
            takes `seeds`, one per image.
        defaults: settings.

    Returns:
        The decorator. What it hands back calls the function with checked arguments: `images` within [0, 1] in the
        model's precision, contiguous and without a history, `labels` as int64, `seeds` and settings as plain numbers.
        The caller's `torch.no_grad`, `torch.inference_mode` and default dtype do not count in it, nor, with
        `"encoder"` first, autocast.

    Raises:
        UserError: when `needs` is unknown, the name is taken, or the function lacks an argument that it needs.
    """
    if not needs or needs[0] not in ("encoder", "model") or not {*needs} <= {*NEEDS}:
        raise UserError(f"An attack cannot need {', '.join(needs) or 'nothing'}; expected encoder or model, then "
                         "images and labels.")  # fmt: skip

    def register(function: Callable) -> Callable:
        name = attack_name(function)
        if name in ATTACKS:
            raise UserError(f'There is an attack "{name}" already.')
        positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        if len([each for each in signature(function).parameters.values() if each.kind in positional]) < len(needs):
            raise UserError(f'"{name}" has fewer positional arguments than it needs: {", ".join(needs)}.')
        called = in_own_modes(function, needs)
        ATTACKS[name] = Attack(name, called, needs, defaults)
        return called

    return register


def in_own_modes(function: Callable, needs: tuple[str, ...]) -> Callable:
    """An attack that does the same for every type and memory layout of its arguments and in every mode of its caller.

    One on the encoder may have parameters of its own, and does not see the caller's autocast. Others keep it: a model
    that is trained in bfloat16 is attacked in bfloat16.

    Args:
        function: the attack.
        needs: what its positional arguments are.
    """
    parameters = signature(function)
    own_names = dict(zip(needs, parameters.parameters, strict=False))
    of_all = [each.name for each in parameters.parameters.values() if each.kind is Parameter.VAR_KEYWORD]
    # When it is called: they may name what is defined later.
    hints = cache(lambda: {name: hint for name, hint in known_hints(function).items() if name not in of_all})

    @wraps(function)
    def called(*given, **settings):
        try:
            bound = parameters.bind(*given, **settings)
        except TypeError as error:
            by_name = ", ".join([*parameters.parameters][len(needs) :]) or "nothing"
            raise UserError(
                f"{attack_name(function)}: {error}; it is called with {', '.join(needs)} and, by name, {by_name}."
            ) from error
        arguments = {need: bound.arguments[name] for need, name in own_names.items() if name in bound.arguments}
        check_model(arguments.get(needs[0]), hints().get(own_names[needs[0]]))
        with callers_modes_left(device_of(arguments) if needs[0] == "encoder" else None):
            arguments |= {name: value for name, value in bound.arguments.items() if name not in own_names.values()}
            found = taken(arguments, hints())
            bound.arguments.update({own_names.get(name, name): value for name, value in found.items()})
            return function(*bound.args, **bound.kwargs)

    called.__name__ = attack_name(function).replace("-", "_")  # an object has none
    return called


def known_hints(function: Callable) -> dict:
    """The annotations of a function; none where they name what only a type checker imports."""
    try:
        return get_type_hints(function)
    except (NameError, TypeError):
        return {}
