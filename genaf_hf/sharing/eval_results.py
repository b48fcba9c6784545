"""A report's accuracies as the Hub's metadata, from which model pages and leaderboards read them."""

from huggingface_hub import EvalResult

from genaf_hf.evaluation.measurement import CLEAN, PUBLIC_ENCODER, Measurement, WorstCase
from genaf_hf.evaluation.report import ANY_KNOWLEDGE, RobustnessReport
from genaf_hf.sharing.hub_metadata import dataset_type
from genaf_hf.sharing.layout import REPORT

TASK = "image-classification"
CLEAN_METRIC, ROBUST_METRIC = "accuracy", "robust_accuracy"
UNNAMED = "images without a name"


def dataset_name(report: RobustnessReport) -> str:
    """Of the images that were measured on."""
    name = report.dataset.get("name") or ""
    return name if name.strip() else UNNAMED


def eval_results(report: RobustnessReport, model: str, *, report_path: str = REPORT) -> list[EvalResult]:
    """One result per attack on one model, for the `model-index` of its card; none where no image was measured.

    After several attacks comes what all of them leave when each image meets the worst of them, `every attack`.

    The value is an accuracy in [0, 1]. `metric_args` holds what the accuracy means nothing without: `attack`,
    `knowledge` of the attacker, `norm`, `eps` in pixel units, a patch's `area`, `steps`, `seed`, `surrogate` and its
    revision; how many of the images that others had left `standing` were `attacked`, if not all; `correct` and `count`
    images, the 95 % Wilson `interval`, whether the number is `reliable`; the model's class, and path and SHA-256 of the
    report; `worst` where no other attack of attackers who know the same leaves less.

    Args:
        report: what was measured.
        model: its name in the report.
        report_path: where the report lies in the model's repository.
    """
    dataset = report.dataset
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset_type(dataset_name(report)),
            dataset_name=dataset_name(report),
            dataset_config=dataset.get("config") or None,
            dataset_split=dataset.get("split") or None,
            dataset_revision=dataset.get("revision") or None,
            metric_type=CLEAN_METRIC if each.attack == CLEAN else ROBUST_METRIC,
            metric_name="clean accuracy" if each.attack == CLEAN else f"robust accuracy under {each.attack}",
            metric_value=round(each.accuracy.value, 6),
            metric_args={
                **conditions(report, each),
                "model_class": report.models[model]["class"],
                "report": report_path,
                "report_sha256": report.sha256,
            },
        )
        for each in published(report)
        if each.model == model and each.count
    ]


def published(report: RobustnessReport) -> list[Measurement | WorstCase]:
    """What a report found of its models, and what all attacks on each leave where there are several."""
    several = (model for model in report.models if len(report.attacked(model)) > 1)
    return [*report.measurements, *filter(None, map(report.worst_case, several))]


def conditions(report: RobustnessReport, measurement: Measurement | WorstCase) -> dict:
    """What an accuracy was measured under, and how sure it is, in plain values."""
    known = measurement.settings
    least_tried = report.least_tried(measurement)
    tried = least_tried.settings if least_tried else {}
    low, high = measurement.accuracy.interval
    on_encoder = measurement.knowledge == PUBLIC_ENCODER
    found = {
        "attack": measurement.attack,
        "knowledge": measurement.knowledge or ANY_KNOWLEDGE,
        "norm": known.get("norm"),
        "eps": known.get("eps"),
        "area": known.get("area"),
        "steps": known.get("steps"),
        "standing": tried.get("standing"),
        "attacked": tried.get("attacked"),
        "seed": known.get("seed", report.seed),
        "surrogate": known.get("encoder") if on_encoder else None,
        "surrogate_revision": known.get("encoder_revision") if on_encoder else None,
        "correct": measurement.correct,
        "count": measurement.count,
        "interval": [round(low, 6), round(high, 6)],
        "reliable": report.is_reliable(measurement),
        "worst": report.is_worst(measurement) or None,
    }
    return {name: value for name, value in found.items() if value is not None}
