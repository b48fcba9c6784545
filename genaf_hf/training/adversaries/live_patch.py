"""A universal patch that moves with the training, as the perturbations of Shafahi et al. (AAAI 2020) do."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from genaf_hf.attacks import UniversalPatch, UniversalPerturbation
from genaf_hf.attacks.patch import paste, pasting
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.batch import Batch
from genaf_hf.training.adversaries.draws import CORNER, mixed_bits
from genaf_hf.training.adversaries.universal import move_by_sign
from genaf_hf.values.numbers import is_number

AREA, SHARE = 0.03, 0.125  # of the image and of the attacked images, of defences that name no others
STEP_SIZE = 0.1  # a fifth of what a pixel can be off gray by, as a live perturbation's is of eps


class LivePatch(Adversary):
    """One square patch for all images, at a random place of each.

    It begins at random and takes part in the training pass, whose one backward pass gives weights and patch their
    gradients: after each update its pixels move by a step times the sign of theirs, within [0, 1]. While eps grows the
    patch is mixed into the image by the share of it.

    Its `state` holds `patch`, (3, k, k).

    Args:
        area: share of the image that it covers.

    Raises:
        UserError: for a share out of (0, 1].
    """

    moves = True

    def __init__(self, *, area: float):
        if not is_number(area) or not 0 < area <= 1:
            raise UserError(f"The area of a live patch is {area}, expected a share of the image in (0, 1].")
        super().__init__(area=area)

    def begin(self, model: PixelModel, samples: Callable[[int], tuple[Tensor, Tensor | None]], seed: int) -> None:
        images, _ = samples(1)
        side = self._side(*images.shape[2:])
        patch = torch.rand(3, side, side, dtype=images.dtype, generator=torch.Generator().manual_seed(seed))
        self.state = {"patch": patch.to(images.device)}

    def check_size(self, height: int, width: int) -> None:
        side, own = self._side(height, width), self.state["patch"].shape[-1]
        if side != own:
            raise UserError(
                f"Images are of {height} x {width} pixels, for a patch of {side} pixels a side, and this one has "
                f"{own}: train and evaluate on images of one size, and go on with that of the checkpoint."
            )

    def _side(self, height: int, width: int) -> int:
        area = self.settings["area"]
        return pasting((height, width), area=area, place="random", shape="square", degrees=0, smallest=1)[1]

    def craft(self, model: PixelModel, batch: Batch) -> Tensor:
        patch = self.state["patch"].requires_grad_()
        self.check_size(*batch.images.shape[2:])
        corners = torch.from_numpy(random_corners(batch.seeds, batch.images.shape[2:], patch.shape[-1]))
        return torch.lerp(batch.images, paste(batch.images, patch, corners), batch.eps_share)

    def learn(self) -> None:
        if self.state:
            move_by_sign(self.state["patch"], STEP_SIZE, 0, 1)

    def perturbations(self) -> dict[str, UniversalPerturbation]:
        pixels = {f"live-{name}": each.detach().float().cpu() for name, each in self.state.items()}
        known = {"step_size": STEP_SIZE, "area": self.settings["area"]}
        return {name: UniversalPatch(each, "universal", 1.0, **known) for name, each in pixels.items()}


def random_corners(seeds: Sequence[int], size: Sequence[int], side: int) -> np.ndarray:
    """Where a square patch lies inside each image of a height and width, (n, 2); depends on the image's seed alone."""
    bits = mixed_bits(seeds, CORNER)
    uniform = np.stack([bits >> np.uint64(32), bits & np.uint64(2**32 - 1)], axis=1) / 2.0**32
    return (uniform * (np.asarray(size) - side + 1)).astype(np.int64)
