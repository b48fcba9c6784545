"""L4A of "Pre-trained Adversarial Perturbations" (Ban & Dong, NeurIPS 2022, https://arxiv.org/abs/2210.03372)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.registry import register_attack
from genaf_hf.attacks.universal import (
    ascend_perturbation,
    attacked,
    check_universal_settings,
    crafted,
    raise_objective,
    random_batches,
    random_start,
    universal_step_size,
)
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


@register_attack("encoder", "images", eps=0.05, derived={"step_size": universal_step_size}, citation=CITATION)
def l4a(
    encoder: PixelModel,
    images: Tensor,
    *,
    eps: float,
    steps: int = 500,
    step_size: float | None = None,
    layer: int | str = 1,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """A universal perturbation that raises the activations of a low layer: maximises mean(h_l(x + delta)^2).

    The attacker needs the public encoder and some images, neither labels nor the downstream task. No layer above the
    one that is read is run.

    Args:
        encoder: the public encoder; a head on top of it is not used. Left as it was.
        images: (n, 3, h, w) in [0, 1], the attacker's own.
        eps: radius of the L-inf ball in pixel units.
        steps: number of sign-gradient steps, each on a fresh random batch.
        step_size: in pixel units, default eps / 50.
        layer: index into the encoder's hidden states; 0 is the embeddings or the stem, 1 the first block or stage.
            Also its name, see `PixelModel.layer_names`.
        batch_size: images per step.
        seed: of the uniform start and of the batches.
        data: a name for the images, kept in the provenance.

    Returns:
        The perturbation, with its provenance.

    Raises:
        UserError: for a setting or an image outside its range, or an unknown layer.
    """

    def objective(delta: Tensor, batch: Tensor) -> Tensor:
        return energy(encoder.hidden_states(attacked(batch, delta), up_to=layer)[-1])

    return raise_objective(
        encoder,
        images,
        objective,
        attack="l4a",
        words=f"mean squared activation of hidden state {layer}",
        eps=eps,
        steps=steps,
        step_size=step_size,
        batch_size=batch_size,
        seed=seed,
        data=data,
    )


@register_attack("encoder", "images", eps=0.05, derived={"step_size": universal_step_size}, citation=CITATION)
def l4a_fuse(
    encoder: PixelModel,
    images: Tensor,
    *,
    eps: float,
    steps: int = 500,
    step_size: float | None = None,
    layers: tuple[int | str, int | str] = (1, 2),
    weight: float = 1.0,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """L4A on two low layers: maximises mean(h_l1(x + delta)^2) + weight * mean(h_l2(x + delta)^2).

    Args:
        layers: l1 and l2, as `layer` of `l4a`.
        weight: of the second layer, the paper's lambda.
        encoder, images, eps, steps, step_size, batch_size, seed, data: as for `l4a`.

    Returns:
        The perturbation, with its provenance.

    Raises:
        UserError: for a setting or an image outside its range, or an unknown layer.
    """
    if not isinstance(layers, list | tuple) or len(layers) != 2:
        raise UserError(f"layers is {layers}, expected two hidden states by index or name, for example (1, 2).")

    def objective(delta: Tensor, batch: Tensor) -> Tensor:
        first, second = (encoder.layer_index(layer, batch) for layer in layers)
        states = encoder.hidden_states(attacked(batch, delta), up_to=max(first, second))
        return energy(states[first]) + weight * energy(states[second])

    return raise_objective(
        encoder,
        images,
        objective,
        attack="l4a-fuse",
        words=f"mean squared activations of hidden states {layers[0]} and {layers[1]} (weight {weight:g})",
        eps=eps,
        steps=steps,
        step_size=step_size,
        batch_size=batch_size,
        seed=seed,
        data=data,
    )


@register_attack("encoder", "images", eps=0.05, derived={"step_size": universal_step_size}, citation=CITATION)
def l4a_ugs(
    encoder: PixelModel,
    images: Tensor,
    *,
    eps: float,
    steps: int = 500,
    step_size: float | None = None,
    layer: int | str = 1,
    weight: float = 0.01,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """L4A with uniform Gaussian sampling: maximises mean(h_l(n + delta)^2) + weight * mean(h_l(x + delta)^2).

    n are Gaussian images, whose mean and standard deviation are drawn per channel, anew every 20 steps.

    Args:
        weight: of the real images, the paper's lambda.
        encoder, images, eps, steps, step_size, layer, batch_size, seed, data: as for `l4a`.

    Returns:
        The perturbation, with its provenance.

    Raises:
        UserError: for a setting or an image outside its range, or an unknown layer.
    """
    step_size = universal_step_size(eps, step_size)
    check_universal_settings(eps=eps, steps=steps, step_size=step_size, batch_size=batch_size)

    def low(batch: Tensor, delta: Tensor) -> Tensor:
        return encoder.hidden_states(attacked(batch, delta), up_to=layer)[-1]

    def objective(delta: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        noise, real = batch
        return energy(low(noise, delta)) + weight * energy(low(real, delta))

    generator = torch.Generator().manual_seed(seed)
    delta = random_start(encoder, images.shape[1:], eps, generator)
    noise = gaussian_images((batch_size, *images.shape[1:]), generator)
    batches = ((next(noise).to(real), real) for (real,) in random_batches(encoder, (images,), batch_size, generator))
    delta = ascend_perturbation(encoder, objective, batches, delta, eps=eps, steps=steps, step_size=step_size)
    words = f"mean squared activation of hidden state {layer} on Gaussian images, and on real ones (weight {weight:g})"
    return crafted(encoder, delta, "l4a-ugs", words, eps=eps, steps=steps, step_size=step_size, seed=seed, data=data)


def energy(activations: Tensor) -> Tensor:
    """Mean square."""
    return activations.square().mean()


def gaussian_images(shape: tuple[int, ...], generator: torch.Generator) -> Iterator[Tensor]:
    """Endless Gaussian images (n, 3, h, w), the same ones 20 times, then others.

    Per image and channel the mean is uniform in [0.4, 0.6], the standard deviation in [0.05, 0.1].
    """
    while True:
        mean = torch.empty(*shape[:2], 1, 1).uniform_(0.4, 0.6, generator=generator)
        std = torch.empty(*shape[:2], 1, 1).uniform_(0.05, 0.1, generator=generator)
        images = (mean + std * torch.randn(shape, generator=generator)).clamp(0, 1)
        yield from (images for _ in range(REDRAWN_EVERY))
