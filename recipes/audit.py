"""Audits an image classifier against attacks on its public encoder and on itself.

    python recipes/audit.py --model_name_or_path user/model --dataset_name uoft-cs/cifar10 \
        --attacks l4a,advencoder-per,pgd,square

    python recipes/audit.py

The latter audits the model that recipes/genaf_vit.py makes by default. An audit needs no training and no change of the
model. The public encoder is the base_model of the model's card, or --encoder.
"""

from pathlib import Path

from accelerate import PartialState

from genaf_hf.cli.command_line import parse_arguments, run
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.errors import UserError
from genaf_hf.pipelines.audit import audit
from genaf_hf.pipelines.audit_arguments import AuditArguments

DEFAULT_CONFIG = CONFIGS / "audit_digits.yaml"
DEFAULT_MODEL = "digits-vit-genaf"


def main() -> None:
    (arguments,) = parse_arguments((AuditArguments,), DEFAULT_CONFIG)
    if arguments.model_name_or_path == DEFAULT_MODEL and not Path(DEFAULT_MODEL).exists():
        raise UserError(f"There is no {DEFAULT_MODEL} here yet: accelerate launch recipes/genaf_vit.py makes it.")
    report = audit(arguments)
    if PartialState().is_main_process:
        print(f"\n{report.table()}\n")
        for model in report.models:
            print(f"{report.details(model)}\n")
        print("\n".join(map(str, report.checks)))
        print(f"\nReport, pictures and perturbations are in {arguments.output_dir}.")


if __name__ == "__main__":
    run(main)
