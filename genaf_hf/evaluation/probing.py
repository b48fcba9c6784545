"""What features are worth to whoever uses them in the simplest way: a linear probe, as a classifier to be attacked."""

import copy

import torch
from torch import Tensor, nn

from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.models.head import head_name
from genaf_hf.models.pixel_model import PixelModel

NEVER = -1e4  # logit of classes that the probe was not fitted to


def probed(model: PixelModel, images: Tensor, labels: Tensor, classes: int) -> PixelModel:
    """A copy of a classifier whose head is a linear probe of its features.

    Args:
        model: whose head is not used.
        images: (n, 3, h, w) in [0, 1].
        labels: (n,) class ids.
        classes: how many there are.

    Raises:
        UserError: as `LinearProbe`.
    """
    probe = LinearProbe(model, images, labels)
    head = nn.Linear(probe.weight.shape[1], classes).to(probe.weight)
    with torch.no_grad():
        weight = probe.weight / probe.scale  # of features as they are, where the probe reads standardised ones
        head.weight.zero_()
        head.bias.fill_(NEVER)
        head.weight[probe.classes] = weight
        head.bias[probe.classes] = probe.bias - weight @ probe.mean
    classifier = copy.deepcopy(model.model)
    classifier.config.num_labels = classes
    classifier.set_submodule(head_name(classifier), nn.Sequential(nn.Flatten(), head))
    return PixelModel(classifier.eval(), model.processor)
