"""A report and a training record for the tests of cards, the card of them, and what stands in it."""

from dataclasses import replace

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from genaf_hf.evaluation.measurement import Check, Measurement
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.sharing.model_card import model_card
from genaf_hf.sharing.record import TrainingRecord
from genaf_hf.training.defences import DEFENCES

ENCODER, IMAGES = "a" * 40, "b" * 40
L4A = {
    "attack": "l4a",
    "norm": "linf",
    "eps": 10 / 255,
    "steps": 50,
    "seed": 7,
    "encoder": "someone/encoder",
    "encoder_revision": ENCODER,
    "data": "48 images of someone/colours, split train, without labels",
}
PGD = {"attack": "pgd", "norm": "linf", "eps": 8 / 255, "steps": 20}
RIGHT = {"undefended": (9, 2, 1, 0), "hardened": (8, 7, 6, 5)}  # of 10, in the order of the attacks


def measurements(model: str, right: tuple[int, ...]) -> list[Measurement]:
    attacks = [
        ("clean", "nothing", {}),
        ("l4a", "public encoder", L4A),
        ("l4a-adaptive", "model", {**L4A, "encoder": model, "encoder_revision": None}),
        ("pgd", "model", PGD),
    ]
    return [
        Measurement(model, *attack, correct, 10, right[0], fooled=right[0] - correct, changed=right[0] - correct)
        for attack, correct in zip(attacks, right, strict=True)
    ]


def make_report(*models: str, **changes) -> RobustnessReport:
    """Of both models, or of those that are named, changed by keyword."""
    models = models or tuple(RIGHT)
    report = RobustnessReport(
        dataset={"name": "someone/colours", "config": None, "revision": IMAGES, "split": "test", "count": 10},
        models={name: {"class": "ViTForImageClassification", "parameters": 7, "classes": 3} for name in models},
        measurements=[each for name in models for each in measurements(name, RIGHT[name])],
        checks=[Check(name, "gradients are not zero", True, {"images without a gradient": 0}) for name in models],
        seed=3,
        environment={"torch": "2", "hardware": "CPU"},
    )
    return replace(report, **changes)


def make_record(**changes) -> TrainingRecord:
    """Of a run of Gen-AF's two stages, changed by keyword."""
    given = {
        "base_model": {"name": "someone/encoder", "revision": ENCODER, "license": "mit"},
        "data": {
            "name": "someone/colours",
            "config": None,
            "revision": IMAGES,
            "splits": {"train": 48, "validation": 12, "test": 10},
            "class_names": ["red", "green", "blue"],
            "class_counts": {"train": [20, 16, 12], "validation": [4, 4, 4], "test": [10, 0, 0]},
        },
        "hyperparameters": {"eps": 0.1, "steps": 2, "step_size": 0.125},
        "history": [
            {"stage": "adversarial_finetune", "step": 1, "epoch": 0.5, "loss": 2.0, "adversarial_loss": 1.0},
            {"stage": "adversarial_finetune", "step": 2, "epoch": 1.0, "eval_robust_accuracy": 0.5},
            {"stage": "adversarial_finetune", "step": 2, "epoch": 1.0, "train_runtime": 61.6},
            {"stage": "adapt", "step": 1, "epoch": 0.25, "loss": 1.0},
        ],
        "defence": DEFENCES["gen-af"].configure(eps=0.1, steps=2).record(),
        "command": "genaf-hf harden --eps 0.1",
    }
    return TrainingRecord(**{**given, **changes})


def card_of(*models: str, record=None, pictures=(), **changes) -> ModelCard:
    return model_card(make_report(*models, **changes), record, model_name="someone/hardened", pictures=pictures)


def text_of(*models: str, **changes) -> str:
    return card_of(*models, **changes).text


def blocks(text: str, language: str) -> list[str]:
    """Code of one language, as a parser of Markdown sees it."""
    return [each.content for each in MarkdownIt().parse(text) if each.type == "fence" and each.info == language]
