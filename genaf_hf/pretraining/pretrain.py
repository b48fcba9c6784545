"""From images to a public encoder: what `genaf-hf pretrain` runs."""

import copy
import logging
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from transformers import ViTImageProcessor, set_seed

from genaf_hf.data import check_enough_to_train, counted_classes, load_images, load_unlabelled_images
from genaf_hf.pretraining.arguments import (
    PretrainingArguments,
    PretrainingConfig,
    encoder_config,
    method_settings,
    views,
)
from genaf_hf.pretraining.encoder import LEAVES, pretrain_encoder
from genaf_hf.pretraining.methods import METHODS
from genaf_hf.runs.run import Run
from genaf_hf.sharing.publishing import open_result, push_result
from genaf_hf.sharing.record import balance_table
from genaf_hf.training.options import refuse_resume_flag
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)


def pretrain(arguments: PretrainingArguments, config: PretrainingConfig) -> Path:
    """Trains an encoder from scratch on the images to train on, and leaves it in `config.output_dir`.

    That folder then is an ordinary checkpoint with image processor and card. A run that was killed goes on where it was
    when it is started again with the same settings.

    Args:
        arguments: what is trained, how and on what.
        config: of the training.

    Returns:
        The folder.

    Raises:
        UserError: for input that cannot be worked with, before any training; when an encoder is there already; when
            the Hub does not take the encoder.
    """
    refuse_resume_flag(config)
    folder = Path(config.output_dir)
    Run(folder, {}, leaves=LEAVES, reads={"dataset": arguments.dataset_name}).check()
    model = encoder_config(arguments)
    augmentations, settings = views(arguments, model), method_settings(arguments)
    train = load_train_images(arguments, config.hub_token)
    processor = ViTImageProcessor(size={"height": arguments.image_size, "width": arguments.image_size})
    training = copy.copy(config)
    training.push_to_hub = False
    set_seed(config.seed)
    if "label" in train.column_names and PartialState().is_main_process:
        logger.info("\n%s\n", balance_table(counted_classes({"train": train})))
    logger.info("Training on %d images, %d process(es), %s", len(train), config.world_size, config.device)
    method, data = METHODS[arguments.method], public_name(arguments.dataset_name)
    name = open_result(folder, config)
    pretrain_encoder(method, train, model, processor, training, augmentations, settings, data=data)
    push_result(folder, config, name, message="Pre-trained with genaf_hf")
    PartialState().wait_for_everyone()
    return folder


def load_train_images(arguments: PretrainingArguments, token: str | None) -> Dataset:
    """The images to train on: with labels if the method reads them, else the whole split, whether it has labels or not.

    Raises:
        UserError: as `load_images` and `load_unlabelled_images`.
    """
    if METHODS[arguments.method].labelled:
        # Not from a stream, which wants the number of images to test on too, and here there are none.
        limits = {"max_train_samples": arguments.max_train_samples, "streaming": False}
        data = load_images(arguments.dataset_name, **arguments.labelled_options, **limits, token=token)
        check_enough_to_train(data)
        return data["train"]
    options = {**arguments.unlabelled_options, "max_samples": arguments.max_train_samples, "token": token}
    return load_unlabelled_images(arguments.dataset_name, **options)
