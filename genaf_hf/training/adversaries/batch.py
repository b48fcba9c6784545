"""What an adversary is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genaf_hf.values.device import sent


@dataclass(frozen=True)
class Batch:
    """Images to attack, and what is known of them.

    Attributes:
        images: (n, 3, h, w) in [0, 1].
        labels: (n,) class ids or pseudo-labels; None where none are read.
        seeds: one per image. They depend on seed and step of the training and on the image's place in the update over
            all processes, in an evaluation on its place alone, so that what is random is so without regard to the
            number of processes.
        eps_share: what eps is multiplied by; it grows to 1 over the first part of a training.
    """

    images: Tensor
    labels: Tensor | None
    seeds: Sequence[int]
    eps_share: float = 1.0

    def rows(self, numbers: Sequence[int]) -> "Batch":
        """Some of its images."""
        index = sent(torch.as_tensor(numbers, dtype=torch.int64), self.images.device)
        labels = None if self.labels is None else self.labels[index]
        return replace(self, images=self.images[index], labels=labels, seeds=[self.seeds[row] for row in numbers])
