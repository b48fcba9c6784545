"""Adversarial patch (Brown et al., 2017, https://arxiv.org/abs/1712.09665)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from genaf_hf.attacks.ascent import Ascent, Objective, raised, random_batches
from genaf_hf.attacks.inputs import Encoders, several
from genaf_hf.attacks.losses import objective_words, towards
from genaf_hf.attacks.patch import GRAY, Place, Shape, UniversalPatch, of_pasting, pasting
from genaf_hf.attacks.registry import register_attack
from genaf_hf.models.pixel_model import PixelModel

CITATION = """@article{brown2017patch,
  title = {Adversarial Patch},
  author = {Brown, Tom B. and Man{\\'e}, Dandelion and Roy, Aurko and Abadi, Mart{\\'i}n and Gilmer, Justin},
  journal = {arXiv preprint arXiv:1712.09665},
  year = {2017},
  url = {https://arxiv.org/abs/1712.09665}
}"""


@register_attack("model", "images", "labels", universal=True, citation=CITATION)
def adversarial_patch(
    model: Encoders,
    images: Tensor,
    labels: Tensor,
    *,
    target: int | None = None,
    area: float = 0.03,
    place: Place = "random",
    shape: Shape = "square",
    degrees: float = 0.0,
    smallest: float = 1.0,
    steps: int = 500,
    restarts: int = 1,
    init: str | None = None,
    max_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    data: str | None = None,
) -> UniversalPatch:
    """A universal patch that raises the classifier's own cross-entropy wherever it lies.

    The attacker has the model itself and labelled images of its task. From random pixels on, steps of a hundredth by
    the sign of the gradient, each on a batch in which the patch is placed, turned and shrunk anew.

    Args:
        model: that is attacked, or several at once; left as it was.
        images: (n, 3, h, w) in [0, 1], the attacker's.
        labels: (n,) class ids of the model.
        target: class id that all images are to be taken for; None for any but their own.
        area, place, shape, degrees, smallest: as for `advencoder_pat`.
        steps, restarts, init, max_images, batch_size, seed, data: as for `l4a`. The seed is also that of the places.

    Raises:
        UserError: for a setting outside its range, or a model without finite values or gradients.
    """
    pasted, side = pasting(images.shape[-2:], area=area, place=place, shape=shape, degrees=degrees, smallest=smallest)

    def on(model: PixelModel, *_: Tensor) -> Objective:
        def objective(delta: Tensor, batch: Tensor, of_batch: Tensor, random: torch.Generator) -> Tensor:
            return towards(model(pasted(batch, GRAY + delta, [random] * len(batch))), of_batch, target)

        return objective

    words = "adversarial-patch", objective_words("cross-entropy of the model", target)
    found = raised(
        *(several(model), (images, labels), on, words, Ascent(batches_and_places), side),
        eps=GRAY,
        steps=steps,
        restarts=restarts,
        init=init,
        max_images=max_images,
        batch_size=batch_size,
        seed=seed,
        data=data,
    )
    known = {name: found.provenance[name] for name in ("encoder", "encoder_revision", "objective", "data")}
    known |= {"area": area, "steps": steps, "step_size": found.step_size, "seed": seed}
    pixels = (GRAY + found.delta).clamp(0, 1)
    return of_pasting(pixels, found.attack, pasted, **known)


def batches_and_places(
    encoder: PixelModel, tensors: Sequence[Tensor], batch_size: int, generator: torch.Generator
) -> Iterator[tuple]:
    """Random batches, each with what its places are drawn by: of every start, and where they are judged, the same."""
    for batch in random_batches(encoder, tensors, batch_size, generator):
        yield *batch, generator
