"""Universal adversarial perturbations (Moosavi-Dezfooli et al., CVPR 2017, https://arxiv.org/abs/1610.08401)."""

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.registry import register_attack
from genaf_hf.attacks.universal import attacked, check_universal_settings, crafted, random_batches
from genaf_hf.pixel_model import PixelModel, evaluating

OVERSHOOT = 0.02


@register_attack("encoder", "images", "labels", eps=0.05, steps=500)
def uap(
    encoder: PixelModel,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 500,
    deepfool_steps: int = 10,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """A universal perturbation made of DeepFool's steps across the boundaries of a linear probe.

    From no perturbation on, each image whose prediction is still the clean one adds the smallest step that changes it;
    the sum is projected into the L-inf ball. The attacker has labels for images of his own, and trains the probe.

    Args:
        labels: (n,) class ids of the attacker's images, of at least two classes.
        steps: images that are visited, drawn at random.
        deepfool_steps: at most so many for one image.
        encoder, images, eps, seed, data: as for `l4a`.

    Returns:
        The perturbation, with its provenance.

    Raises:
        ValueError: for a setting, an image or a label outside its range.
    """
    check_universal_settings(images, eps=eps, steps=steps, step_size=eps, batch_size=1)
    if deepfool_steps < 1:
        raise ValueError(f"deepfool_steps is {deepfool_steps}, expected at least 1.")
    probe = LinearProbe(encoder, images, labels)
    delta = torch.zeros(images.shape[1:], device=encoder.mean.device)
    batches = random_batches(encoder, (images,), 1, torch.Generator().manual_seed(seed))
    with evaluating(encoder), torch.enable_grad():
        for (image,) in islice(batches, steps):
            with torch.no_grad():
                clean, now = (probe(each).argmax() for each in (image, attacked(image, delta)))
            if clean == now:
                step = deepfool(probe, attacked(image, delta), deepfool_steps)
                delta = (delta + (1 + OVERSHOOT) * step).clamp(-eps, eps)
    words = "share of images whose prediction by a linear probe changes"
    return crafted(encoder, delta, "uap", words, eps=eps, steps=steps, seed=seed, data=data)


def deepfool(model: Callable[[Tensor], Tensor], image: Tensor, steps: int) -> Tensor:
    """The shift to the nearest decision boundary in L2 (DeepFool, Moosavi-Dezfooli et al., CVPR 2016).

    Each step goes to the nearest boundary of the model's linearisation, until the prediction changes.

    Args:
        model: images in [0, 1] to logits.
        image: (1, 3, h, w) in [0, 1].
        steps: at most so many.

    Returns:
        (3, h, w).
    """
    shift, predicted = torch.zeros_like(image), model(image).argmax()
    for _ in range(steps):
        candidate = (image + (1 + OVERSHOOT) * shift).requires_grad_()
        (logits,) = model(candidate)
        if logits.argmax() != predicted:
            break
        gaps = logits - logits[predicted]
        slopes = torch.stack([torch.autograd.grad(gap, candidate, retain_graph=True)[0] for gap in gaps])
        lengths = slopes.flatten(1).norm(dim=1).clamp(min=1e-12)
        distances = gaps.detach().abs() / lengths
        distances[predicted] = torch.inf
        nearest = distances.argmin()
        shift = shift + (distances[nearest] + 1e-4) * slopes[nearest] / lengths[nearest]
    return shift[0]
