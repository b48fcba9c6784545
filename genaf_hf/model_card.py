"""The model card of a hardened model, rendered from its report."""

import html
import json
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from genaf_hf.report import CLEAN, RobustnessReport

TEMPLATE = Path(__file__).with_name("model_card_template.md")
CITATION = """@inproceedings{zhou2024genaf,
  title = {Securely Fine-tuning Pre-trained Encoders Against Adversarial Examples},
  author = {Zhou, Ziqi and Li, Minghui and Liu, Wei and Hu, Shengshan and Zhang, Yechao and Wan, Wei and Xue, Lulu and
            Zhang, Leo Yu and Yao, Dezhong and Jin, Hai},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2024}
}"""


def model_card(
    report: RobustnessReport, *, model_name: str, base_model: str | None = None, picture: str | None = None
) -> ModelCard:
    """The card of the last model of a report, set beside the others.

    Args:
        report: what was measured; nothing else is read.
        model_name: Hub id or folder name under which the model is loaded.
        base_model: Hub id of the public encoder, for the metadata.
        picture: file name of a picture beside the card.
    """
    data = ModelCardData(
        base_model=base_model,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["genaf", "adversarial-robustness"],
    )
    *references, subject = report.models
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=plain(model_name),
        quoted_name=json.dumps(model_name),
        surrogates=surrogates(report),
        verdict=verdict(report, subject, references),
        table=report.table(plain),
        checks=[f"{plain(check.model)}, {plain(check)}" for check in report.checks],
        unreliable=sorted({plain(check.model) for check in report.failed_checks}),
        picture=picture,
        dataset={name: plain(value) for name, value in report.dataset.items() if value is not None},
        environment={name: plain(value) for name, value in report.environment.items()},
        seed=report.seed,
        citation=CITATION,
    )


def verdict(report: RobustnessReport, subject: str, references: list[str]) -> str:
    """One sentence: what the hardened model keeps, clean and under each attack, beside the undefended one."""
    parts = []
    for attack in report.attacks:
        condition = "on clean images" if attack == CLEAN else f"under {plain(attack)}"
        found = [report.measurement(name, attack) for name in (subject, *references)]
        numbers = [
            f"{each.accuracy.value:.1%} ({plain(each.model)}{'' if report.is_reliable(each) else ', *unreliable*'})"
            for each in found
        ]
        parts.append(f"{' against '.join(numbers)} {condition}")
    return f"Accuracy is {'; '.join(parts)}."


def surrogates(report: RobustnessReport) -> list[str]:
    """What each perturbation on a public encoder was crafted on and with."""
    found = [report.measurement(next(iter(report.models)), attack) for attack in report.attacks]
    return [
        f"{plain(each.attack)} on {plain(each.settings['encoder'])} with {plain(each.settings['data'])}"
        for each in found
        if each.knowledge == "public encoder" and each.settings.get("encoder") and each.settings.get("data")
    ]


def plain(value) -> str:
    """Text that neither Markdown nor HTML reads as markup."""
    text = html.escape(" ".join(str(value).split()))
    return "".join(f"\\{character}" if character in "\\`*_[]|#" else character for character in text)
