"""What an objective is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from genaf_hf.training.global_batch import Logits


@dataclass(frozen=True)
class Loss:
    """What a model is trained on, in two parts.

    Attributes:
        of_rows: mean over the rows of a micro-batch.
        of_update: of all rows of an update at once, the same number for each of its micro-batches.
        terms: that the training logs by their names, each a mean, or a number of each row, NaN where it is of none.
    """

    of_rows: Tensor
    of_update: Tensor | float = 0.0
    terms: Mapping[str, Tensor] = field(default_factory=dict)


class Objective:
    """What is made of a model's answers to clean and attacked images.

    Attributes:
        losses: names of the terms that are cross-entropies and the like, which one picture shows together.
        penalties: names of those of other sizes.
        reads_clean: whether clean images are passed through the model beside the attacked ones.
        stay_clean: share of the images that are passed clean instead, where it does not read them beside.
        relates_rows: whether it needs all rows of an update, those of other micro-batches without gradients. These are
            the logits of eval mode then: exact without dropout, drop path and BatchNorm.
        reads_features: whether it needs what the head reads, and what the public encoder's head would.
        reads_labels: whether images without labels are of no use to it.
    """

    losses: tuple[str, ...] = ()
    penalties: tuple[str, ...] = ()
    reads_clean = True
    stay_clean = 0.0
    relates_rows = False
    reads_features = False
    reads_labels = True

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        """The loss of a micro-batch.

        Args:
            own: of the micro-batch.
            whole: gives those of the update on all processes, in which the own rows have their gradients; for what
                `relates_rows`.
            eps_share: what the adversary's eps is multiplied by at this step, in (0, 1].
            label_smoothing: of cross-entropies on labels.
        """
        raise NotImplementedError

    def advice(self, logs: Mapping[str, float]) -> str | None:
        """What logged means of the terms tell to change, in a sentence; None where all is well."""
