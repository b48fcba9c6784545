"""Trains a public encoder from scratch, by a masked autoencoder, DINO, SimCLR or labels.

    genaf-hf pretrain --method dino
    genaf-hf pretrain pretrain_dino_small.yaml --dataset_name my-images --output_dir my-dino

Without a dataset it trains on scikit-learn's digits, by SimCLR or the method that is named, as
pretrain_digits_<method>.yaml says. A YAML file before the flags holds values of flags by name. Only supervised training
reads labels; the other methods take images without them, and all of the split to train on: where a dataset has no test
split, also those that are held out when an encoder is hardened on it. A run that was killed goes on where it was.
"""

from collections.abc import Sequence
from pathlib import Path

from genaf_hf.cli.command_line import FlagParser, parse_arguments
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.pretraining.arguments import PretrainingArguments, PretrainingConfig
from genaf_hf.pretraining.methods import METHODS
from genaf_hf.pretraining.pretrain import pretrain

TYPES = (PretrainingArguments, PretrainingConfig)


def parser() -> FlagParser:
    return FlagParser(TYPES)


def main(argv: Sequence[str]) -> None:
    """Trains as the words say."""
    arguments, config = parse_arguments(TYPES, default_config(argv), argv)
    folder = pretrain(arguments, config)
    if config.process_index == 0:
        print(f"\nThe encoder is in {folder}.")


def default_config(argv: Sequence[str]) -> Path:
    """The settings for the digits by the method that flags name."""
    method = FlagParser(add_help=False)
    method.add_argument("--method", choices=METHODS, default="simclr")
    return CONFIGS / f"pretrain_digits_{method.parse_known_args(argv)[0].method}.yaml"
