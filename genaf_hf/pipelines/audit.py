"""Audits any image classifier: attacks on the public encoder, the same on the model itself, and task-aware ones."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

import torch
from accelerate import PartialState
from datasets import DatasetDict

from genaf_hf.attacks import Attack, UniversalPerturbation
from genaf_hf.attacks.inputs import Encoders, checked_setting
from genaf_hf.data import with_pixel_values
from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import save_answers
from genaf_hf.evaluation.evaluate import craft_and_evaluate, try_out
from genaf_hf.evaluation.measurement import PUBLIC_ENCODER
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.threats import Threat, attacks_of, worst_of
from genaf_hf.models.identity import digest
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.attack_arguments import attacks_by_name
from genaf_hf.pipelines.audit_case import Case, checked_model, load_model, open_case, public_encoders
from genaf_hf.pipelines.perturbation_collection import collected, fitting
from genaf_hf.pipelines.shown_images import draw_worst, shown_images
from genaf_hf.pipelines.trained_images import CHOICES
from genaf_hf.runs.run import Run
from genaf_hf.sharing.layout import ANSWERS, AUDIT, AUDITED, CARD, PERTURBATIONS, RECORD, REPORT
from genaf_hf.sharing.result_folder import write_results
from genaf_hf.values.numbers import is_number, is_whole, plain
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

SWEEP_FACTORS = (0.25, 0.5, 2.0, 4.0)
OF_A_MODEL = (RECORD, "config.json")


def audit(
    model: str | Path | PixelModel,
    dataset: str | Path | DatasetDict,
    attacks: str | Sequence[str | Attack] | Mapping[str, Attack] | None = None,
    *,
    encoder: str | Path | Encoders | None = None,
    perturbations: str | Path | Mapping[str, UniversalPerturbation] | None = None,
    resize_perturbations: bool = False,
    sweep: Sequence[float] = (),
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    output_dir: str | Path | None = None,
    answers: bool = False,
    model_revision: str | None = None,
    encoder_revision: str | None = None,
    **images,
) -> RobustnessReport:
    """Attacks a classifier, and says what was found.

        audit("user/model", "uoft-cs/cifar10", ["l4a", ATTACKS["pgd"].configure(eps=4 / 255, steps=50)])

    With an `output_dir`, that then holds `report.json`, `report.csv`, a card, `accuracy_by_eps.png`, `gallery.png` and
    the perturbations. An audit that was killed goes on where it was when it is started again with the same settings;
    perturbations are crafted once for the same encoder, settings and images, also by other audits.

    Args:
        model: classifier, or its Hub id or local folder.
        dataset: splits train, of which the attacker has some, and test, with the columns `image` and `label`; or Hub
            id or local folder.
        attacks: names, attacks with their settings, or the latter by the names that the report is to use; default
            those of a report, see `named_attacks`.
        encoder: that the attacker has, or its Hub id or local folder; several, of names separated by commas, are
            attacked at once; default the base_model of the model's card.
        perturbations: ready-made ones by name, or a folder or Hub repository of them, see `collected`; the attacker
            has nothing else.
        resize_perturbations: whether those of another size than the model's images are resized, which weakens them.
        sweep: factors on the eps, see `swept`, at which a part of the images is measured.
        limit: images at most, a stratified subset.
        batch_size: images at a time on each process, default as for `evaluate_robustness`.
        seed: of the attacks.
        output_dir: None writes nothing.
        answers: whether `answers.parquet` is written too, with what was answered to each image.
        model_revision, encoder_revision: branch, tag or commit on the Hub.
        images: of a dataset by its name, as for `load_images`.

    Raises:
        UserError: for input that cannot be worked with, before anything is measured or written.
    """
    # Without an accelerator, processes find each other only when they are told that they are on CPU.
    PartialState(cpu=not torch.accelerator.is_available())
    model, dataset, encoder, perturbations = map(plain, (model, dataset, encoder, perturbations))
    seed = checked_setting("seed", seed, int)
    configured = attacks_by_name(attacks, seed=seed)
    check_numbers(sweep, limit, batch_size)
    path = model if isinstance(model, str) else ""
    asked = {
        "model_name_or_path": path,
        "dataset_name": dataset if isinstance(dataset, str) else "",
        "encoder": encoder if isinstance(encoder, str) else "",
        "model_revision": model_revision,
        "encoder_revision": encoder_revision,
        "perturbations": perturbations if isinstance(perturbations, str) else "",
        "resize_perturbations": resize_perturbations,
        **images,
        "sweep": list(sweep),
        "limit": limit,
        "batch_size": batch_size,
        "seed": seed,
        **{f"{name}.{setting}": value for name, each in configured.items() for setting, value in each.settings.items()},
    }
    run = None if output_dir is None else audit_run(Path(output_dir), asked)
    if run is not None:
        run.check()
    model = load_model(path, model_revision) if path else checked_model(model)
    model = model.to(PartialState().device)
    ready = collected(perturbations) if isinstance(perturbations, str) else dict(perturbations or {})
    ready = fitting(ready, model.image_size, resized=resize_perturbations)
    on_encoder = any(each.on_encoder for each in configured.values())
    if encoder is not None and not on_encoder:
        logger.warning("The encoder is not read: none of these attacks is crafted on one.")
    encoder = public_encoders(encoder, model, path, model_revision, encoder_revision) if on_encoder else None
    case = open_case(model, path, model_revision, encoder, dataset, limit, images)
    try_out(configured, case.attacker, model)
    evaluate = partial(
        craft_and_evaluate,
        {case.name: model},
        with_pixel_values(case.images.data["test"], model.processor),
        configured,
        case.attacker,
        ready=ready,
        factors=sweep,
        bank=with_pixel_values(case.images.data["train"], model.processor),
        batch_size=batch_size,
        seed=seed,
        dataset_info={**case.images.measured, **case.choices},
    )
    if run is None:
        report, _ = evaluate()
        return with_assumption(report, case)
    content = {name: digest(each.provenance, {"delta": each.delta}) for name, each in ready.items()}
    with run.working({**case.content, "content of the perturbations": content}):
        report, threats = evaluate(journal=run.journal("evaluation"))
        report = with_assumption(report, case)
        if PartialState().is_main_process:
            write_findings(run.folder, report, case, threats)
            if answers:
                save_answers(report.answers, run.folder / ANSWERS, report_sha256=report.sha256)
    return report


def with_assumption(report: RobustnessReport, case: Case) -> RobustnessReport:
    """The report, which tells of its model what was assumed to match the classes of the images."""
    if not case.assumed:
        return report
    return replace(report, models={case.name: {**report.models[case.name], "classes_matched": case.assumed}})


def audit_run(folder: Path, asked: Mapping) -> Run:
    """The run of an audit in a folder, which may replace the findings of an earlier one of the same model."""
    model = asked["model_name_or_path"]
    if model and folder.exists() and folder.resolve() == Path(model).resolve():
        raise UserError(
            f"output_dir {folder} is the folder of the model: choose another one, for example {folder / AUDIT}."
        )
    if PartialState().is_main_process and is_earlier_audit(folder, model):  # names of folders may be those of others
        said = 'What is in %s of an audit of a model named "%s" will be replaced; elsewhere, by --output_dir, it stays'
        logger.warning(said, folder, public_name(model))
    return Run(
        folder,
        asked,
        leaves=(CARD, REPORT),
        overwrites=AUDITED + OF_A_MODEL,
        reads={"dataset": asked["dataset_name"]},
        replaceable=partial(is_earlier_audit, folder, model),
    )


def audit_again(
    report: RobustnessReport | str | Path,
    *,
    model: str | Path | PixelModel,
    dataset: str | Path | DatasetDict,
    **settings,
) -> RobustnessReport:
    """Runs the attacks of a report again, on its last model and as many images, at all the settings that it tells.

    Args:
        report: of an audit, or of a hardening; or its file, or the folder that it lies in.
        model, dataset: as for `audit`; a report tells local folders by their last names only.
        settings: others of `audit`, as the `encoder` where that is not the one on the Hub that the report tells, nor
            the base_model of the model's card.

    Raises:
        UserError: as `audit`, and where the report does not hold all settings.
    """
    if not isinstance(report, RobustnessReport):
        report = RobustnessReport.load(report)
    told = report.dataset
    of_names = not isinstance(dataset, DatasetDict)
    named = {"config_name": told.get("config"), "revision": told.get("revision")}
    chosen = {name: told[name] for name in CHOICES if name in told}
    given = {"limit": told["count"], "seed": report.seed, **({**named, **chosen} if of_names else {}), **settings}
    if "encoder" not in given:
        given = {**public_encoder_of(report), **given}
    return audit(model, dataset, attacks_of(report), **given)


def public_encoder_of(report: RobustnessReport) -> dict[str, str | None]:
    """The public encoder that a report tells and its revision, as settings of `audit`; none that is not on the Hub."""
    attacked = [each.settings for each in report.attacked(report.subject) if each.knowledge == PUBLIC_ENCODER]
    told = {(each.get("encoder") or "", each.get("encoder_revision")) for each in attacked}
    if len(told) != 1:
        return {}
    [(name, revision)] = told
    is_one_of_hub = "/" in name and "," not in name  # of local folders there are the last names
    return {"encoder": name, "encoder_revision": revision} if is_one_of_hub else {}


def check_numbers(sweep: Sequence[float], limit: int | None, batch_size: int | None) -> None:
    """Refuses numbers that no audit can be made with; the `UserError` names what was found."""
    if not isinstance(sweep, Sequence) or not all(is_number(each) and each > 0 and each != 1 for each in sweep):
        raise UserError(f"sweep is {sweep}, expected positive numbers other than 1, such as [0.5, 2, 4].")
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and not (is_whole(value) and value > 0):
            raise UserError(f"{name} is {value}, expected at least 1 image.")


def is_earlier_audit(folder: Path, path: str) -> bool:
    """Whether what a folder holds are findings of the model of this name, and none of a model itself."""
    if not path or any((folder / each).exists() for each in OF_A_MODEL):
        return False
    try:
        return [*RobustnessReport.load(folder / REPORT).models] == [public_name(path)]
    except (OSError, ValueError):
        return False


def write_findings(folder: Path, report: RobustnessReport, case: Case, threats: Sequence[Threat]) -> None:
    """The report, its pictures, the perturbations and a card."""
    (folder / ANSWERS).unlink(missing_ok=True)  # of an earlier audit
    shutil.rmtree(folder / PERTURBATIONS, ignore_errors=True)
    shown = shown_images(case.model, case.images.data["test"])
    draw_worst(folder, worst_of(report, threats, case.name), case.name, case.model, *shown, case.model.class_names)
    for threat in threats:
        if threat.universal:
            threat.perturbations[case.name].save_pretrained(folder / PERTURBATIONS / quote(threat.name, safe=" "))
    write_results(folder, report, model_name=case.name)
