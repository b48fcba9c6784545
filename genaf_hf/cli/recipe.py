"""What the recipes of all families of encoders run."""

from pathlib import Path

from genaf_hf.cli.command_line import parse_arguments, run
from genaf_hf.cli.settings_file import read_settings
from genaf_hf.pipelines.harden import HardeningArguments, harden
from genaf_hf.pretraining.digits_encoder import pretrain_where_named
from genaf_hf.training.config import GenAFConfig


def run_recipe(recipe: str, default_config: Path, family_config: Path) -> None:
    """Hardens what the command line names, and prints the report; an error ends it with one sentence.

    Args:
        recipe: that the card names to do the run again.
        default_config: what is run without a model or a dataset. An encoder for the digits is made first.
        family_config: settings that serve the family, for what flags do not say where they name a model or a dataset.
    """

    def main() -> None:
        arguments, config = parse_arguments(
            (HardeningArguments, GenAFConfig), default_config, family_config=family_config
        )
        pretrain_where_named(arguments.model_name_or_path, config.use_cpu)
        report = harden(arguments, config, recipe=recipe, recipe_settings=read_settings(family_config))
        if config.process_index == 0:
            print(f"\n{report.table()}\n\nModel, report, card and pictures are in {config.output_dir}.")

    run(main)
