"""A mixture of adversaries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.attacks.registry import Attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.batch import Batch
from genaf_hf.training.adversaries.draws import ADVERSARY, uniform
from genaf_hf.values.device import sent
from genaf_hf.values.numbers import is_number

NAMES = ("first", "second", "third")  # before those of their states


class Mixture(Adversary):
    """Gives each image to one of two or three adversaries, drawn by its seed; its settings are the first's.

    Args:
        first: whose images are what the others leave.
        others: each with its share of the images, as a probability.

    Raises:
        UserError: for a share out of [0, 1], or shares that add up to more than 1.
    """

    def __init__(self, first: Adversary, *others: tuple[Adversary, float]):
        shares = [share for _, share in others]
        for share in (*shares, round(sum(shares), 9)):
            if not is_number(share) or not 0 <= share <= 1:
                raise UserError(f"The share of an adversary is {share}, expected one in [0, 1].")
        self.parts = {NAMES[i]: each for i, each in enumerate((first, *(each for each, _ in others)))}
        self.bounds = np.cumsum(shares)
        super().__init__(**first.settings)
        for name in ("moves", "ascends", "changes_model"):
            setattr(self, name, any(getattr(one, name) for one in self.parts.values()))
        self.least_images = max(one.least_images for one in self.parts.values())

    @property
    def state(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {f"{who}.{name}": each for who, one in self.parts.items() for name, each in one.state.items()}

    @state.setter
    def state(self, tensors: Mapping[str, Tensor]) -> None:
        for who, one in self.parts.items():
            own = {name: each for name, each in tensors.items() if name.startswith(f"{who}.")}
            one.state = {name.removeprefix(f"{who}."): each for name, each in own.items()}

    def check_model(self, model: nn.Module) -> None:
        for one in self.parts.values():
            one.check_model(model)

    def check_update(self, images: int) -> None:
        for one in self.parts.values():
            one.check_update(images)

    def check_size(self, height: int, width: int) -> None:
        for one in self.parts.values():
            one.check_size(height, width)

    def begin(self, model: PixelModel, samples: Callable[[int], tuple[Tensor, Tensor | None]], seed: int) -> None:
        for one in reversed(self.parts.values()):  # the first may take long, and others refuse the images
            one.begin(model, samples, seed)

    def ascend(self, model: PixelModel, batch: Batch) -> None:
        for one, own in self._dealt(batch.seeds):
            one.ascend(model, batch.rows(own))

    def craft(self, model: PixelModel, batch: Batch) -> Tensor:
        rows, crafted = [], []
        for one, own in self._dealt(batch.seeds):
            rows += own
            crafted.append(one.craft(model, batch.rows(own)))
        places = sent(torch.from_numpy(np.argsort(rows)), batch.images.device)
        return torch.cat(crafted)[places]

    def _dealt(self, seeds: Sequence[int]) -> Iterator[tuple[Adversary, list[int]]]:
        """Each adversary that has some of the images, with their rows."""
        first, *others = self.parts.values()
        whose = np.searchsorted(self.bounds, uniform(seeds, ADVERSARY), side="right")
        for one, number in zip((first, *others), (len(others), *range(len(others))), strict=True):
            if own := np.flatnonzero(whose == number).tolist():
                yield one, own

    @contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for one in self.parts.values():
                stack.enter_context(one.training(model))
            yield

    def learn(self) -> None:
        for one in self.parts.values():
            one.learn()

    def attacks(self) -> Mapping[str, Attack]:
        return {name: each for one in self.parts.values() for name, each in one.attacks().items()}

    def perturbations(self) -> dict[str, UniversalPerturbation]:
        return {name: each for one in self.parts.values() for name, each in one.perturbations().items()}


def mixed(first: Adversary, *others: tuple[Adversary, float]) -> Adversary:
    """A mixture of adversaries, of those alone that get a share of the images.

    Raises:
        UserError: as `Mixture`.
    """
    taking = [(each, share) for each, share in others if share != 0]
    return Mixture(first, *taking) if taking else first
