"""A vote of the nearest neighbors in feature space (Wu et al., CVPR 2018, https://arxiv.org/abs/1805.01978)."""

from torch import Tensor
from torch.nn import functional as F

from genaf_hf.attacks.inputs import autocast_left
from genaf_hf.errors import UserError
from genaf_hf.values.numbers import class_ids

K = 20
TEMPERATURE = 0.07


class Neighbors:
    """Classifies features by their nearest ones in a bank; says what features are worth without any head.

    Args:
        features: (m, d) of the bank.
        labels: (m,) class ids.
        classes: number of classes.

    Raises:
        UserError: when a label is no class id.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int):
        self.features = F.normalize(features.contiguous(), dim=1)
        ids = class_ids(labels, len(features)).to(features.device)
        if len(ids) and (largest := ids.amax().item()) >= classes:
            raise UserError(f"labels reach up to {largest}, but there are {classes} classes, counted from 0.")
        self.votes = F.one_hot(ids, classes).to(features.dtype)

    def __call__(self, features: Tensor) -> Tensor:
        """Class ids (n,) by a vote of the 20 nearest, weighted by exp(cosine similarity / 0.07)."""
        with autocast_left():
            similarities = F.normalize(features.contiguous(), dim=1) @ self.features.T
        nearest = similarities.topk(min(K, len(self.features)), dim=1)
        weights = (nearest.values / TEMPERATURE).exp()
        return (weights.unsqueeze(2) * self.votes[nearest.indices]).sum(1).argmax(1)
