"""Universal adversarial perturbations (Moosavi-Dezfooli et al., CVPR 2017, https://arxiv.org/abs/1610.08401)."""

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from genaf_hf.attacks.ascent import (
    EPS,
    all_evaluating,
    best_of,
    check_universal_settings,
    from_on,
    given,
    provenance,
    random_batches,
    some_of,
)
from genaf_hf.attacks.inputs import Encoders, several
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.attacks.norms import NORMS, Norm, into_ball
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import SEEDS, check_restarts
from genaf_hf.attacks.registry import register_attack
from genaf_hf.attacks.universal import attacked
from genaf_hf.errors import UserError
from genaf_hf.runs.progress import progress

OVERSHOOT = 0.02
LIKELIEST = 10  # classes whose boundaries are looked at
AT_ONCE = 64  # images whose predictions are asked for
CITATION = """@inproceedings{moosavi2017uap,
  title = {Universal Adversarial Perturbations},
  author = {Moosavi-Dezfooli, Seyed-Mohsen and Fawzi, Alhussein and Fawzi, Omar and Frossard, Pascal},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2017},
  url = {https://arxiv.org/abs/1610.08401}
}"""


@register_attack("encoder", "images", "labels", eps=EPS, norms=NORMS, citation=CITATION)
def uap(
    encoder: Encoders,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    target: int | None = None,
    steps: int = 500,
    deepfool_steps: int = 10,
    restarts: int = 1,
    init: str | None = None,
    max_images: int | None = None,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPerturbation:
    """A universal perturbation made of DeepFool's steps across the boundaries of a linear probe.

    From no perturbation on, each image whose prediction is still the clean one adds the smallest step that changes it;
    the sum is projected into the ball. Of the sums after each pass over the images and at the end, the one that
    changes most predictions is kept. The attacker has labels for images of his own, and trains the probe on them. With
    a target each image that is not taken for that class adds the smallest step that makes it so. Of several encoders
    the logits of their probes are averaged.

    Args:
        labels: (n,) class ids of the attacker's images, of at least two classes.
        target: class id among the labels that all images are to be taken for; None for any but that of the clean image.
        steps: images that are visited, drawn at random.
        deepfool_steps: at most so many for one image.
        restarts: that many orders of the images; of their perturbations the one that changes most is kept.
        encoder, images, eps, norm, init, max_images, seed, data: as for `l4a`.

    Returns:
        The perturbation, with its provenance.

    Raises:
        UserError: for a setting, an image or a label outside its range.
    """
    check_universal_settings(eps=eps, norm=norm, steps=steps, step_size=eps, batch_size=1)
    check_restarts(restarts)
    if deepfool_steps < 1:
        raise UserError(f"deepfool_steps is {deepfool_steps}, expected at least 1.")
    (images, labels), data = some_of((images, labels), max_images, seed, data)
    encoders, size = several(encoder), images.shape[1:]
    device, probes = encoders[0].device, [LinearProbe(each, images, labels) for each in encoders]
    wanted = None if target is None else probes[0].column(target)

    def probe(batch: Tensor) -> Tensor:
        return torch.stack([each(batch) for each in probes]).mean(dim=0)

    begun = torch.zeros(size) if init is None else into_ball(given(init, size)[None], eps, norm)[0]

    def crafted(restart: int) -> tuple[Tensor, float]:
        """A perturbation, and the share of images that it fools."""
        generator = torch.Generator().manual_seed(seed + restart * SEEDS)
        best = delta = begun.to(device)
        highest = -1.0
        visits = islice(random_batches(encoders[0], (images, clean), 1, generator), steps)
        for visited, (image, prediction) in enumerate(visits, start=1):
            shift = deepfool(probe, attacked(image, delta), prediction, deepfool_steps, wanted)
            delta = into_ball((delta + (1 + OVERSHOOT) * shift)[None], eps, norm)[0]
            if visited % len(images) == 0 or visited == steps:
                found = predictions(probe, images, delta)
                fooled = (found != clean if wanted is None else found == wanted).float().mean().item()
                if fooled > highest:
                    best, highest = delta, fooled
        return best, highest

    with all_evaluating(encoders):
        clean = predictions(probe, images, torch.zeros(size, device=device))
        delta, _ = best_of(restarts, crafted, lambda found: [found[1]])
    words = "share of images whose prediction by a linear probe changes"
    if target is not None:
        words = f"share of images that a linear probe takes for class {target}"
    known = provenance(encoders, objective=words + from_on(init), steps=steps, seed=seed, data=data)
    return UniversalPerturbation(delta, "uap", eps, norm=norm, **known)


def predictions(model: Callable[[Tensor], Tensor], images: Tensor, delta: Tensor) -> Tensor:
    """Predicted classes of images with the perturbation, (n,)."""
    with torch.no_grad():
        batches = (batch.to(delta.device) for batch in images.split(AT_ONCE))
        return torch.cat([model(attacked(batch, delta)).argmax(1) for batch in batches])


def deepfool(
    model: Callable[[Tensor], Tensor], image: Tensor, prediction: Tensor, steps: int, target: int | None = None
) -> Tensor:
    """The shift to the nearest decision boundary in L2 (DeepFool, Moosavi-Dezfooli et al., CVPR 2016).

    Each step goes to the nearest boundary of the model's linearisation to one of the ten likeliest classes, as in the
    authors' code, until the prediction is another one; or to that of a target, until it is the prediction.

    Args:
        model: images in [0, 1] to logits.
        image: (1, 3, h, w) in [0, 1].
        prediction: (1,) the class to get away from.
        steps: at most so many.
        target: column of the logits to get to; None for any but the prediction.

    Returns:
        (3, h, w), zero where the prediction is another one, or the target, already.
    """
    shift = torch.zeros_like(image)
    for _ in progress(range(steps), "Crafting"):
        candidate = (image + (1 + OVERSHOOT) * shift).requires_grad_()
        (logits,) = model(candidate)
        now = logits.argmax()
        if now != prediction if target is None else now == target:
            break
        likeliest = [each for each in logits.topk(min(LIKELIEST, len(logits))).indices.tolist() if each != now]
        gaps = logits[likeliest if target is None else [target]] - logits[now]
        slopes = torch.stack([torch.autograd.grad(gap, candidate, retain_graph=True)[0] for gap in gaps])
        lengths = slopes.flatten(1).norm(dim=1).clamp(min=1e-12)
        distances = gaps.detach().abs() / lengths
        nearest = distances.argmin()
        shift = shift + (distances[nearest] + 1e-4) * slopes[nearest] / lengths[nearest]
    return shift[0]
