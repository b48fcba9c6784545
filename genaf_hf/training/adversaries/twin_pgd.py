"""PGD on two branches of BatchNorm (Liu et al., CVPR 2023, https://arxiv.org/abs/2303.11135)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from genaf_hf.errors import UserError
from genaf_hf.models.batch_norm import batch_norms, normalizing_by, passing_by
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.training.adversaries.pgd import PGD
from genaf_hf.training.global_batch import halves

STATISTICS = "running_mean", "running_var"


class TwinPGD(PGD):
    """As `PGD`, in training steps that send the first half of each batch through the public encoder's statistics.

    That half is normalised by the means and variances that BatchNorm had before the training, the frozen branch; the
    others as BatchNorm does it, the adaptive branch, which evaluations have alone. Both are attacked on their own
    branch. Weights and biases are shared.

    Its `state` holds the frozen means and variances by the names of their buffers.
    """

    changes_model = True
    least_images = 3  # of which two are in the adaptive branch

    def check_model(self, model: nn.Module) -> None:
        if not with_statistics(model):
            raise UserError(
                f"The defence twins is for encoders with BatchNorm, which a {type(model).__name__} has not: choose "
                "another one, for example pgd-at."
            )

    def begin(self, model: PixelModel, samples: Callable[[int], tuple[Tensor, Tensor]], seed: int) -> None:
        for name, norm in with_statistics(model.model).items():
            self.state |= {f"{name}.{each}": getattr(norm, each).clone() for each in STATISTICS}

    @contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for name, norm in with_statistics(model).items():
                frozen = {each: self.state[f"{name}.{each}"] for each in STATISTICS}
                stack.enter_context(two_branches(norm, frozen))
            yield


def with_statistics(model: nn.Module) -> dict[str, _BatchNorm]:
    """Layers of BatchNorm that keep running statistics, by name."""
    return {name: each for name, each in batch_norms(model).items() if each.running_mean is not None}


def two_branches(norm: _BatchNorm, frozen: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Has a layer normalise the first half of a batch by other statistics, as in eval mode."""
    own = norm.forward

    def forward(features: Tensor) -> Tensor:
        first, second = halves(features)
        with normalizing_by(norm, *(frozen[each] for each in STATISTICS)):
            first = own(first)
        return torch.cat([first, own(second)])

    return passing_by(norm, forward)
