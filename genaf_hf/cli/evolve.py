"""Evolves PEFT adapters for an encoder: the best trades of clean accuracy, robustness and size.

    genaf-hf evolve
    genaf-hf evolve --pick 7
    genaf-hf evolve --model_name_or_path facebook/dinov2-small --dataset_name uoft-cs/cifar10 \\
        --output_dir /mnt/adapters --population 24 --generations 20 --storage postgresql://user@host/database

Without a model or a dataset it runs evolve_digits.yaml. A YAML file before the flags holds values of flags by name.
Start the same command on as many machines as there are, with one storage and one output folder: they share the work. A
search that was killed goes on where it was.
"""

import logging
import warnings
from collections.abc import Sequence

from genaf_hf.adapter_search import AdapterSearchArguments, evolve, pick
from genaf_hf.adapter_search.front import table
from genaf_hf.cli.command_line import FlagParser, parse_arguments
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.training.config import GenAFConfig

TYPES = (AdapterSearchArguments, GenAFConfig)


def parser() -> FlagParser:
    return FlagParser(TYPES)


def main(argv: Sequence[str]) -> None:
    """Searches as the words say, and prints the front."""
    # PEFT asks models for an attribute that transformers has given another name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    arguments, config = parse_arguments(TYPES, CONFIGS / "evolve_digits.yaml", argv)
    members = evolve(arguments, config)
    if members is None:
        print("\nThe search is done. Another worker evaluates the front; start the same command again to see it.")
        if arguments.pick is not None:
            print(f"Trial {arguments.pick} was not picked: that takes the evaluated front.")
        return
    print(f"\n{table(members)}\n\nTable, picture, study and adapters are in {config.output_dir}.")
    if arguments.pick is not None:
        print(f"\n{pick(arguments, config, members).table()}\n\nModel and card are in {config.output_dir}/picked.")
