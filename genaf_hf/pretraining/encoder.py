"""An encoder that a method trains from scratch, as an ordinary Hub checkpoint with image processor and card."""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedConfig, TrainingArguments

from genaf_hf.data import images_content
from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.card import encoder_card
from genaf_hf.pretraining.methods import Method, Settings
from genaf_hf.runs.run import FINISHED, Run
from genaf_hf.sharing.eval_results import UNNAMED
from genaf_hf.sharing.layout import CARD
from genaf_hf.sharing.record import changed_settings
from genaf_hf.training.checkpoint import newest_complete_checkpoint
from genaf_hf.training.training_images import check_training_images

LEAVES = ("config.json", "model.safetensors", "preprocessor_config.json", CARD)


def pretrain_encoder(
    method: Method,
    dataset: Dataset,
    config: PreTrainedConfig,
    processor,
    args: TrainingArguments,
    views: Sequence[Augmentation] = (),
    settings: Settings | None = None,
    *,
    data: str = UNNAMED,
) -> Path:
    """Trains once, and leaves the encoder, its image processor and a card in `args.output_dir`.

    Args:
        method: one of `METHODS`.
        dataset: with the column `image`, and `label` if the method reads labels.
        config: of what the method trains; with labels, they become those of the dataset.
        processor: its image processor.
        args: of the training.
        views: as many as the method's, global ones first; where it needs one, without any the pixel values are it.
        settings: of the method, default the paper's.
        data: what the images are called in the card.

    Returns:
        The folder. An encoder that is there already is returned as it is.

    Raises:
        UserError: when there is an unfinished run with other settings, or something else of the names.
    """
    settings = settings or method.settings()
    if method.labelled:
        names = dataset.features["label"].names
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    told = {**asdict(settings), "views": [view.settings for view in views]}
    everything = {"method": method.name, "data": data, "model": config.to_dict(), **told, **args.to_dict()}
    everything |= {"processes": args.world_size, "content of the images": images_content({"train": dataset})[:16]}
    run = Run(args.output_dir, everything, leaves=LEAVES)
    if run.state == FINISHED:
        return run.folder
    training = changed_settings(args)
    with run.working():
        args = copy.copy(args)
        args.output_dir = str(run.unfinished / "checkpoints")
        trainer = method.trainer(config, settings, args, dataset, processor, views)
        check_training_images(args, trainer.train_dataset, epochs=args.num_train_epochs, max_steps=args.max_steps)
        trainer.train_or_load(newest_complete_checkpoint(args.output_dir, world_size=args.world_size))
        if trainer.is_world_process_zero():
            trainer.trained_encoder().save_pretrained(run.folder)
            trainer.processing_class.save_pretrained(run.folder)
            card = encoder_card(
                method, data, len(trainer.train_dataset), {"model": config.to_diff_dict(), **told, **training}
            )
            card.save(run.folder / CARD)
    return run.folder
