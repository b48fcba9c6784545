"""Attacks that raise an objective over one perturbation for all images."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from itertools import islice, repeat
from typing import Any, TypeVar

import torch
from torch import Tensor

from genaf_hf.attacks.inputs import Encoders, several
from genaf_hf.attacks.norms import NORMS, Norm, draw_in_ball, into_ball, steepest_ascent
from genaf_hf.attacks.patch import GRAY
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import SEEDS, check_attack_settings, check_max_images, check_restarts, gradient_of
from genaf_hf.attacks.registry import attack_name, known_hints, register_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.runs.progress import progress
from genaf_hf.values.device import sent
from genaf_hf.values.provenance import model_source, public_name

EPS = 10 / 255  # where nothing else is said
PARTS = 50  # of eps, of which a step is one
JUDGED_BATCHES = 32  # by which the best of several perturbations is told
IMAGE = Parameter("image", Parameter.KEYWORD_ONLY, default=None, annotation=int | None)  # that others are led to

Objective = Callable[..., Tensor]  # of the perturbation (3, h, w) and of what is drawn for a step, a scalar
Step = Callable[[Tensor], None]  # moves the perturbation, by its gradient
Crafted = TypeVar("Crafted")


def universal_attack(
    *needs: str,
    words: str | Callable[..., str],
    on: str = "encoder",
    citation: str | None = None,
    reads: Callable[..., Tensor] | None = None,
    batches: Callable[..., Iterator[tuple[Tensor, ...]]] | None = None,
    stepping: Callable[..., Step] | None = None,
    lengths: Callable[[float, int], Iterator[float]] | None = None,
    parts: int = PARTS,
    **defaults,
) -> Callable[[Callable[..., Objective]], Callable[..., UniversalPerturbation]]:
    """Adds an attack to `ATTACKS` that is told by its objective alone.

        @universal_attack("images", words="mean activation of hidden state {layer}", reads=hidden_state)
        def my_attack(encoder, images, *, layer=1):
            return lambda delta, batch: hidden_state(encoder, attacked(batch, delta), layer=layer).mean()

    The function is called once for each encoder, with it, what else the attack needs and the settings of its own. What
    it returns is raised from a uniform random start within the ball of radius `eps`, by steps along its gradient, or
    along the mean of the encoders' gradients, each of one length: none outweighs the others by its scale.

    Args:
        needs: beside the encoder: `"images"`, `"labels"` or nothing.
        words: the objective for the provenance, with settings of the function in braces; or what makes it of them.
        on: what is attacked, the public `"encoder"`, or the `"model"` itself by those who have it.
        citation: of the paper, in BibTeX.
        reads: what the objective reads of images (n, ...), called with the encoder, the images and the settings of the
            function. Where it is given, the attack can be led: with the setting `image` it raises `towards_image`.
        batches: gives what the objective is called with at each step, default `random_batches`.
        stepping: makes the step of a perturbation, default `steepest_steps`; what it takes by name are settings, too.
        lengths: of the steps, made of `step_size` and their number, default `constant`.
        parts: of eps, of which the step size is one where it is not given.
        defaults: settings, where they are others than those of `raised`, `stepping` and the function.

    Returns:
        The decorator. What it hands back is called with the encoder, or several of one size, what else it needs and, by
        name, the settings of the function, those of `stepping`, and those of `raised`: `eps`, `norm`, `steps`,
        `step_size`, `restarts`, `init`, `seed`, with images `max_images`, `batch_size` and `data`. It returns the
        perturbation.

    Raises:
        UserError: as `register_attack`.
    """
    ascent = Ascent(batches or random_batches, stepping or steepest_steps, lengths or constant, parts)
    without_images = {} if "images" in needs else {"max_images": None, "batch_size": 1, "data": "none"}

    def register(function: Callable[..., Objective]) -> Callable[..., UniversalPerturbation]:
        parameters = [*signature(function).parameters.values()]
        positional, own = parameters[: 1 + len(needs)], parameters[1 + len(needs) :]
        settings = [
            each.replace(kind=Parameter.KEYWORD_ONLY, default=defaults.get(each.name, each.default))
            for each in (*by_name(raised), *by_name(ascent.stepping), *own, *([IMAGE] if reads else []))
            if each.name not in without_images
        ]
        attack = attack_name(function)
        hints = known_hints(ascent.stepping) | known_hints(raised) | known_hints(function)
        hints[positional[0].name] = Encoders
        if reads:
            hints[IMAGE.name] = IMAGE.annotation

        @wraps(function)
        def craft(encoder: Encoders, *needed: Tensor, **given) -> UniversalPerturbation:
            found = {each.name: each.default for each in settings} | given | without_images
            chosen = {each.name: found.pop(each.name) for each in own}
            make_objective = partial(function, **chosen)
            told = words(**chosen) if callable(words) else words.format(**chosen)
            if reads and (image := found.pop(IMAGE.name)) is not None:
                make_objective = partial(towards_image, read=partial(reads, **chosen), image=image)
                told = instead_of(told, image)
            return raised(several(encoder), needed, make_objective, (attack, told), ascent, **found)

        craft.__dict__["__signature__"], craft.__annotations__ = Signature([*positional, *settings]), hints
        register_as = register_attack(
            *(on, *needs),
            universal=True,
            norms=NORMS,
            derived={"step_size": ascent.step_size},
            citation=citation,
        )
        return register_as(craft)

    return register


def hidden_state(encoder: PixelModel, images: Tensor, *, layer: int | str) -> Tensor:
    """The hidden state of a layer, above which none is run."""
    return encoder.hidden_states(images, up_to=layer)[-1]


def features(encoder: PixelModel, images: Tensor) -> Tensor:
    """What heads read, (n, d)."""
    return encoder.features(images)


def towards_image(encoder: PixelModel, images: Tensor, *, read: Callable[..., Tensor], image: int) -> Objective:
    """Leads all images to where one of them is: minus the squared distance ||f(x + delta) - f(t)||^2, in the mean.

    What a model that reads these features answers to t, it tends to answer to every image with the perturbation
    (activation attack, Inkawhich et al., CVPR 2019, whose objective this is).

    Args:
        encoder, images: as for `l4a`.
        read: f, called with the encoder and images.
        image: which of the images t is, from 0 on.

    Raises:
        UserError: when there is no such image.
    """
    near = nearness(encoder, images, read=read, image=image)
    return lambda delta, *drawn: torch.stack([near(attacked(batch, delta)) for batch in drawn]).sum()


def nearness(encoder: PixelModel, images: Tensor, *, read: Callable[..., Tensor], image: int) -> Callable[..., Tensor]:
    """The objective of `towards_image` as a function of images that are attacked already."""
    check_image(image, len(images))
    with evaluating(encoder), torch.no_grad():
        wanted = read(encoder, images[image : image + 1].to(encoder.device))
    return lambda changed, *_: -(read(encoder, changed) - wanted).flatten(1).square().sum(dim=1).mean()


def check_image(image: int, count: int) -> None:
    """Refuses an image that an attacker of so many has not; the `UserError` names it."""
    if not 0 <= image < count:
        raise UserError(f"image is {image}, expected one of the attacker's {count} images, counted from 0.")


def instead_of(told: str, image: int) -> str:
    """The words for `towards_image`, where another objective would be raised."""
    return f"minus the squared distance to the features of image {image}, instead of {told}"


def by_name(function: Callable) -> list[Parameter]:
    """The parameters that a function takes by name only."""
    return [each for each in signature(function).parameters.values() if each.kind is Parameter.KEYWORD_ONLY]


def raised(
    encoders: Sequence[PixelModel],
    needed: Sequence[Tensor],
    make_objective: Callable[..., Objective],
    told: tuple[str, str],
    ascent: "Ascent",
    side: int | None = None,
    *,
    eps: float = EPS,
    norm: Norm = "linf",
    steps: int = 500,
    step_size: float | None = None,
    restarts: int = 1,
    init: str | None = None,
    max_images: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
    **of_stepping,
) -> UniversalPerturbation:
    """The perturbation that raises an objective on each of some encoders, from a uniform random start.

    Args:
        encoders: what the objective reads; left as they were.
        needed: images (n, 3, h, w) and labels (n,), as far as the attack needs them.
        make_objective: called with each encoder and what is needed when the settings are checked.
        told: name of the attack, and the objective in words.
        ascent: how.
        side: of a patch, which is raised as a perturbation of gray; None for a perturbation of the images.
        eps: radius of the ball in pixel units.
        norm: `"linf"` or `"l2"`.
        steps: number of steps, each on a fresh random batch.
        step_size: in pixel units, default one of the `parts` of eps.
        restarts: from so many starts; of their perturbations the one with the highest objective is kept, by the mean
            over the same random batches, of several encoders relative to what is usual on each.
        init: perturbation or patch that the first start is at, moved into the ball: folder or Hub id.
        max_images: so many of the images at most, drawn at random.
        batch_size: images per step.
        seed: of the uniform starts, of the batches, and of the images that are drawn.
        data: a name for the images, kept in the provenance.
        of_stepping: settings of `stepping`.

    Raises:
        UserError: for a setting outside its range, or an encoder without finite values or gradients.
    """
    step_size = ascent.step_size(eps) if step_size is None else step_size
    check_universal_settings(eps=eps, norm=norm, steps=steps, step_size=step_size, batch_size=batch_size)
    check_restarts(restarts)
    needed, data = some_of(needed, max_images, seed, data)
    objectives = [make_objective(encoder, *needed) for encoder in encoders]
    device = encoders[0].device
    size = needed[0].shape[1:] if needed else (3, *encoders[0].image_size)
    size = size if side is None else (size[0], side, side)
    begun = [] if init is None else [into_ball(given(init, size, patch=side is not None)[None], eps, norm)[0]]

    def crafted(restart: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed + restart * SEEDS)
        delta = draw_in_ball(torch.empty(size), eps, norm, generator)
        delta = (begun[restart] if restart < len(begun) else delta).to(device).requires_grad_()
        drawn = islice(ascent.batches(encoders[0], needed, batch_size, generator), steps)
        step = ascent.stepping(delta, ascent.lengths(step_size, steps), norm, **of_stepping)
        finite, moved = (torch.full((), truth, device=device) for truth in (True, False))
        for number, batch in enumerate(progress(drawn, "Crafting", total=steps)):
            values = [objective(delta, *batch) for objective in objectives]
            gradient = joint_gradient(values, delta)
            finite &= all_finite(*values, gradient)
            moved |= gradient.any()
            if number == 0:  # later ones are not looked at: it would have the CPU wait for an accelerator
                check_finite(finite)
            step(gradient)
            delta.data.copy_(into_ball(delta.data[None], eps, norm)[0])
        check_finite(finite)
        check_moved(moved)
        return delta.detach()

    def reached(delta: Tensor) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        drawn = islice(ascent.batches(encoders[0], needed, batch_size, generator), JUDGED_BATCHES)
        with torch.no_grad():
            values = [[objective(delta, *batch).item() for objective in objectives] for batch in drawn]
        return [sum(each) for each in zip(*values, strict=True)]

    with all_evaluating(encoders):
        best = best_of(restarts, crafted, reached)
    attack, words = told[0], told[1] + from_on(init)
    known = provenance(encoders, objective=words, steps=steps, step_size=step_size, seed=seed, data=data)
    return UniversalPerturbation(best, attack, eps, norm=norm, **known)


def joint_gradient(values: Sequence[Tensor], delta: Tensor) -> Tensor:
    """The gradient of a value; of several values the mean of their gradients, each divided by its L1 norm."""
    gradients = [gradient_of(value, delta) for value in values]
    if len(gradients) == 1:
        return gradients[0]
    return torch.stack([each / each.abs().sum().clamp(min=1e-12) for each in gradients]).mean(dim=0)


def best_of(restarts: int, craft: Callable[[int], Crafted], reached: Callable[[Crafted], list[float]]) -> Crafted:
    """What is crafted from several starts, by their numbers, and reaches the highest, see `highest`."""
    found = [craft(restart) for restart in range(restarts)]
    return found[highest([reached(each) for each in found])] if restarts > 1 else found[0]


def highest(values: Sequence[Sequence[float]]) -> int:
    """Which row of values is the highest in the mean, each relative to the usual size of its column."""
    table = torch.tensor(values, dtype=torch.float64)
    return int((table / table.abs().mean(dim=0).clamp(min=1e-12)).mean(dim=1).argmax())


def steepest_steps(delta: Tensor, lengths: Iterator[float], norm: str) -> Step:
    """Steps of a perturbation along its gradient: in L-inf by the sign, each pixel as far as any other."""

    def step(gradient: Tensor) -> None:
        delta.data += next(lengths) * steepest_ascent(gradient[None], norm)[0]

    return step


def constant(step_size: float, steps: int) -> Iterator[float]:
    """The same length for each of `steps` steps."""
    return repeat(step_size, steps)


def falling(step_size: float, steps: int) -> Iterator[float]:
    """Lengths that fall from `step_size` to nothing along a cosine."""
    return (step_size * (1 + math.cos(math.pi * number / steps)) / 2 for number in range(steps))


def random_batches(
    encoder: PixelModel, tensors: Sequence[Tensor], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Endless batches of rows drawn at random, the same ones of each tensor, on the encoder's device; empty of none."""
    while tensors:
        rows = torch.randint(len(tensors[0]), (batch_size,), generator=generator)
        yield tuple(sent(tensor[sent(rows, tensor.device)], encoder.device) for tensor in tensors)
    yield from repeat(())


@dataclass(frozen=True)
class Ascent:
    """How an objective is raised step by step; attributes as the arguments of `universal_attack`."""

    batches: Callable[..., Iterator[tuple[Tensor, ...]]] = random_batches
    stepping: Callable[..., Step] = steepest_steps
    lengths: Callable[[float, int], Iterator[float]] = constant
    parts: int = PARTS

    def step_size(self, eps: float, **others) -> float:
        """The one that is not given; `others` are settings that it does not depend on."""
        return eps / self.parts


def some_of(
    tensors: Sequence[Tensor], most: int | None, seed: int, data: str | None
) -> tuple[Sequence[Tensor], str | None]:
    """At most so many rows, drawn at random, none twice, the same ones of each tensor; and the words for them.

    Raises:
        UserError: when that is none.
    """
    check_max_images(most)
    if most is None or most >= len(tensors[0]):
        return tensors, data
    rows = torch.randperm(len(tensors[0]), generator=torch.Generator().manual_seed(seed))[:most]
    return [tensor[rows.to(tensor.device)] for tensor in tensors], data and f"{most} of {data}"


def given(name: str, size: Sequence[int], *, patch: bool = False) -> Tensor:
    """A perturbation (3, h, w) that is to be begun at, of the images or of the gray of a patch.

    Raises:
        UserError: when there is none of this name, or of another size or kind.
    """
    found = UniversalPerturbation.from_pretrained(name)
    kinds = {False: "a perturbation", True: "a patch"}
    if found.delta.shape != torch.Size(size) or found.partial != patch:
        raise UserError(
            f"init is {name}, {kinds[found.partial]} of shape {tuple(found.delta.shape)}, expected {kinds[patch]} of "
            f"{tuple(size)}{'' if patch else ' as the images are'}."
        )
    return found.delta.float() - (GRAY if patch else 0)


def from_on(init: str | None) -> str:
    """The words for a perturbation that was begun at."""
    return "" if init is None else f", from {public_name(init)} on"


@contextmanager
def all_evaluating(encoders: Sequence[PixelModel]) -> Iterator[None]:
    """Each encoder in eval mode."""
    with ExitStack() as stack:
        for encoder in encoders:
            stack.enter_context(evaluating(encoder))
        yield


def attacked(images: Tensor, delta: Tensor) -> Tensor:
    """Images with the perturbation, in [0, 1], of which the gradient is as if nothing were clamped.

    Where all images of a batch are black or white, clamping leaves a perturbation that begins outward no gradient, and
    it would stay there, as in the background of digits: the gradient passes straight through (Bengio et al., 2013,
    arXiv 1308.3432).
    """
    changed = images + delta
    return changed + (changed.clamp(0, 1) - changed).detach()


def all_finite(*values: Tensor) -> Tensor:
    """Whether all values are, as a tensor of no dimension."""
    return torch.stack([each.isfinite().all() for each in values]).all()


def check_finite(finite: Tensor) -> None:
    """Refuses an attack that went by values that are not finite, such as its objective.

    Raises:
        UserError: when they were not: the attack would be noise, and its target would look robust.
    """
    if not finite:
        raise UserError(
            "An attack cannot be crafted: what the encoder makes of the images, or the gradient of it, is not finite. "
            "Check its weights for NaN, and load it in float32."
        )


def check_moved(moved: Tensor) -> None:
    """Refuses what is left of an attack that never had a gradient: noise; the `UserError` says so."""
    if not moved:
        raise UserError(
            "An attack cannot be crafted: the gradient of its objective is 0, so that it would be noise. The encoder "
            "does not answer to its images; choose another layer, or check its weights."
        )


def provenance(encoders: Sequence[PixelModel], **known) -> dict[str, Any]:
    """What is known of how a perturbation was crafted, and of the encoders that it was crafted on."""
    sources = [model_source(encoder.model.config) for encoder in encoders]
    names, revisions = (", ".join(filter(None, each)) or None for each in zip(*sources, strict=True))
    return {"encoder": names, "encoder_revision": revisions, **known}


def check_universal_settings(*, eps: float, steps: int, step_size: float, batch_size: int, norm: str = "linf") -> None:
    """Refuses settings that no universal attack can run with; the `UserError` names what was found."""
    check_attack_settings(eps=eps, steps=steps, step_size=step_size, norm=norm)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1.")
