"""What an audit is asked for on the command line, and by published cards."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from accelerate import PartialState

from genaf_hf.errors import UserError
from genaf_hf.evaluation.comparison import joined
from genaf_hf.evaluation.gate import check_gate
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.threats import at_hand, threats_of
from genaf_hf.models.loading import load_configuration
from genaf_hf.pipelines.attack_arguments import (
    ATTACKS_HELP,
    DEFAULT_ATTACKS,
    LAST,
    LAST_IMAGES,
    SETTINGS_HELP,
    named_attacks,
)
from genaf_hf.pipelines.audit import SWEEP_FACTORS, audit
from genaf_hf.pipelines.audit_case import base_model
from genaf_hf.pipelines.dataset_arguments import DatasetArguments
from genaf_hf.pipelines.perturbation_collection import collected
from genaf_hf.runs.run import Run
from genaf_hf.sharing.audited_card import check_card, share_findings
from genaf_hf.sharing.layout import REPORT, SPREADSHEET, SWEEP
from genaf_hf.sharing.result_folder import write_report
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)


@dataclass
class AuditArguments(DatasetArguments):
    """Which classifier is audited on which images, and what it is attacked with."""

    model_name_or_path: str = field(
        metadata={"help": "Image classifier: Hub id or local folder; several, separated by commas, in one table."}
    )
    dataset_name: str = field(metadata={"help": "Hub id, local folder (also of images in class folders), or digits."})
    attacks: str | None = field(
        default=None,
        metadata={
            "help": f"{ATTACKS_HELP[:-1]}; default {DEFAULT_ATTACKS} and, where it is installed, {LAST} on at most "
            f"{LAST_IMAGES} of the images that these leave right."
        },
    )
    encoder: str | None = field(
        default=None,
        metadata={
            "help": "Public encoder, default the base_model of the model's card. Several, separated by commas, are "
            "attacked at once, as by somebody who does not know which one the model was made from."
        },
    )
    perturbations: str | None = field(
        default=None,
        metadata={
            "help": "Ready-made perturbations to attack with as well: folder or Hub repository of ours, of .pt files, "
            "or of XTransferBench."
        },
    )
    resize_perturbations: bool = field(
        default=False, metadata={"help": "Resize those that are not of the model's size, which weakens them."}
    )
    output_dir: str = field(default="audit", metadata={"help": "Folder of the report and the pictures."})
    answers: bool = field(
        default=False,
        metadata={"help": "Write answers.parquet: label, prediction and confidence of each image under each attack."},
    )
    fail_under: float | None = field(
        default=None,
        metadata={"help": "End with an error where a model keeps less than this accuracy, or fails a self-check."},
    )
    under: str = field(
        default="worst-public-encoder",
        metadata={
            "help": "With fail_under, what it is held against: an attack, clean, worst-public-encoder, worst-model, "
            "worst-answers, worst-perturbation-at-hand, or every-attack (images that withstand all)."
        },
    )
    dae_eps: float | None = field(default=None, metadata={"help": "Eps of universal attacks, default 10/255."})
    eps: float | None = field(default=None, metadata={"help": "Eps of other attacks, default 8/255."})
    attack_settings: dict | str | None = field(default=None, metadata={"help": SETTINGS_HELP})
    sweep: list[float] = field(
        default_factory=lambda: list(SWEEP_FACTORS),
        metadata={
            "help": "Factors on the eps of the first attack on the public encoder and of the first on single images, "
            "for the picture of accuracy against eps."
        },
    )
    limit: int | None = field(default=None, metadata={"help": "Audit on a stratified subset of this size."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    encoder_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the encoder."})
    train_split: str | None = field(
        default=None, kw_only=True, metadata={"help": "Split that the attacker's images are drawn from."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Split to report."})
    batch_size: int | None = field(
        default=None,
        metadata={"help": "Images at a time on each process, default 64 on a CPU and what fits elsewhere."},
    )
    seed: int = field(default=0, metadata={"help": "Of the attacks."})
    update_card: bool = field(
        default=False, metadata={"help": "Put the findings into the model's own card, in its folder or on the Hub."}
    )
    create_pr: bool = field(default=False, metadata={"help": "On the Hub, update the card by a pull request."})


def audit_as_asked(arguments: AuditArguments) -> RobustnessReport:
    """The audit that flags ask for.

    With `update_card` the findings stand in the model's own card too, with report and pictures in `audit/` beside it.
    Of several models each is audited in a folder of its own within `output_dir`, which then holds the report of all.

    Raises:
        UserError: as `audit`, and for a card that cannot be updated, before anything is measured or written.
    """
    attacks = named_attacks(
        arguments.attacks,
        arguments.attack_settings,
        dae_eps=arguments.dae_eps,
        eps=arguments.eps,
        seed=arguments.seed,
    )
    names = models_named(arguments.model_name_or_path)
    if len(names) > 1:
        return audit_each(arguments, names, on_encoder=any(each.on_encoder for each in attacks.values()))
    if arguments.fail_under is not None:
        ready = collected(arguments.perturbations) if arguments.perturbations else {}
        known = {each.name: each.knowledge for each in (*at_hand(ready, {}), *threats_of(attacks))}
        check_gate(arguments.fail_under, arguments.under, known)
    elif arguments.under != AuditArguments.under:
        raise UserError(
            f'under is "{arguments.under}" without fail_under, so that nothing is asked of it: give an accuracy from 0 '
            "to 1 by --fail_under, or leave --under out."
        )
    check_update(arguments)
    report = audit(
        arguments.model_name_or_path,
        arguments.dataset_name,
        attacks,
        encoder=arguments.encoder,
        perturbations=arguments.perturbations,
        resize_perturbations=arguments.resize_perturbations,
        sweep=arguments.sweep,
        limit=arguments.limit,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        output_dir=arguments.output_dir,
        answers=arguments.answers,
        model_revision=arguments.model_revision,
        encoder_revision=arguments.encoder_revision,
        **arguments.labelled_options,
        test_split=arguments.test_split,
    )
    if arguments.update_card and PartialState().is_main_process:
        place = share_findings(
            arguments.model_name_or_path, arguments.output_dir, report, create_pr=arguments.create_pr
        )
        logger.info("The findings are in the model's card: %s", place)
    PartialState().wait_for_everyone()
    return report


def models_named(words: str) -> list[str]:
    """The names of models, separated by commas; a folder that is there is one, whatever its name."""
    return [words] if Path(words).is_dir() else [name.strip() for name in words.split(",") if name.strip()]


def audit_each(arguments: AuditArguments, names: Sequence[str], *, on_encoder: bool) -> RobustnessReport:
    """Audits several models, and joins what was found; an audit that was killed goes on with the model where it was.

    Args:
        arguments: of all.
        names: of the models.
        on_encoder: whether an attack is crafted on the public encoder, which the card of each model names then.

    Raises:
        UserError: as `audit_as_asked`, and where a report could not tell the models apart.
    """
    folder, by_name = Path(arguments.output_dir), {public_name(name): name for name in names}
    if len(by_name) < len(names) or arguments.model_revision is not None:
        at = "" if arguments.model_revision is None else f" at {arguments.model_revision}"
        told = ", ".join(map(public_name, names))
        raise UserError(f"The models are {told}{at}: several need different names, and no model_revision.")
    for name in names:
        load_configuration(name)
        check_update(replace(arguments, model_name_or_path=name))
        if on_encoder and arguments.encoder is None:
            base_model(name)
    settings = {name: value for name, value in asdict(arguments).items() if name not in ("fail_under", "under")}
    run = Run(folder, settings, leaves=(REPORT,), overwrites=(SPREADSHEET, SWEEP))
    run.check()

    def audited(name: str) -> str:
        place = str(folder / name.replace("/", "--"))
        return audit_as_asked(replace(arguments, model_name_or_path=by_name[name], output_dir=place)).to_json()

    with run.working():
        reports: list[RobustnessReport] = []
        for name in by_name:
            reports.append(RobustnessReport.from_json(run.journal("models").once(name, partial(audited, name))))
            report = joined(reports)  # refuses other images before the next model is attacked
        if PartialState().is_main_process:
            write_report(folder, report)
    return report


def check_update(arguments: AuditArguments) -> None:
    """Refuses to update a card that is not the newest, or that cannot be updated.

    Raises:
        UserError: says what to leave out, or what is wrong.
    """
    if arguments.update_card and arguments.model_revision is not None:
        raise UserError(
            f'model_revision is "{arguments.model_revision}", but the card is that of the newest commit: leave out '
            "model_revision, or update_card."
        )
    if arguments.create_pr and (not arguments.update_card or Path(arguments.model_name_or_path).is_dir()):
        raise UserError("create_pr is given, but no card on the Hub is updated: leave it out, or add update_card.")
    if arguments.update_card:
        check_card(arguments.model_name_or_path, create_pr=arguments.create_pr)
