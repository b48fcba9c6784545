"""What an adversary is."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.attacks.registry import Attack
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.training.adversaries.batch import Batch

ADVERSARY_SEED = 2**20  # added to a run's: an attack of that seed would begin, and end, near what was trained on


class Adversary:
    """Who crafts the images that a model is trained on, and those that its robust accuracy is measured on meanwhile.

    What it keeps from step to step is its `state`: tensors by name, the same on all processes, which checkpoints hold.

    Args:
        settings: all of its own, by name.

    Attributes:
        changes_model: whether a step changes more of the trained model than what it is shown, its weights or layers,
            which have to be there as they are trained then, and not merged from adapters.
        moves: whether it attacks with what changes as the training goes on, so that robust accuracies of two steps are
            not under the same attack.
        ascends: whether its state moves along what a pass of its own finds.
        least_images: how many images a batch is of at least where a model normalizes over it.
    """

    least_images = 2
    changes_model = False
    moves = False
    ascends = False

    def __init__(self, **settings):
        self.settings = settings
        self.state: dict[str, Tensor] = {}

    def check_model(self, model: nn.Module) -> None:
        """Refuses a model that it cannot work with; the `UserError` says why."""

    def check_update(self, images: int) -> None:
        """Refuses updates of so few images, over all processes, as it cannot work with; the `UserError` says why."""

    def check_size(self, height: int, width: int) -> None:
        """Refuses images of a size that its state is not for; the `UserError` says why."""

    def begin(self, model: PixelModel, samples: Callable[[int], tuple[Tensor, Tensor | None]], seed: int) -> None:
        """Prepares itself before the first step, unless it has a state already.

        Args:
            model: as it is before it is trained, the public encoder with a head.
            samples: gives so many training images (n, 3, h, w) in [0, 1], or all if there are fewer, and labels (n,).
                Where none are read these are pseudo-labels, or None for an objective that reads no features either.
            seed: of the training.
        """

    def ascend(self, model: PixelModel, batch: Batch) -> None:
        """Adds to the gradients of its state what a pass of its own finds, before images of a training are crafted.

        Takes what `craft` takes; is called where it `ascends`.
        """

    def craft(self, model: PixelModel, batch: Batch) -> Tensor:
        """Attacked images (n, 3, h, w) in [0, 1].

        Args:
            model: that is trained.
            batch: its images, with labels as those of `begin`.
        """
        raise NotImplementedError

    @contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        """What a training step is done in, from crafting to the backward pass, where more than its images is changed.

        Args:
            model: that is trained, unwrapped.
        """
        yield

    def learn(self) -> None:
        """Goes on after the backward pass of an update by the gradients that its state has then."""

    def attacks(self) -> Mapping[str, Attack]:
        """Attacks by name, at full eps, that a report on the trained model measures beside its perturbations."""
        return {}

    def perturbations(self) -> dict[str, UniversalPerturbation]:
        """Universal perturbations that the model was trained on, by name, to be shared with it."""
        return {}
