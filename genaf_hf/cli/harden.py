"""Fine-tunes an encoder on your images so that it withstands downstream-agnostic adversarial examples.

    genaf-hf harden
    genaf-hf harden --model_name_or_path facebook/dino-vits16 --dataset_name uoft-cs/cifar10 \\
        --output_dir hardened
    genaf-hf harden settings.yaml --seed 1
    accelerate launch -m genaf_hf.cli harden ...

The first runs digits_vit.yaml: scikit-learn's digits, and a small ViT that is trained on them first and kept for the
next run. The second takes what serves its family, encoder.yaml or for masked autoencoders mae.yaml. A YAML file holds
values of flags by name, which flags win over, and below a defence's name those for that defence alone; these three and
paper.yaml, digits_dino.yaml, digits_mae.yaml and vit_base_cifar10.yaml come with the package. A run that was killed
goes on where it was by the same command.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoModel

from genaf_hf.cli.command_line import FlagParser, is_settings_file, parse_arguments, settings_file
from genaf_hf.cli.help_pages import HELP, make_page
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.errors import UserError
from genaf_hf.models.loading import load_configuration
from genaf_hf.models.soundness import on_meta
from genaf_hf.pipelines.dry_run import dry_run
from genaf_hf.pipelines.harden import HardeningArguments, harden
from genaf_hf.pretraining.digits_encoder import DIGITS_ENCODERS, pretrain_where_named
from genaf_hf.sharing.verdict import verdict
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.optimization import fine_tuning_rate


@dataclass
class CommandArguments:
    """What the command does with what it is asked for."""

    dry_run: bool = field(
        default=False,
        metadata={"help": "Tell images, steps, and an estimate of time and memory; train nothing."},
    )


TYPES = (HardeningArguments, GenAFConfig, CommandArguments)
FAMILIES, OTHERS = {"vit_mae": "mae.yaml"}, "encoder.yaml"  # files by the model's type


def parser() -> FlagParser:
    return FlagParser(TYPES)


def main(argv: Sequence[str], default_config: str = "digits_vit.yaml", family_config: str | None = None) -> None:
    """Hardens what the words name, and prints the report.

    Args:
        argv: the words after the command.
        default_config: the file of ours that is run without a model or a dataset.
        family_config: the file of ours for a model that is named, default by the model's type.
    """

    if HELP & {*argv}:
        words = [word for word in argv if word not in HELP]
        file = settings_file(words.pop(0)) if is_settings_file(words[0]) else None
        print(help_on_model(parser().given(words), file))
        return

    def of_family(given: Mapping[str, Any]) -> Path:
        return CONFIGS / (family_config or family_of(given))

    arguments, config, command = parse_arguments(TYPES, CONFIGS / default_config, argv, family_config=of_family)
    if command.dry_run:
        if arguments.model_name_or_path in DIGITS_ENCODERS and not Path(arguments.model_name_or_path).exists():
            raise UserError(
                f"{arguments.model_name_or_path} is not there yet, a run trains it first: name an encoder that is "
                "there, or leave out dry_run."
            )
        told = dry_run(arguments, config)
        if config.process_index == 0:
            print(f"\n{told}")
        return
    pretrain_where_named(arguments.model_name_or_path, config.use_cpu)
    report = harden(arguments, config)
    if config.process_index == 0:
        print(f"\n{report.table()}\n\n{verdict(report)}")
        print(f"\nModel, report, card and pictures are in {config.output_dir}.")


def family_of(given: Mapping[str, Any]) -> str:
    """The file of settings for the family of the model that flags name.

    Raises:
        UserError: when there is no such model.
    """
    model = given["model_name_or_path"]
    if model in DIGITS_ENCODERS:  # which is small, and may not be there yet
        return OTHERS
    config, _ = load_configuration(model, revision=given.get("model_revision"), token=given.get("hub_token"))
    return FAMILIES.get(config.model_type, OTHERS)


def help_on_model(given: Mapping[str, Any], file: Path | None = None) -> str:
    """The help with the defaults that the model gets that flags name.

    Args:
        given: by flags.
        file: of settings that is named with them, default that of the model's family.

    Raises:
        UserError: when there is no such model, or a file that cannot be used.
    """
    model, file = given["model_name_or_path"], file or CONFIGS / family_of(given)
    config, _ = load_configuration(model, revision=given.get("model_revision"), token=given.get("hub_token"))
    rate = float(f"{fine_tuning_rate(on_meta(config, AutoModel)):.2g}")  # the head changes no second digit
    page = make_page("harden", {"learning_rate": rate, **parser().settings_of(file)})
    return f'{page}\n"Here" is what {model} gets, by {file.name} and its size.'
