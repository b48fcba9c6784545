"""Evolves PEFT adapters for an encoder: the best trades of clean accuracy, robustness and size.

    pip install -c constraints.txt '.[search]' && accelerate launch recipes/evolve_peft.py
    accelerate launch recipes/evolve_peft.py --pick 7
    accelerate launch recipes/evolve_peft.py --model_name_or_path facebook/dinov2-small --dataset_name uoft-cs/cifar10 \
        --output_dir /mnt/adapters --population 24 --generations 20 --storage postgresql://user@host/database

Without a model or a dataset it runs evolve_digits.yaml. Start the same command on as many machines as
there are, with one storage and one output folder: they share the work. A search that was killed goes on where it was.
"""

import logging
import warnings

from genaf_hf import GenAFConfig
from genaf_hf.adapter_search import AdapterSearchArguments, evolve, pick
from genaf_hf.adapter_search.front import table
from genaf_hf.cli.command_line import parse_arguments, run
from genaf_hf.cli.settings_file import CONFIGS

DEFAULT_CONFIG = CONFIGS / "evolve_digits.yaml"


def main() -> None:
    # PEFT asks models for an attribute that transformers has given another name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    arguments, config = parse_arguments((AdapterSearchArguments, GenAFConfig), DEFAULT_CONFIG)
    members = evolve(arguments, config)
    if members is None:
        print("\nThe search is done. Another worker evaluates the front; start the same command again to see it.")
        if arguments.pick is not None:
            print(f"Trial {arguments.pick} was not picked: that takes the evaluated front.")
        return
    print(f"\n{table(members)}\n\nTable, picture, study and adapters are in {config.output_dir}.")
    if arguments.pick is not None:
        print(f"\n{pick(arguments, config, members).table()}\n\nModel and card are in {config.output_dir}/picked.")


if __name__ == "__main__":
    run(main)
