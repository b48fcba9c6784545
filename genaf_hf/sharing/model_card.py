"""The model card: what a report and a training record say, in words that both a reader and the Hub understand."""

import re
import shlex
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import ModelCard
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from genaf_hf.attacks import ATTACKS
from genaf_hf.evaluation.drift import Drift
from genaf_hf.evaluation.measurement import (
    ANSWERS,
    MODEL,
    PERTURBATION,
    PUBLIC_ENCODER,
    Measurement,
    checked_eps,
    is_patch,
    reach,
)
from genaf_hf.evaluation.report import ADAPTIVE, RobustnessReport
from genaf_hf.sharing.eval_results import UNNAMED, dataset_name, eval_results
from genaf_hf.sharing.evidence import evidence
from genaf_hf.sharing.hub_metadata import CardData, card, known_license, on_hub
from genaf_hf.sharing.layout import PICTURES, REPORT, RESULT_PICTURES
from genaf_hf.sharing.record import TrainingRecord, balance_table, is_hardened, trained_on
from genaf_hf.sharing.verdict import doubts, kind_of, of_other_kinds, verdict
from genaf_hf.values.markup import one_line, plain
from genaf_hf.values.names import WRITTEN_LETTERS, shortened

TEMPLATES = Path(__file__).parent / "templates"
TAGS = ("genaf", "adversarial-robustness")
SHOWN_CLASSES = 20
OWN_CLASS = "EncoderForImageClassification"  # which transformers loads only with the code that lies beside the weights


def model_card(
    report: RobustnessReport, record: TrainingRecord | None = None, *, model_name: str, pictures: Sequence[str] = ()
) -> ModelCard:
    """The card of the last model of a report, set beside the others.

    Args:
        report: what was measured.
        record: how the model was trained; None for a model that was only audited.
        model_name: Hub id or folder name under which the model is loaded.
        pictures: names, out of `layout.PICTURES`, of those that lie beside the card.
    """
    content = render("model_card.md", report, record, model_name=model_name, pictures=pictures)
    return card(metadata(report, record, model_name), content)


def findings(report: RobustnessReport, *, model_name: str, pictures: Sequence[str] = (), folder: str) -> str:
    """The part of a card that tells an audit, for the card of a model that somebody else made.

    Args:
        report: what was measured.
        model_name: Hub id or folder name under which the model is loaded.
        pictures: names, out of `layout.PICTURES`, of those that lie in the folder.
        folder: of the report and the pictures, seen from the card.
    """
    return render("findings.md", report, None, model_name=model_name, pictures=pictures, folder=f"{folder}/")


def pictures_in(folder: Path) -> list[str]:
    """Names, out of `layout.PICTURES`, of those that a folder holds."""
    return [name for name in PICTURES if (folder / name).exists()]


def metadata(
    report: RobustnessReport, record: TrainingRecord | None, model_name: str, *, report_path: str = REPORT
) -> CardData:
    """What the Hub reads of a card; a base model and a dataset are named where they are on the Hub.

    What the Hub would refuse is left out, such as a license that it has no identifier for; the card's text says it.
    """
    base, dataset = {} if record is None else record.base_model, on_hub(report.dataset)
    return CardData(
        base_model=on_hub(base),
        datasets=[dataset] if dataset else None,
        license=known_license(base.get("license")),
        library_name="peft" if is_adapter(report) else "transformers",
        pipeline_tag="image-classification",
        tags=list(TAGS if is_hardened(record) or base.get("hardened") else TAGS[1:]),
        model_name=model_name,
        eval_results=eval_results(report, report.subject, report_path=report_path),
    )


def is_adapter(report: RobustnessReport) -> bool:
    """Whether a report is on an adapter of PEFT, which is loaded on top of its base model."""
    return report.models[report.subject]["class"].startswith("Peft")


def render(
    template: str,
    report: RobustnessReport,
    record: TrainingRecord | None,
    *,
    model_name: str,
    pictures: Sequence[str],
    folder: str = "",
) -> str:
    """A template with everything that a report and a record say; the template escapes names and other foreign text."""
    subject = report.subject
    found = report.of(subject)
    return filled(
        template,
        report=report,
        record=record,
        hardened=is_hardened(record),
        model_name=model_name,
        dataset_name=dataset_name(report),
        is_adapter=is_adapter(report),
        own_class=report.models[subject]["class"] == OWN_CLASS,
        of_timm=report.models[subject]["class"].startswith("TimmWrapper"),
        subject=subject,
        doubts=doubts(report),
        verdict=verdict(report),
        trained_on=trained_on(record),
        of_other_kinds=of_other_kinds(report, trained_on(record)),
        attacked=report.attacked(subject),
        crafted=next((each for each in found if is_crafted_on_encoder(each)), None),
        pgd_eps=checked_eps(found),
        table=report.table(plain),
        details=report.details(subject, plain),
        pictures={name: words for name, words in PICTURES.items() if name in pictures},
        result_pictures=RESULT_PICTURES,
        folder=folder,
        shown_classes=SHOWN_CLASSES,
        evidence=evidence(report, subject, hardened=is_hardened(record)),
        citations=citations(report.measurements, record),
    )


def filled(template: str, **values) -> str:
    """A template with the values that it names."""
    text = template_environment().get_template(template).render(**values)
    return re.sub("\n{3,}", "\n\n", text).strip()


def template_environment() -> Environment:
    """What templates are read by; a name without a value is refused, and foreign text is theirs to escape."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "PERTURBATION": PERTURBATION,
        "PUBLIC_ENCODER": PUBLIC_ENCODER,
        "ANSWERS": ANSWERS,
        "MODEL": MODEL,
        "UNNAMED": UNNAMED,
    }
    environment.tests |= {"patch": is_patch}
    environment.filters |= {
        "plain": plain,
        "shortened": partial(shortened, longest=WRITTEN_LETTERS),
        "balance_table": partial(balance_table, text=plain),
        "reach": reach,
        "dataset_name": dataset_name,
        "doubts": doubts,
        "verdict": verdict,
        "kind_of": kind_of,
        "table": partial(RobustnessReport.table, text=plain),
        "python": python,
        "shell": shell,
    }
    return environment


def is_crafted_on_encoder(measurement: Measurement) -> bool:
    """Whether the attacker knew a public encoder, and the report knows which."""
    return measurement.knowledge == PUBLIC_ENCODER and bool(measurement.settings.get("encoder"))


def citations(measured: Iterable[Measurement | Drift], record: TrainingRecord | None) -> list[str]:
    """BibTeX of the defence, for a model that was hardened, and of each attack that is known by its name."""
    attacks = [each.settings.get("attack", each.attack).removesuffix(ADAPTIVE) for each in measured]
    found = [ATTACKS[name].citation for name in attacks if name in ATTACKS]
    if is_hardened(record):
        found = [record.defence["citation"], *found]
    return bibliography(found)


def bibliography(found: Iterable[str | None]) -> list[str]:
    """BibTeX entries, each once; of texts that hold one or several, or none."""
    return list(dict.fromkeys(entry for text in found if text for entry in text.split("\n\n")))


def python(value) -> str:
    """A Python literal, in double quotes where it has none."""
    text = repr(value)
    return f'"{text[1:-1]}"' if text.startswith("'") and '"' not in text else text


def shell(value) -> str:
    """One word of a shell command."""
    return shlex.quote(one_line(value))
