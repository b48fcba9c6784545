"""The objective of TWINS (Liu et al., CVPR 2023, https://arxiv.org/abs/2303.11135)."""

from collections.abc import Callable

from torch.nn import functional as F

from genaf_hf.training.global_batch import Logits, halves, world_size
from genaf_hf.training.objectives.objective import Loss, Objective


class Twins(Objective):
    """CE(attacked half on the adaptive branch) + weight * CE(attacked half on the frozen branch).

    The frozen branch's half comes first, as in `TwinPGD`.

    Args:
        weight: lambda of the paper.
    """

    losses, reads_clean = ("adversarial_loss", "frozen_loss"), False

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        each = F.cross_entropy(own.attacked, own.labels, reduction="none", label_smoothing=label_smoothing)
        first, second = halves(each)
        processes = world_size()  # over which gradients are averaged
        images = processes * len(each)
        frozen_loss = processes * first.sum() / max(1, images // 2)
        adversarial_loss = processes * second.sum() / (images - images // 2)
        terms = {"adversarial_loss": adversarial_loss, "frozen_loss": frozen_loss}
        return Loss(adversarial_loss + self.weight * frozen_loss, terms=terms)
