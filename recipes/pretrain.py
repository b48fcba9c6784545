"""Trains a public encoder from scratch, by a masked autoencoder, DINO, SimCLR or labels.

    accelerate launch recipes/pretrain.py
    accelerate launch recipes/pretrain.py recipes/configs/pretrain_dino_small.yaml --dataset_name my-images \
        --output_dir my-dino

Without a dataset it runs recipes/configs/pretrain_digits.yaml: SimCLR on scikit-learn's digits. A run that was killed
goes on where it was. The other recipes harden what comes out.
"""

import logging
import sys
from pathlib import Path

from genaf_hf.command_line import parse_arguments
from genaf_hf.pretraining.arguments import PretrainingArguments, PretrainingConfig
from genaf_hf.pretraining.pretrain import pretrain

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "pretrain_digits.yaml"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        arguments, config = parse_arguments((PretrainingArguments, PretrainingConfig), DEFAULT_CONFIG)
        folder = pretrain(arguments, config)
    except (ValueError, OSError) as error:
        logging.debug("", exc_info=error)
        sys.exit(f"\n{error}")
    if config.process_index == 0:
        print(f"\nThe encoder is in {folder}.")


if __name__ == "__main__":
    main()
