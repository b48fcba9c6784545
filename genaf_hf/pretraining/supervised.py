"""Supervised pre-training: cross-entropy on labels."""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForImageClassification, PreTrainedConfig, TrainingArguments

from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.view_trainer import ViewTrainer, pretrained
from genaf_hf.sharing.eval_results import UNNAMED


def pretrain_supervised(
    dataset: Dataset,
    config: PreTrainedConfig,
    processor,
    args: TrainingArguments,
    views: Sequence[Augmentation] = (),
    *,
    data: str = UNNAMED,
) -> Path:
    """Trains a classifier on labels and keeps it with its head.

    Args:
        dataset: with the columns `image` and `label`.
        processor, args, views, data: as for `pretrain_mae`.
        config: of the classifier; its labels become those of the dataset.

    Returns:
        The folder of the classifier. One that is there already is returned as it is.

    Raises:
        UserError: when there is an unfinished run with other settings.
    """
    names = dataset.features["label"].names
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}

    def trainer(args: TrainingArguments) -> ViewTrainer:
        model = AutoModelForImageClassification.from_config(config)
        return ViewTrainer(model, args, dataset, processor, views, labels=True)

    return pretrained(trainer, args, method="supervised", config=config, views=views, data=data, images=dataset)
