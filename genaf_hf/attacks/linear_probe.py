"""A linear classifier on an encoder's features, for attackers who have labels for their own images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_hf.attacks.inputs import autocast_left, callers_modes_left, images_for, outside_inference
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.values.numbers import class_ids

WEIGHT_DECAY = 1e-3
AT_ONCE = 64  # images whose features are read


class LinearProbe(nn.Module):
    """Multinomial logistic regression on the standardised features of an encoder, fitted to the optimum.

    Half of 1e-3 times the sum of squares of the weights is added to the mean cross-entropy. The encoder is left as it
    was, and called in the mode that it is in. The probe is fitted and asked in float32, whatever the modes of the
    caller.

    Args:
        encoder: whose features are read.
        images: (n, 3, h, w) in [0, 1].
        labels: (n,) class ids; they are numbered anew by their order in `classes`.

    Attributes:
        classes: the class ids, sorted.

    Raises:
        UserError: when the labels are not one per image, or of fewer than two classes, or a feature is not
            finite; when the images are none.
    """

    def __init__(self, encoder: PixelModel, images: Tensor, labels: Tensor):
        super().__init__()
        self.encoder = encoder
        images, labels = images_for(encoder, images), class_ids(outside_inference(labels), len(images))
        with callers_modes_left():
            self._fit(images, labels.to(encoder.device))

    def _fit(self, images: Tensor, labels: Tensor) -> None:
        with evaluating(self.encoder), torch.no_grad():
            batches = (batch.to(labels.device) for batch in images.split(AT_ONCE))
            features = torch.cat([self.encoder.features(batch) for batch in batches])
        if not features.isfinite().all():
            raise UserError("The encoder's features are not finite, so that no probe can be fitted: check its weights.")
        self.classes, targets = labels.unique(return_inverse=True)
        if len(self.classes) < 2:
            raise UserError("The labels are of one class only; a probe needs at least two.")
        self.mean, self.scale = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
        features = (features - self.mean) / self.scale
        weight = features.new_zeros(len(self.classes), features.shape[1], requires_grad=True)
        bias = features.new_zeros(len(self.classes), requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(F.linear(features, weight, bias), targets)
            value = value + WEIGHT_DECAY / 2 * weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        self.weight, self.bias = weight.detach(), bias.detach()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes)."""
        with autocast_left():
            features = self.encoder.features(images.contiguous())
            return F.linear((features - self.mean) / self.scale, self.weight, self.bias)

    def column(self, target: int) -> int:
        """Column of the logits that belongs to a class id.

        Raises:
            UserError: when the probe was fitted to no image of it.
        """
        check_target(target, self.classes)
        return self.classes.tolist().index(target)

    def targets(self, labels: Tensor) -> Tensor:
        """Columns of the logits that belong to class ids."""
        return torch.searchsorted(self.classes, labels.to(self.classes.device))


def check_target(target: int, labels: Tensor) -> None:
    """Refuses a class that no image of the attacker's is of; the `UserError` lists those that there are."""
    known = labels.unique().tolist()
    if target not in known:
        shown = ", ".join(map(str, known[:20])) + (", ..." if len(known) > 20 else "")
        raise UserError(f"target is {target}, expected a class of the attacker's images: {shown}.")
