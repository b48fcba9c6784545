"""Hardens a vision transformer with Gen-AF.

    accelerate launch recipes/genaf_vit.py
    accelerate launch recipes/genaf_vit.py recipes/configs/vit_base_cifar10.yaml --seed 1

Without a model or a dataset it runs recipes/configs/digits.yaml: scikit-learn's digits, and a small masked autoencoder
that is pre-trained on them first and kept for the next run.
"""

import logging
import sys
from pathlib import Path

from transformers import TrainingArguments, ViTImageProcessor, ViTMAEConfig, set_seed

from genaf_hf import GenAFConfig, load_images
from genaf_hf.command_line import parse_arguments
from genaf_hf.data import DIGITS
from genaf_hf.hardening import HardeningArguments, harden
from genaf_hf.pretraining import pretrain_mae

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "digits.yaml"
DEFAULT_ENCODER = "digits-vit-mae"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        arguments, config = parse_arguments((HardeningArguments, GenAFConfig), DEFAULT_CONFIG)
        if arguments.model_name_or_path == DEFAULT_ENCODER:
            pretrain_digits_encoder(config.use_cpu)
        report = harden(arguments, config)
    except (ValueError, OSError, FloatingPointError) as error:
        logging.debug("", exc_info=error)
        sys.exit(f"\n{error}")
    if config.process_index == 0:
        print(f"\n{report.table()}\n\nModel, report, card and picture are in {config.output_dir}.")


def pretrain_digits_encoder(use_cpu: bool) -> None:
    """The default public encoder: a ViT of 4 layers of width 64 on patches of 2 x 2 pixels, trained without labels."""
    set_seed(0)
    pretrain_mae(
        load_images(DIGITS)["train"],
        ViTMAEConfig(
            image_size=8,
            patch_size=2,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=128,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=64,
            mask_ratio=0.75,
        ),
        ViTImageProcessor(size={"height": 8, "width": 8}),
        TrainingArguments(
            output_dir=DEFAULT_ENCODER,
            num_train_epochs=200,
            per_device_train_batch_size=64,
            learning_rate=4e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            weight_decay=0.05,
            adam_beta2=0.95,
            logging_steps=500,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            use_cpu=use_cpu,
        ),
    )


if __name__ == "__main__":
    main()
