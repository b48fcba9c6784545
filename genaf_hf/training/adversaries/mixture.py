"""A mixture of two adversaries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.attacks.registry import ConfiguredAttack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.draws import ADVERSARY, below
from genaf_hf.values.device import sent
from genaf_hf.values.numbers import is_number


class Mixture(Adversary):
    """Gives each image to the one or the other of two adversaries, drawn by its seed; its settings are the first's.

    Args:
        first, second: the two.
        share: probability of the second.

    Raises:
        UserError: for a share out of [0, 1].
    """

    def __init__(self, first: Adversary, second: Adversary, share: float):
        if not is_number(share) or not 0 <= share <= 1:
            raise UserError(f"The share of an adversary is {share}, expected one in [0, 1].")
        self.both, self.share = {"first": first, "second": second}, share
        super().__init__(**first.settings)

    @property
    def moves(self) -> bool:  # type: ignore[override]
        return any(one.moves for one in self.both.values())

    @property
    def state(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {f"{who}.{name}": each for who, one in self.both.items() for name, each in one.state.items()}

    @state.setter
    def state(self, tensors: Mapping[str, Tensor]) -> None:
        for who, one in self.both.items():
            own = {name: each for name, each in tensors.items() if name.startswith(f"{who}.")}
            one.state = {name.removeprefix(f"{who}."): each for name, each in own.items()}

    def check_model(self, model: nn.Module) -> None:
        for one in self.both.values():
            one.check_model(model)

    def check_update(self, images: int) -> None:
        for one in self.both.values():
            one.check_update(images)

    def check_size(self, height: int, width: int) -> None:
        for one in self.both.values():
            one.check_size(height, width)

    def begin(self, model: PixelModel, samples: Callable[[int], tuple[Tensor, Tensor | None]], seed: int) -> None:
        for one in reversed(self.both.values()):  # the first may take long, and the second refuse the images
            one.begin(model, samples, seed)

    def craft(
        self, model: PixelModel, images: Tensor, labels: Tensor | None, *, seeds: Sequence[int], eps_share: float = 1.0
    ) -> Tensor:
        is_second = below(seeds, self.share, ADVERSARY)
        rows = [np.flatnonzero(~is_second), np.flatnonzero(is_second)]
        parts = []
        for one, own in zip(self.both.values(), rows, strict=True):
            if len(own):
                index = sent(torch.from_numpy(own), images.device)
                chosen = [seeds[row] for row in own.tolist()]
                own_labels = None if labels is None else labels[index]
                parts.append(one.craft(model, images[index], own_labels, seeds=chosen, eps_share=eps_share))
        places = sent(torch.from_numpy(np.argsort(np.concatenate(rows))), images.device)
        return torch.cat(parts)[places]

    @contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        with self.both["first"].training(model), self.both["second"].training(model):
            yield

    def learn(self) -> None:
        for one in self.both.values():
            one.learn()

    def attacks(self) -> Mapping[str, ConfiguredAttack]:
        return {**self.both["first"].attacks(), **self.both["second"].attacks()}

    def perturbations(self) -> dict[str, UniversalPerturbation]:
        return {**self.both["first"].perturbations(), **self.both["second"].perturbations()}


def mixed(first: Adversary, second: Adversary, share: float) -> Adversary:
    """A mixture of two adversaries; without any share of the second, the first alone.

    Raises:
        UserError: for a share out of [0, 1].
    """
    return first if share == 0 else Mixture(first, second, share)
