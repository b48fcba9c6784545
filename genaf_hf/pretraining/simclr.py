"""SimCLR (Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedConfig, TrainingArguments

from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.losses import nt_xent
from genaf_hf.pretraining.projection import Projected, feature_size, headless_encoder, projection_head
from genaf_hf.pretraining.view_trainer import ViewTrainer, pretrained
from genaf_hf.sharing.eval_results import UNNAMED
from genaf_hf.training.global_batch import gather_rows


@dataclass(frozen=True)
class SimCLRSettings:
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
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, *others, temperature: float):
        super().__init__(model, args, *others)
        self.temperature = temperature

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        projections = model(torch.cat(self.views(inputs)))
        first, second = (gather_rows(each) for each in projections.chunk(2))
        loss = nt_xent(first, second, self.temperature)
        return (loss, projections) if return_outputs else loss


def pretrain_simclr(
    dataset: Dataset,
    config: PreTrainedConfig,
    processor,
    args: TrainingArguments,
    views: Sequence[Augmentation],
    settings: SimCLRSettings | None = None,
    *,
    data: str = UNNAMED,
) -> Path:
    """Pre-trains an encoder by SimCLR, without labels.

    Args:
        dataset, processor, args, data: as for `pretrain_mae`.
        config: of a ViT or a ResNet.
        views: two.
        settings: of loss and head, default those of the paper.

    Returns:
        The folder of the encoder without its projection head. One that is there already is returned as it is.

    Raises:
        UserError: when there is an unfinished run with other settings.
    """
    settings = settings or SimCLRSettings()

    def trainer(args: TrainingArguments) -> SimCLRTrainer:
        head = projection_head(feature_size(config), settings.hidden_size, settings.output_size)
        model = Projected(headless_encoder(config), head)
        return SimCLRTrainer(model, args, dataset, processor, views, temperature=settings.temperature)

    return pretrained(
        trainer,
        args,
        method="simclr",
        config=config,
        views=views,
        data=data,
        images=dataset,
        encoder=lambda model: model.encoder,
        settings=asdict(settings),
    )
