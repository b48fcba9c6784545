"""Attacks by name, so that a recipe, a report and a card speak of the same attack by the same name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial, wraps
from inspect import Parameter, signature
from types import MappingProxyType
from typing import get_type_hints

from genaf_hf.attacks.inputs import callers_modes_left, check_models, checked_setting, taken
from genaf_hf.errors import UserError
from genaf_hf.values.registry import Registry

NEEDS = ("encoder", "model", "images", "labels")
PUBLIC_ENCODER, ANSWERS, MODEL = "public encoder", "model's answers", "model"  # what attackers know, from the least on
KNOWLEDGE = {"encoder": PUBLIC_ENCODER, "model": MODEL}
OF_ALL = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
PLAIN = (bool, int, float, str, list, tuple, type(None))


@dataclass(frozen=True)
class Attack:
    """What an attack is, at all its settings. Calling it with what it needs attacks.

    Attributes:
        name: e.g. `"l4a-fuse"`.
        function: e.g. `l4a_fuse`.
        needs: what the attacker must have, in the order of the function's positional arguments: the public
            `"encoder"` or the `"model"` itself, `"images"`, their `"labels"`.
        defaults: every setting at its default, by name, but for functions.
        derived: defaults that follow from other settings, such as the step size from `eps`: by name functions that are
            called with all settings by name; in `defaults` they are None.
        knowledge: what the attacker must know, in words for a report: `"public encoder"`, `"model"` or
            `"model's answers"`.
        norms: that its `eps` can be meant in, `"linf"` and `"l2"`; the first is its default.
        citation: of its paper, in BibTeX.
        universal: whether it returns one perturbation for all images.
        on_standing: whether it is for those images alone that other attacks on single images leave right, see
            `evaluate_robustness`; what withstands it, too, it may give back as it was.
        given: the settings that are not left at their defaults, see `configure`.
    """

    name: str
    function: Callable
    needs: tuple[str, ...]
    defaults: Mapping[str, object] = field(default_factory=dict)
    derived: Mapping[str, Callable] = field(default_factory=dict)
    knowledge: str = MODEL
    norms: tuple[str, ...] = ("linf",)
    citation: str | None = None
    universal: bool = False
    on_standing: bool = False
    given: Mapping[str, object] = field(default_factory=dict)

    @property
    def on_encoder(self) -> bool:
        """Whether it knows only the public encoder."""
        return self.needs[0] == "encoder"

    @property
    def setting_names(self) -> list[str]:
        """Of all it is called with by name but the seeds of the images."""
        parameters = [each for each in signature(self.function).parameters.values() if each.kind not in OF_ALL]
        return [each.name for each in parameters[len(self.needs) :] if each.name != "seeds"]

    @property
    def settings(self) -> dict:
        """Every setting that is given or has a default, by name."""
        found = {**self.defaults, **self.given}
        follows = {name: rule for name, rule in self.derived.items() if found.get(name) is None}
        return {**found, **{name: rule(**found) for name, rule in follows.items()}}

    @property
    def norm(self) -> str:
        """That its `eps` is meant in."""
        return self.settings.get("norm", self.norms[0])

    @property
    def any_setting(self) -> bool:
        """Whether it takes settings of any name."""
        return any(each.kind is Parameter.VAR_KEYWORD for each in signature(self.function).parameters.values())

    @property
    def seeded(self) -> bool:
        """Whether it takes seeds, one per image; one in which nothing is random may do without."""
        return self.any_setting or "seeds" in signature(self.function).parameters

    def configure(self, **settings) -> "Attack":
        """The same at other settings; what follows from them follows.

        Raises:
            UserError: for a setting that is missing, of another kind, or none of the attack's; lists those it has.
        """
        if unknown := [name for name in settings if name not in self.setting_names and not self.any_setting]:
            raise UserError(f'{self.name} has no setting "{unknown[0]}"; it has {", ".join(self.setting_names)}.')
        parameters, hints = signature(self.function).parameters, known_hints(self.function)
        checked = {name: checked_setting(name, value, hints.get(name)) for name, value in settings.items()}
        known = {**self.defaults, **self.given, **checked}
        without = [name for name in self.setting_names if parameters[name].default is Parameter.empty]
        if missing := [name for name in without if name not in known]:
            raise UserError(f"{self.name} has no default for {missing[0]}: give it a value.")
        return replace(self, given={**self.given, **checked})

    def __call__(self, *needed, seeds: Sequence[int] | None = None):
        """What the attack's function makes of what it needs.

        Args:
            needed: in the order of the attack's `needs`.
            seeds: one per image, which an attack that takes none does without.
        """
        drawn = {"seeds": seeds} if seeds is not None and self.seeded else {}
        return self.function(*needed, **self.settings, **drawn)


def configured(attack: Attack | partial) -> Attack:
    """An attack at all its settings, from `functools.partial(function, **settings)` too.

    What the partial leaves out is at the function's own defaults. A function that is not in `ATTACKS` is called with
    model, images and labels.

    Raises:
        UserError: as `Attack.configure`.
    """
    if isinstance(attack, Attack):
        return attack.configure()
    name, function = attack_name(attack), attack.func
    registered = ATTACKS.get(name)
    if registered is None or registered.function is not function:
        registered = Attack(name, function, ("model", "images", "labels"))
    return replace(registered, defaults=own_defaults(function, registered.needs)).configure(**attack.keywords)


def own_defaults(function: Callable, needs: tuple[str, ...]) -> dict:
    """The settings of a function at its own defaults, but for functions."""
    parameters = [*signature(function).parameters.values()][len(needs) :]
    return {each.name: each.default for each in parameters if each.name != "seeds" and isinstance(each.default, PLAIN)}


ATTACKS: Registry[Attack] = Registry("attack")


def attack_name(function: Callable) -> str:
    """The name under which a function is known as an attack: `l4a_fuse` is `"l4a-fuse"`.

    That of a `functools.partial` is its function's, that of an object its class's.
    """
    function = getattr(function, "func", function)
    return getattr(function, "__name__", type(function).__name__).replace("_", "-")


def register_attack(
    *needs: str,
    knowledge: str | None = None,
    norms: Sequence[str] = ("linf",),
    citation: str | None = None,
    derived: Mapping[str, Callable] = MappingProxyType({}),
    universal: bool = False,
    on_standing: bool = False,
    **defaults,
) -> Callable[[Callable], Callable]:
    """Adds a function to `ATTACKS`, under its own name with hyphens.

        @register_attack("model", "images", "labels", eps=8 / 255)
        def my_attack(model, images, labels, *, eps, seeds=None): ...

    Args:
        needs: what its positional arguments are, whatever their names, see `Attack.needs`. With `"encoder"` first it
            returns a `UniversalPerturbation`, with `"model"` first adversarial images; if anything in it is random, it
            takes `seeds`, one per image.
        universal: with `"model"` first, returns a `UniversalPerturbation` all the same.
        knowledge, norms, citation, derived, on_standing: as in `Attack`; knowledge by default that of the encoder or
            the model.
        defaults: settings, where they are others than the function's own.

    Returns:
        The decorator. What it hands back calls the function with checked arguments: `images` within [0, 1] in the
        model's precision, contiguous and without a history, `labels` as int64, `seeds` and settings as plain numbers.
        The caller's `torch.no_grad`, `torch.inference_mode`, `torch.autocast` and default dtype do not count in it: a
        model that is to be attacked in half precision enters autocast in its own forward.

    Raises:
        UserError: when `needs` is unknown, the name is taken, or the function lacks an argument that it needs.
    """
    if not needs or needs[0] not in ("encoder", "model") or not {*needs} <= {*NEEDS}:
        raise UserError(f"An attack cannot need {', '.join(needs) or 'nothing'}; expected encoder or model, then "
                         "images and labels.")  # fmt: skip

    def register(function: Callable) -> Callable:
        name = attack_name(function)
        positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        if len([each for each in signature(function).parameters.values() if each.kind in positional]) < len(needs):
            raise UserError(f'"{name}" has fewer positional arguments than it needs: {", ".join(needs)}.')
        called = in_own_modes(function, needs)
        attack = Attack(
            *(name, called, needs, {**own_defaults(called, needs), **defaults}, derived),
            *(knowledge or KNOWLEDGE[needs[0]], tuple(norms), citation, universal or needs[0] == "encoder"),
            on_standing=on_standing,
        )
        ATTACKS.add(name, attack)
        return called

    return register


def in_own_modes(function: Callable, needs: tuple[str, ...]) -> Callable:
    """An attack that does the same for every type and memory layout of its arguments and in every mode of its caller.

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
        check_models(arguments.get(needs[0]), hints().get(own_names[needs[0]]))
        with callers_modes_left():
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
