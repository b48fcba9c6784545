"""Trains a public encoder from scratch, by a masked autoencoder, DINO, SimCLR or labels.

    accelerate launch recipes/pretrain.py --method dino
    accelerate launch recipes/pretrain.py genaf_hf/cli/configs/pretrain_dino_small.yaml --dataset_name my-images \
        --output_dir my-dino

Without a dataset it trains on scikit-learn's digits, by SimCLR or the method that is named, as
pretrain_digits_<method>.yaml says. Only supervised training reads labels; the other methods take images
without them, and all of the split to train on: where a dataset has no test split, also those that are held out when an
encoder is hardened on it. A run that was killed goes on where it was. The other recipes harden what comes out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from genaf_hf.cli.command_line import FlagParser, parse_arguments, run
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.pretraining.arguments import METHODS, PretrainingArguments, PretrainingConfig
from genaf_hf.pretraining.pretrain import pretrain


def default_config(argv: Sequence[str]) -> Path:
    """The settings for the digits by the method that flags name."""
    parser = FlagParser(add_help=False)
    parser.add_argument("--method", choices=METHODS, default="simclr")
    return CONFIGS / f"pretrain_digits_{parser.parse_known_args(argv)[0].method}.yaml"


def main() -> None:
    arguments, config = parse_arguments((PretrainingArguments, PretrainingConfig), default_config(sys.argv[1:]))
    folder = pretrain(arguments, config)
    if config.process_index == 0:
        print(f"\nThe encoder is in {folder}.")


if __name__ == "__main__":
    run(main)
