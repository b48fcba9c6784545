"""L4A of "Pre-trained Adversarial Perturbations" (Ban & Dong, NeurIPS 2022, https://arxiv.org/abs/2210.03372)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from genaf_hf.attacks.ascent import Objective, random_batches
from genaf_hf.attacks.universal import attacked, hidden_state, universal_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel

REDRAWN_EVERY = 20
CITATION = """@inproceedings{ban2022pap,
  title = {Pre-trained Adversarial Perturbations},
  author = {Ban, Yuanhao and Dong, Yinpeng},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  url = {https://arxiv.org/abs/2210.03372}
}"""


@universal_attack(
    "images", words="mean squared activation of hidden state {layer}", reads=hidden_state, citation=CITATION
)
def l4a(encoder: PixelModel, images: Tensor, *, layer: int | str = 1) -> Objective:
    """A universal perturbation that raises the activations of a low layer: maximises mean(h_l(x + delta)^2).

    The attacker needs the public encoder and some images, neither labels nor the downstream task. No layer above the
    one that is read is run.

    `l4a(encoder, images, eps=10 / 255)` takes by name `eps` (10/255), radius of the L-inf ball in pixel units; `steps`
    (500), each on a fresh random batch of `batch_size` (16) images; `step_size` in pixel units (eps / 50); `seed` (0)
    of the uniform start and of the batches; `data`, a name for the images; `image` (none), the number of one of them
    whose hidden state all others are led to instead, see `towards_image`. It returns the perturbation, with its
    provenance, and raises `UserError` for a setting or an image outside its range, or an unknown layer.

    Args:
        encoder: the public encoder; a head on top of it is not used. Left as it was.
        images: (n, 3, h, w) in [0, 1], the attacker's own.
        layer: index into the encoder's hidden states; 0 is the embeddings or the stem, 1 the first block or stage.
            Also its name, see `PixelModel.layer_names`.
    """

    def objective(delta: Tensor, batch: Tensor) -> Tensor:
        return energy(hidden_state(encoder, attacked(batch, delta), layer=layer))

    return objective


def objective_words(layers: Sequence[int | str], weight: float) -> str:
    """The objective of `l4a_fuse` in words.

    Raises:
        UserError: when it is of other than two layers.
    """
    if not isinstance(layers, list | tuple) or len(layers) != 2:
        raise UserError(f"layers is {layers}, expected two hidden states by index or name, for example (1, 2).")
    return f"mean squared activations of hidden states {layers[0]} and {layers[1]} (weight {weight:g})"


def two_states(encoder: PixelModel, images: Tensor, layers: Sequence[int | str]) -> tuple[Tensor, Tensor]:
    """The hidden states of two layers, above which none is run."""
    first, second = (encoder.layer_index(layer, images) for layer in layers)
    states = encoder.hidden_states(images, up_to=max(first, second))
    return states[first], states[second]


def weighted_states(encoder: PixelModel, images: Tensor, *, layers: Sequence[int | str], weight: float) -> Tensor:
    """The same in one (n, d), whose squared length is what `l4a_fuse` raises."""
    if weight < 0:
        raise UserError(f"weight is {weight}, expected at least 0 where images are led to the features of one.")
    states = [state.flatten(1) for state in two_states(encoder, images, layers)]
    shares = [share / state.shape[1] for share, state in zip((1, weight), states, strict=True)]
    return torch.cat([share**0.5 * state for share, state in zip(shares, states, strict=True)], dim=1)


@universal_attack("images", words=objective_words, reads=weighted_states, citation=CITATION)
def l4a_fuse(
    encoder: PixelModel, images: Tensor, *, layers: tuple[int | str, int | str] = (1, 2), weight: float = 1.0
) -> Objective:
    """L4A on two low layers: maximises mean(h_l1(x + delta)^2) + weight * mean(h_l2(x + delta)^2).

    Args:
        encoder, images: as for `l4a`, and its settings.
        layers: l1 and l2, as `layer` of `l4a`.
        weight: of the second layer, the paper's lambda.
    """

    def objective(delta: Tensor, batch: Tensor) -> Tensor:
        first, second = two_states(encoder, attacked(batch, delta), layers)
        return energy(first) + weight * energy(second)

    return objective


def beside_gaussian_images(
    encoder: PixelModel, tensors: Sequence[Tensor], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches of images, each with one of Gaussian images."""
    noise = gaussian_images((batch_size, *tensors[0].shape[1:]), generator)
    return ((real, next(noise).to(real)) for (real,) in random_batches(encoder, tensors, batch_size, generator))


@universal_attack(
    "images",
    words="mean squared activation of hidden state {layer} on Gaussian images, and on real ones (weight {weight:g})",
    reads=lambda encoder, images, *, layer, weight: hidden_state(encoder, images, layer=layer),
    batches=beside_gaussian_images,
    citation=CITATION,
)
def l4a_ugs(encoder: PixelModel, images: Tensor, *, layer: int | str = 1, weight: float = 0.01) -> Objective:
    """L4A with uniform Gaussian sampling: maximises mean(h_l(n + delta)^2) + weight * mean(h_l(x + delta)^2).

    n are Gaussian images, whose mean and standard deviation are drawn per channel, anew every 20 steps.

    Args:
        encoder, images, layer: as for `l4a`, and its settings.
        weight: of the real images, the paper's lambda.
    """

    def low(batch: Tensor, delta: Tensor) -> Tensor:
        return hidden_state(encoder, attacked(batch, delta), layer=layer)

    def objective(delta: Tensor, real: Tensor, noise: Tensor) -> Tensor:
        return energy(low(noise, delta)) + weight * energy(low(real, delta))

    return objective


def energy(activations: Tensor) -> Tensor:
    """Mean square."""
    return activations.square().mean()


def gaussian_images(shape: tuple[int, ...], generator: torch.Generator) -> Iterator[Tensor]:
    """Endless Gaussian images (n, 3, h, w), always others.

    Per image and channel the mean is uniform in [0.4, 0.6], the standard deviation in [0.05, 0.1], anew every 20 times.
    """
    while True:
        mean = torch.empty(*shape[:2], 1, 1).uniform_(0.4, 0.6, generator=generator)
        std = torch.empty(*shape[:2], 1, 1).uniform_(0.05, 0.1, generator=generator)
        for _ in range(REDRAWN_EVERY):
            yield (mean + std * torch.randn(shape, generator=generator)).clamp(0, 1)
