"""How much each layer contributes to robustness (Gen-AF's D_rc, Zhou et al., IEEE S&P 2024, section on stage 2)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.runs.progress import progress

LAYER_TYPES = (nn.Linear, nn.Conv2d)
ASSESSMENTS = ("first_order", "ascent")  # methods of `layer_robustness`


def layer_robustness(
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    *,
    method: str = "first_order",
    radius: float = 0.1,
    steps: int = 10,
    learning_rate: float = 1.0,
    batch_size: int = 64,
) -> dict[str, float]:
    """How far the loss on adversarial images can be raised by moving one layer's weight W within radius * ||W||_F.

    `"ascent"` is the paper's: for each layer alone, gradient ascent on the mean cross-entropy, projected after each
    pass; the contribution is the highest loss seen minus the original one. A pass makes one step by the gradient of all
    images, where the authors' code makes one for each 512 of all training images. `"first_order"` estimates what that
    ascent finds from one backward pass for all layers: the loss rises by about the gradient's norm times the way that
    the weight goes, which ends at the ball or after steps * learning_rate * ||gradient||_F.

    Args:
        model: the model, left as it was.
        images: (n, 3, h, w) adversarial images in [0, 1].
        labels: (n,) class ids.
        method: `"first_order"` or `"ascent"`.
        radius: of the ball, relative to the weight's Frobenius norm.
        steps: passes of the ascent over all images.
        learning_rate: of the ascent.
        batch_size: images per forward pass.

    Returns:
        Contribution by the name of the weight in `model.model`, for every trainable weight of a linear or
        convolutional layer that the logits depend on, in the order of the model.

    Raises:
        UserError: for an unknown method.
    """
    if method not in ASSESSMENTS:
        raise UserError(f'method is "{method}", expected one of {", ".join(ASSESSMENTS)}.')
    weights = layer_weights(model.model)
    batches = list(zip(images.split(batch_size), labels.split(batch_size), strict=True))
    with evaluating(model), torch.enable_grad():
        if method == "first_order":
            _, gradients = loss_and_gradients(model, batches, list(weights.values()))
            return {
                name: first_order_rise(weight, gradient, radius, steps * learning_rate)
                for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
                if gradient is not None
            }
        contributions = {
            name: ascend_weight(model, batches, weight, radius, steps, learning_rate)
            for name, weight in progress(weights.items(), "Assessing layers")
        }
        return {name: contribution for name, contribution in contributions.items() if contribution is not None}


def layer_weights(model: nn.Module) -> dict[str, Tensor]:
    """Trainable weights of linear and convolutional layers by their exact parameter names."""
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, LAYER_TYPES) and module.weight.requires_grad
    }


def loss_and_gradients(model: PixelModel, batches: list, weights: list[Tensor]) -> tuple[float, list[Tensor | None]]:
    """Mean cross-entropy over all batches and its gradients, leaving `.grad` alone; None for a weight it has none of.

    Some encoders carry such weights, e.g. SigLIP a pooling layer that its classifier does not read.
    """
    count = sum(len(labels) for _, labels in batches)
    total = 0.0
    gradients: list[Tensor | None] = [None] * len(weights)
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels, reduction="sum") / count
        total += loss.item()
        parts = torch.autograd.grad(loss, weights, allow_unused=True)
        gradients = [part if whole is None else whole.add_(part) for whole, part in zip(gradients, parts, strict=True)]
    return total, gradients


def first_order_rise(weight: Tensor, gradient: Tensor, radius: float, reach: float) -> float:
    """The rise of the loss along the gradient, to the edge of the ball or as far as the ascent goes."""
    slope = gradient.norm()
    return (slope * torch.minimum(radius * weight.norm(), reach * slope)).item()


def ascend_weight(
    model: PixelModel, batches: list, weight: Tensor, radius: float, steps: int, learning_rate: float
) -> float | None:
    """The paper's contribution of one layer, None where the loss does not depend on it; it gets its value back."""
    original = weight.detach().clone()
    limit = radius * original.norm()
    try:
        baseline, (gradient,) = loss_and_gradients(model, batches, [weight])
        highest = baseline
        for _ in range(steps):
            if gradient is None:
                return None
            with torch.no_grad():
                shift = weight + learning_rate * gradient - original
                weight.copy_(original + shift * (limit / shift.norm().clamp(min=limit)))
            loss, (gradient,) = loss_and_gradients(model, batches, [weight])
            highest = max(highest, loss)
    finally:
        with torch.no_grad():
            weight.copy_(original)
    return highest - baseline


def most_redundant(contributions: Mapping[str, float], share: float) -> list[str]:
    """Names of the layers that robustness can spare: the int(share * layers) smallest contributions, at least one."""
    count = max(1, int(share * len(contributions)))
    return sorted(contributions, key=contributions.__getitem__)[:count]


def freeze_modules(model: nn.Module) -> None:
    """Puts modules in which nothing is trainable into eval mode: they normalize as they did, and drop nothing.

    Modules without weights go with the one that they are in.
    """
    if all(parameter.requires_grad for parameter in model.parameters()):
        return
    for module in model.modules():
        tensors = [*module.parameters(), *module.buffers()]
        if tensors and not any(tensor.requires_grad for tensor in tensors):
            module.eval()
