"""Audits an image classifier against attacks on its public encoder and on itself.

    genaf-hf audit --model_name_or_path user/model --dataset_name uoft-cs/cifar10 \\
        --attacks l4a,advencoder-per,pgd,square
    genaf-hf audit --model_name_or_path user/one,user/other --dataset_name uoft-cs/cifar10
    genaf-hf audit

The last audits the model that genaf-hf harden makes by default (audit_digits.yaml). An audit needs no training and no
change of the model. A YAML file before the flags holds values of flags by name. Several processes share the work by
accelerate launch -m genaf_hf.cli audit; an audit that was killed goes on where it was by the same command.
"""

from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from genaf_hf.cli.command_line import FlagParser, parse_arguments
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.errors import UserError
from genaf_hf.evaluation.gate import check_reached
from genaf_hf.pipelines.audit_arguments import AuditArguments, audit_as_asked
from genaf_hf.sharing.verdict import verdict

DEFAULT_MODEL = "digits-vit-genaf"


def parser() -> FlagParser:
    return FlagParser((AuditArguments,))


def main(argv: Sequence[str]) -> None:
    """Audits what the words name, and prints the report."""
    (arguments,) = parse_arguments((AuditArguments,), CONFIGS / "audit_digits.yaml", argv)
    if arguments.model_name_or_path == DEFAULT_MODEL and not Path(DEFAULT_MODEL).exists():
        raise UserError(f"There is no {DEFAULT_MODEL} here yet: genaf-hf harden makes it.")
    report = audit_as_asked(arguments)
    if PartialState().is_main_process:
        print(f"\n{report.table()}\n")
        for model in report.models:
            print(f"{verdict(report, model)}\n\n{report.details(model)}\n")
        print("\n".join(map(str, report.checks)))
        print(f"\nWhat was found is in {arguments.output_dir}.")
    if arguments.fail_under is not None:
        check_reached(report, arguments.fail_under, arguments.under)
