"""L4A-base of "Pre-trained Adversarial Perturbations" (Ban & Dong, NeurIPS 2022, https://arxiv.org/abs/2210.03372)."""

import torch
from torch import Tensor

from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import check_attack_settings, check_images
from genaf_hf.pixel_model import PixelModel, evaluating
from genaf_hf.provenance import model_source


def l4a(
    encoder: PixelModel,
    images: Tensor,
    *,
    eps: float,
    steps: int = 500,
    step_size: float | None = None,
    layer: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """A universal perturbation that raises the activations of a low layer: maximises mean(h_l(x + delta)^2).

    The attacker needs the public encoder and some images, neither labels nor the downstream task.

    Args:
        encoder: the public encoder; a head on top of it is not used. Left as it was.
        images: (n, 3, h, w) in [0, 1], the attacker's own.
        eps: radius of the L-inf ball in pixel units.
        steps: number of sign-gradient steps, each on a fresh random batch.
        step_size: in pixel units, default eps / 50.
        layer: index into the encoder's hidden states; 0 is the embeddings or the stem, 1 the first block or stage.
        batch_size: images per step.
        seed: of the uniform start and of the batches.
        data: a name for the images, kept in the provenance.

    Returns:
        The perturbation, with its provenance.

    Raises:
        ValueError: for a setting or an image outside its range, or an unknown layer.
    """
    step_size = eps / 50 if step_size is None else step_size
    check_attack_settings(eps=eps, steps=steps, step_size=step_size)
    check_images(images)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1.")
    generator = torch.Generator().manual_seed(seed)
    delta = torch.empty(images.shape[1:]).uniform_(-eps, eps, generator=generator).to(images)
    with evaluating(encoder), torch.enable_grad():
        depth = len(encoder.hidden_states(images[:1]))
        if not 0 <= layer < depth:
            raise ValueError(f"layer is {layer}, expected 0 to {depth - 1}, the hidden states of this encoder.")
        for _ in range(steps):
            batch = images[torch.randint(len(images), (batch_size,), generator=generator)]
            delta.requires_grad_()
            activations = encoder.hidden_states((batch + delta).clamp(0, 1))[layer]
            (gradient,) = torch.autograd.grad(activations.square().mean(), delta)
            delta = (delta.detach() + step_size * gradient.sign()).clamp(-eps, eps)
    source, revision = model_source(encoder.model.config)
    return UniversalPerturbation(
        delta=delta,
        attack="l4a",
        eps=eps,
        steps=steps,
        step_size=step_size,
        seed=seed,
        encoder=source,
        encoder_revision=revision,
        data=data,
        objective=f"mean squared activation of hidden state {layer}",
    )
