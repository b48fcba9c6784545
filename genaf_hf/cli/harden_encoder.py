"""Hardens an encoder without labels, before anybody has a task.

    genaf-hf harden-encoder
    genaf-hf harden-encoder --model_name_or_path facebook/dinov2-small --dataset_name my/images \\
        --output_dir dinov2-small-hardened --push_to_hub
    accelerate launch -m genaf_hf.cli harden-encoder ...

A probe of it then is protected, and a fine-tune in part; docs/encoders.md tells how far. Any images will do, one folder
without class folders included; labels that are there are for the report alone. What comes out is a checkpoint of the
encoder's own class. The first command runs digits_encoder.yaml: scikit-learn's digits, and a small ViT that SimCLR
trains on them first; the others take what encoder_without_labels.yaml says. A run that was killed goes on where it was
by the same command.
"""

from collections.abc import Sequence

from genaf_hf.cli.command_line import FlagParser, parse_arguments
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.evaluation.drift import drift_table
from genaf_hf.pipelines.harden_encoder import EncoderArguments, harden_encoder
from genaf_hf.pretraining.digits_encoder import pretrain_where_named
from genaf_hf.sharing.eval_results import dataset_name
from genaf_hf.sharing.verdict import verdict
from genaf_hf.training.config import GenAFConfig

TYPES = (EncoderArguments, GenAFConfig)


def parser() -> FlagParser:
    return FlagParser(TYPES)


def main(argv: Sequence[str]) -> None:
    """Hardens the encoder that the words name, and prints what was measured."""
    named = CONFIGS / "encoder_without_labels.yaml"
    arguments, config = parse_arguments(TYPES, CONFIGS / "digits_encoder.yaml", argv, family_config=lambda _: named)
    pretrain_where_named(arguments.model_name_or_path, config.use_cpu)
    drifts, reports = harden_encoder(arguments, config)
    if config.process_index == 0:
        print(f"\nHow far features are from those of the public encoder:\n\n{drift_table(drifts)}")
        for report in reports.values():
            print(f"\nA linear probe on {dataset_name(report)}:\n\n{report.table()}\n\n{verdict(report)}")
        print(f"\nEncoder, report, card and pictures are in {config.output_dir}.")
