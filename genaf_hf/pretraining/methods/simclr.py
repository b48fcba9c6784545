"""SimCLR (Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709)."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, TrainingArguments

from genaf_hf.errors import UserError
from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.losses import nt_xent
from genaf_hf.pretraining.methods.registry import Settings, register_method
from genaf_hf.pretraining.projection import Projected, feature_size, headless_encoder, projection_head
from genaf_hf.pretraining.view_trainer import ViewTrainer
from genaf_hf.training.global_batch import gather_rows

COLORS = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "grayscale": 0.2}
VIEW = Augmentation(224, **COLORS, blur=0.5)


@dataclass(frozen=True)
class SimCLRSettings(Settings):
    """Settings of SimCLR, by default those of the paper on ImageNet.

    Attributes:
        temperature: of the loss.
        hidden_size, output_size: of the projection head.
    """

    temperature: float = 0.1
    hidden_size: int = 2048
    output_size: int = 128


class SimCLRTrainer(ViewTrainer):
    """Trains an encoder to tell, among two views of every image, which two are of one image.

    The negatives are those of the global batch of all processes, not of further micro-batches under accumulation.

    Raises:
        UserError: when a batch has one image, which has no negatives.
    """

    kept = "encoder"

    def __init__(self, model: nn.Module, args: TrainingArguments, *others, temperature: float):
        super().__init__(model, args, *others)
        if min(args.train_batch_size * args.world_size, len(self.train_dataset)) < 2:
            raise UserError(
                f"per_device_train_batch_size is {args.per_device_train_batch_size} of {len(self.train_dataset)} "
                "image(s), but simclr tells an image from the others of its batch, and learns nothing from it alone: "
                "expected at least 2, and better some hundreds."
            )
        self.temperature = temperature

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        projections = model(torch.cat(self.views(inputs)))
        first, second = (gather_rows(each) for each in projections.chunk(2))
        loss = nt_xent(first, second, self.temperature)
        return (loss, projections) if return_outputs else loss


@register_method(
    title="SimCLR (Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709)",
    views=(VIEW, VIEW),
    settings=SimCLRSettings,
)
def simclr(config: PreTrainedConfig, settings: SimCLRSettings, *others) -> SimCLRTrainer:
    """A ViT or a ResNet, which learns without labels; it is kept without its projection head."""
    head = projection_head(feature_size(config), settings.hidden_size, settings.output_size)
    return SimCLRTrainer(Projected(headless_encoder(config), head), *others, temperature=settings.temperature)
