"""AdvEncoder (Zhou et al., ICCV 2023, https://arxiv.org/abs/2307.12280)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_hf.attacks.ascent import (
    EPS,
    JUDGED_BATCHES,
    all_evaluating,
    all_finite,
    best_of,
    check_finite,
    check_universal_settings,
    from_on,
    given,
    provenance,
    some_of,
)
from genaf_hf.attacks.inputs import Encoders, several
from genaf_hf.attacks.norms import NORMS, Norm, into_ball
from genaf_hf.attacks.patch import GRAY, Place, Shape, UniversalPatch, of_pasting, pasting
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import SEEDS, check_restarts
from genaf_hf.attacks.registry import register_attack
from genaf_hf.attacks.universal import instead_of, nearness
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.runs.progress import progress
from genaf_hf.values.device import sent

NOISE, NOISES = 100, 16  # numbers of one, and how many are mixed
TEMPERATURE = 0.1
# By its name, as in a report: of as many images as other universal attacks, and of a generator that a CPU can train.
BY_NAME: dict[str, Any] = {"steps": 100, "batch_size": 64, "width": 256}
APART, BESIDE = "InfoNCE of clean and attacked features", ", high frequencies, small distance"
CITATION = """@inproceedings{zhou2023advencoder,
  title = {Downstream-agnostic Adversarial Examples},
  author = {Zhou, Ziqi and Hu, Shengshan and Zhao, Ruizhi and Wang, Qian and Zhang, Leo Yu and
            Hou, Junhui and Jin, Hai},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2023},
  url = {https://arxiv.org/abs/2307.12280}
}"""


@register_attack("encoder", "images", eps=EPS, norms=NORMS, citation=CITATION, **BY_NAME)
def advencoder_per(
    encoder: Encoders,
    images: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    steps: int = 500,
    learning_rate: float = 2e-4,
    width: int = 1024,
    restarts: int = 1,
    init: str | None = None,
    max_images: int | None = None,
    batch_size: int = 256,
    image: int | None = None,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """A universal perturbation from a generator that pulls the features of attacked images off those of clean ones.

    Args:
        eps: radius of the ball in pixel units.
        steps: of Adam on the generator's weights, one random batch each.
        learning_rate: of Adam.
        width: channels of the generator's first layer.
        restarts: that many generators; the one is kept whose loss is the lowest.
        batch_size: images per step, at least 2: the others of a batch are an image's negatives.
        init: perturbation that the first generator's is added to, less what it makes before its first step.
        image: of the images one whose features those of all others are pulled to, see `towards_image`, instead of off
            their own; None for none.
        encoder, images, norm, max_images, seed, data: as for `l4a`. The seed is also that of the generator.

    Returns:
        The perturbation, with its provenance.

    Raises:
        UserError: for a setting or an image outside its range.
    """
    (images,), data = some_of((images,), max_images, seed, data)
    check_settings(images, steps, learning_rate, width, batch_size, eps=eps, norm=norm)
    encoders, size = several(encoder), images.shape[-2:]

    def perturb(made: Tensor, batch: Tensor, random: torch.Generator) -> Tensor:
        # Not `attacked`: the generator is weaker where its gradients pass the clamp.
        return (batch + into_ball(made[None], eps, norm)[0]).clamp(0, 1)

    begun = None if init is None else into_ball(given(init, images.shape[1:])[None], eps, norm)[0]
    wanted = size, width, encoders, images, perturb, steps, learning_rate, batch_size
    made = best_generated(*wanted, restarts=restarts, begun=begun, image=image, seed=seed)
    known = provenance(encoders, objective=objective_words(image) + from_on(init), steps=steps, seed=seed, data=data)
    return UniversalPerturbation(into_ball(made[None], eps, norm)[0], "advencoder-per", eps, norm=norm, **known)


@register_attack("encoder", "images", citation=CITATION, **BY_NAME)
def advencoder_pat(
    encoder: Encoders,
    images: Tensor,
    *,
    area: float = 0.03,
    place: Place = "random",
    shape: Shape = "square",
    degrees: float = 0.0,
    smallest: float = 1.0,
    steps: int = 500,
    learning_rate: float = 2e-4,
    width: int = 1024,
    restarts: int = 1,
    init: str | None = None,
    max_images: int | None = None,
    batch_size: int = 256,
    image: int | None = None,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPatch:
    """A patch, universal, from the same generator and for the same loss as `advencoder_per`.

    Args:
        area: share of the image that the patch covers.
        place: `"random"`, another for each image, or `"fixed"`, the lower right corner.
        shape: `"square"` or `"round"`.
        degrees: it is turned by up to so many at random, either way, where it is crafted and where it attacks.
        smallest: it is shrunk at random, to this share of its side at least, as it is turned.
        init: patch that the first generator's is added to in the same way.
        encoder, images, steps, learning_rate, width, restarts, max_images, batch_size, image, seed, data: as for
            `advencoder_per`.

    Returns:
        The patch, with its provenance.

    Raises:
        UserError: for a setting or an image outside its range, or a patch of no pixel or larger than the images.
    """
    (images,), data = some_of((images,), max_images, seed, data)
    check_settings(images, steps, learning_rate, width, batch_size, eps=GRAY)
    pasted, side = pasting(images.shape[-2:], area=area, place=place, shape=shape, degrees=degrees, smallest=smallest)
    encoders = several(encoder)

    def perturb(made: Tensor, batch: Tensor, random: torch.Generator) -> Tensor:
        return pasted(batch, pixels_of(made), [random] * len(batch))

    begun = None if init is None else given(init, (images.shape[1], side, side), patch=True) / GRAY
    wanted = (side, side), width, encoders, images, perturb, steps, learning_rate, batch_size
    made = best_generated(*wanted, restarts=restarts, begun=begun, image=image, seed=seed)
    known = provenance(encoders, objective=objective_words(image) + from_on(init), steps=steps, seed=seed, data=data)
    return of_pasting(pixels_of(made), "advencoder-pat", pasted, area=area, **known)


def objective_words(image: int | None) -> str:
    """The objective in words."""
    return (APART if image is None else instead_of(APART, image)) + BESIDE


def pixels_of(made: Tensor) -> Tensor:
    """A patch in [0, 1] of what a generator makes, in [-1, 1]."""
    return ((made + 1) / 2).clamp(0, 1)


class Generator(nn.Module):
    """Makes one perturbation of fixed noise.

    As the authors', it doubles the side from 4 on while it halves the channels, and mixes what it makes of several
    noises by a convolution over them; with 64 pixels it is theirs. For other sizes it has as many layers as are
    needed, and the middle is cut out. The number of noises is its own, not that of the images in a batch.

    Args:
        size: height and width of the perturbation.
        width: channels of the first layer.
    """

    def __init__(self, size: Sequence[int], width: int = 1024):
        super().__init__()
        self.size = size
        doublings = max(1, (max(size) - 1).bit_length() - 2)
        widths = [max(width >> i, 1) for i in range(doublings)]
        layers: list[nn.Module] = []
        for i, (channels, wanted) in enumerate(zip([NOISE, *widths], widths, strict=False)):
            stride, padding = (1, 0) if i == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(channels, wanted, 4, stride, padding, bias=False),
                nn.BatchNorm2d(wanted),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False), nn.Tanh())
        self.mix = nn.Conv2d(NOISES, 1, 3, padding=1)
        self.register_buffer("noise", torch.randn(NOISES, NOISE, 1, 1))

    def forward(self) -> Tensor:
        """(3, h, w)."""
        made = self.mix(self.layers(self.noise).transpose(0, 1))[:, 0]
        top, left = ((have - want) // 2 for have, want in zip(made.shape[1:], self.size, strict=True))
        return made[:, top : top + self.size[0], left : left + self.size[1]]


def seeded_generator(size: Sequence[int], width: int, seed: int) -> Generator:
    """A generator whose weights and noise depend on the seed alone; the caller's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Generator(size, width)


def best_generated(
    size: Sequence[int],
    width: int,
    encoders: Sequence[PixelModel],
    images: Tensor,
    perturb: Callable[[Tensor, Tensor, torch.Generator], Tensor],
    steps: int,
    learning_rate: float,
    batch_size: int,
    *,
    restarts: int,
    begun: Tensor | None,
    image: int | None,
    seed: int,
) -> Tensor:
    """What a generator makes (3, h, w) when it has minimised AdvEncoder's loss; of several the one of the lowest loss.

    Args:
        size, width: of the generators.
        encoders: that read the images (n, 3, h, w).
        perturb: called with what a generator makes, a batch, and what draws all that is random; gives attacked images.
        steps, learning_rate, batch_size, restarts, image, seed: as for `advencoder_per`.
        begun: what the first generator is to make (3, h, w) before its first step; None for what it makes by itself.

    Raises:
        UserError: when a loss or its gradient is not finite, or there is no such image.
    """
    check_restarts(restarts)
    scores: list[Callable[..., Tensor]] = [partial(apart, each) for each in encoders]
    if image is not None:
        scores = [nearness(each, images, read=direction, image=image) for each in encoders]

    def losses_on_batch(made: Tensor, random: torch.Generator) -> list[Tensor]:
        """The loss on each encoder."""
        chosen = torch.randperm(len(images), generator=random)[:batch_size]  # none twice: it would be a negative
        batch = sent(images[sent(chosen, images.device)], made.device)
        changed = perturb(made, batch, random)
        return [advencoder_loss(batch, changed, score(changed, batch)) for score in scores]

    def trained(restart: int) -> Tensor:
        own_seed = seed + restart * SEEDS
        generator = seeded_generator(size, width, own_seed).to(encoders[0].device)
        random, weights = torch.Generator().manual_seed(own_seed), list(generator.parameters())
        shift = 0 if begun is None or restart else begun.to(encoders[0].device) - generator().detach()
        optimizer = torch.optim.Adam(weights, lr=learning_rate, betas=(0.5, 0.999))
        finite = torch.ones((), dtype=torch.bool, device=encoders[0].device)
        for number in progress(range(steps), "Crafting"):
            loss = torch.stack(losses_on_batch(generator() + shift, random)).mean()
            gradients = torch.autograd.grad(loss, weights)
            finite &= all_finite(loss, *gradients)
            if number == 0:  # as for other universal attacks
                check_finite(finite)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
        check_finite(finite)
        return generator().detach() + shift

    def reached(made: Tensor) -> list[float]:
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            losses = [torch.stack(losses_on_batch(made, random)) for _ in range(JUDGED_BATCHES)]
        return (-torch.stack(losses).sum(dim=0)).tolist()

    with all_evaluating(encoders):
        return best_of(restarts, trained, reached)


def direction(encoder: PixelModel, images: Tensor) -> Tensor:
    """What InfoNCE reads, features of length 1, by whose scale none of several encoders outweighs another."""
    return F.normalize(encoder.features(images))


def apart(encoder: PixelModel, changed: Tensor, images: Tensor) -> Tensor:
    """How far the features of attacked images are from those of clean ones: InfoNCE(f(x), f(x'))."""
    with torch.no_grad():
        clean = encoder.features(images)
    return info_nce(clean, encoder.features(changed))


def advencoder_loss(images: Tensor, changed: Tensor, score: Tensor) -> Tensor:
    """-5 InfoNCE(f(x), f(x')) + MSE(x', x) - MSE(H(x), H(x')), to be minimised; `score` is the InfoNCE or another."""
    return -5 * score + F.mse_loss(changed, images) - F.mse_loss(high_pass(images), high_pass(changed))


def info_nce(queries: Tensor, keys: Tensor) -> Tensor:
    """Mean of -log softmax(cos(q_i, k_j) / 0.1) at j = i, for two (n, d); the negatives are the batch's."""
    similarities = F.normalize(queries) @ F.normalize(keys).T / TEMPERATURE
    return F.cross_entropy(similarities, torch.arange(len(queries), device=queries.device))


def high_pass(images: Tensor) -> Tensor:
    """Images (n, 3, h, w) without the frequencies below an eighth of the shorter side, in cycles per image.

    At 64 pixels these are the authors' 8.
    """
    height, width = images.shape[-2:]
    radius = min(height, width) / 8
    vertical = torch.fft.fftfreq(height, 1 / height, device=images.device)
    horizontal = torch.fft.fftfreq(width, 1 / width, device=images.device)
    kept = vertical[:, None].square() + horizontal.square() >= radius**2
    return torch.fft.ifft2(torch.fft.fft2(images) * kept).real


def check_settings(
    images: Tensor, steps: int, learning_rate: float, width: int, batch_size: int, *, eps: float, norm: str = "linf"
) -> None:
    """Refuses what AdvEncoder cannot run with; the `UserError` names what was found."""
    check_universal_settings(eps=eps, norm=norm, steps=steps, step_size=eps, batch_size=batch_size)
    if not 0 < learning_rate < float("inf"):
        raise UserError(f"learning_rate is {learning_rate}, expected a positive number, for example 2e-4.")
    if width < 1:
        raise UserError(f"width is {width}, expected at least 1 channel.")
    if batch_size < 2 or len(images) < 2:
        raise UserError(
            f"There are {len(images)} images in batches of {batch_size}, expected at least 2 of both: the other images "
            "of a batch are an image's negatives."
        )
