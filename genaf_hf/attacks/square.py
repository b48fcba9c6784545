"""Square attack (Andriushchenko et al., ECCV 2020, https://arxiv.org/abs/1912.00049)."""

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genaf_hf.attacks.losses import margin_of
from genaf_hf.attacks.pgd import check_attack_settings, checked_logits
from genaf_hf.attacks.registry import ANSWERS, register_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import evaluating

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of the share, after so many of the authors' 10,000 steps
CITATION = """@inproceedings{andriushchenko2020square,
  title = {Square Attack: A Query-efficient Black-box Adversarial Attack via Random Search},
  author = {Andriushchenko, Maksym and Croce, Francesco and Flammarion, Nicolas and Hein, Matthias},
  booktitle = {European Conference on Computer Vision},
  year = {2020},
  url = {https://arxiv.org/abs/1912.00049}
}"""


@register_attack("model", "images", "labels", eps=8 / 255, knowledge=ANSWERS, citation=CITATION)
def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 500,
    share: float = 0.8,
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """Adversarial images by random search: squares of a sign per channel, kept where they lower the margin.

    It starts from vertical stripes of -eps and eps, and asks the model for logits only. The margin is the logit of the
    label less the highest other one. An image that is misclassified, clean or by a step, is not queried again.

    Args:
        steps: queries per image, not counting that of the clean one.
        share: of the pixels, that the first squares cover; halved nine times over the steps, as the authors do.
        seeds: one per image, default 0 to n - 1. All that is drawn for an image depends on its seed alone.
        model, images, labels, eps: as for `pgd`, L-inf.

    Returns:
        (n, 3, h, w) in [0, 1], at most `eps` away from `images`; an image that is misclassified clean is as it was.

    Raises:
        UserError: for a setting or an image outside its range.
    """
    check_attack_settings(eps=eps, steps=steps, step_size=eps)
    if not 0 < share <= 1:
        raise UserError(f"share is {share}, expected a share of the pixels in (0, 1], for example 0.8.")
    stripes, draws = drawn(images, steps, range(len(images)) if seeds is None else seeds)
    signs = torch.zeros_like(images, dtype=torch.int8)
    with evaluating(model), torch.no_grad():
        logits = checked_logits(model(images), int(labels.amax()))
        rows = (logits.argmax(1) == labels).nonzero().squeeze(1)
        margins = torch.full_like(logits[:, 0], torch.inf)
        for step in range(steps):
            if len(rows) == 0:
                break
            if step == 0:
                candidates = stripes[rows].expand(-1, -1, images.shape[2], -1)
            else:
                side = side_of_square(share, step - 1, steps, images.shape[2:])
                candidates = with_square(signs[rows], side, draws[rows, step - 1])
            logits = model(shifted(images[rows], candidates, eps))
            margin, wrong = margin_of(logits, labels[rows]), logits.argmax(1) != labels[rows]
            better = wrong | (margin < margins[rows])
            signs[rows[better]], margins[rows[better]] = candidates[better], margin[better]
            rows = rows[~wrong]
    return shifted(images, signs, eps)


def drawn(images: Tensor, steps: int, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """All that is random: stripes (n, c, 1, w) of -1 and 1, and (n, steps - 1, 3) uniform in [0, 1) for the squares."""
    _, channels, _, width = images.shape
    generator, stripes, draws = torch.Generator(), [], []
    for _, seed in zip(images, seeds, strict=True):
        generator.manual_seed(seed)
        stripes.append(torch.randint(2, (channels, 1, width), generator=generator, dtype=torch.int8) * 2 - 1)
        draws.append(torch.rand(steps - 1, 3, generator=generator, dtype=torch.float32))
    return torch.stack(stripes).to(images.device), torch.stack(draws).to(images.device)


def side_of_square(share: float, step: int, steps: int, size: Sequence[int]) -> int:
    """Pixels along a side at a step from 0 on, for images of a height and width; at least 1, less than the image's."""
    height, width = size
    share /= 2 ** bisect_left(HALVINGS, int(step / steps * 10_000))
    return max(1, min(round((share * height * width) ** 0.5), height - 1, width - 1))


def with_square(signs: Tensor, side: int, draws: Tensor) -> Tensor:
    """Signs with a square of one sign per channel, at a uniform place, which changes some of them.

    Args:
        signs: (n, c, h, w) of -1 and 1, int8.
        side: of the squares, in pixels.
        draws: (n, 3) in [0, 1), for row, column and signs.

    Returns:
        (n, c, h, w) of -1 and 1, int8.
    """
    _, channels, height, width = signs.shape
    row, column = ((draws[:, axis] * (length - side + 1)).long() for axis, length in enumerate((height, width)))
    inside = within(row, side, height)[:, None, :, None] & within(column, side, width)[:, None, None, :]
    totals = (signs * inside).sum(dim=(2, 3))
    # A color is a number of which each bit is the sign of a channel. Where the square is of one color already, this one
    # is left out; the authors draw until it is another.
    bits = 2 ** torch.arange(channels, device=signs.device)
    uniform = (totals.abs() == side**2).all(dim=1)
    present = ((totals > 0) * bits).sum(dim=1)
    color = (draws[:, 2] * (2**channels - uniform.long())).long()
    color += uniform & (color >= present)
    of_color = ((color[:, None] & bits) > 0).to(signs.dtype) * 2 - 1
    return torch.where(inside, of_color[:, :, None, None], signs)


def within(start: Tensor, length: int, total: int) -> Tensor:
    """Which of `total` places lie in the stretch of a length from each start, (n, total)."""
    places = torch.arange(total, device=start.device)
    return (places >= start[:, None]) & (places < start[:, None] + length)


def shifted(images: Tensor, signs: Tensor, eps: float) -> Tensor:
    """Images with every pixel `eps` up, down or where it was, kept in [0, 1]."""
    return (images + eps * signs.to(images)).clamp(0, 1)
