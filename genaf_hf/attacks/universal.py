"""Attacks that are told by the objective that one perturbation for all images raises."""

from collections.abc import Callable, Iterator
from functools import partial, wraps
from inspect import Parameter, Signature, signature

import torch
from torch import Tensor

from genaf_hf.attacks.ascent import PARTS, Ascent, Objective, Step, constant, raised, random_batches, steepest_steps
from genaf_hf.attacks.inputs import Encoders, several
from genaf_hf.attacks.norms import NORMS
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.registry import attack_name, known_hints, register_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel, evaluating

IMAGE = Parameter("image", Parameter.KEYWORD_ONLY, default=None, annotation=int | None)  # that others are led to


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


def attacked(images: Tensor, delta: Tensor) -> Tensor:
    """Images with the perturbation, in [0, 1], of which the gradient is as if nothing were clamped.

    Where all images of a batch are black or white, clamping leaves a perturbation that begins outward no gradient, and
    it would stay there, as in the background of digits: the gradient passes straight through (Bengio et al., 2013,
    arXiv 1308.3432).
    """
    changed = images + delta
    return changed + (changed.clamp(0, 1) - changed).detach()


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
