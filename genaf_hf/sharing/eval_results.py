"""A report's accuracies as the Hub's metadata, from which model pages and leaderboards read them."""

from collections.abc import Mapping, Sequence

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from genaf_hf.errors import UserError
from genaf_hf.evaluation.report import CLEAN, Measurement, RobustnessReport, eps_text
from genaf_hf.sharing.hub_metadata import dataset_type, dump

TASK = "image-classification"
CLEAN_METRIC, ROBUST_METRIC = "accuracy", "robust_accuracy"
REPORT_FILE = "report.json"
UNNAMED = "images without a name"


def dataset_name(report: RobustnessReport) -> str:
    """Of the images that were measured on."""
    name = report.dataset.get("name") or ""
    return name if name.strip() else UNNAMED


def eval_results(report: RobustnessReport, model: str, *, report_path: str = REPORT_FILE) -> list[EvalResult]:
    """One result per attack on one model, for the `model-index` of its card; none where no image was measured.

    The value is an accuracy in [0, 1]. `metric_args` holds what the accuracy means nothing without: `attack`,
    `knowledge` of the attacker, `norm`, `eps` in pixel units, `steps`, `seed`, `surrogate` and its revision; `correct`
    and `count` images, the 95 % Wilson `interval`, whether the number is `reliable`; the model's class, and path and
    SHA-256 of the report.

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
        for each in report.measurements
        if each.model == model and each.count
    ]


def conditions(report: RobustnessReport, measurement: Measurement) -> dict:
    """What an accuracy was measured under, and how sure it is, in plain values."""
    known = measurement.settings
    low, high = measurement.accuracy.interval
    on_encoder = measurement.knowledge == "public encoder"
    found = {
        "attack": measurement.attack,
        "knowledge": measurement.knowledge,
        "norm": known.get("norm"),
        "eps": known.get("eps"),
        "steps": known.get("steps"),
        "seed": known.get("seed", report.seed),
        "surrogate": known.get("encoder") if on_encoder else None,
        "surrogate_revision": known.get("encoder_revision") if on_encoder else None,
        "correct": measurement.correct,
        "count": measurement.count,
        "interval": [round(low, 6), round(high, 6)],
        "reliable": report.is_reliable(measurement),
    }
    return {name: value for name, value in found.items() if value is not None}


def task_id(conditions: Mapping) -> str:
    """The task of a benchmark that an accuracy belongs to, e.g. `pgd-linf-8-255-20-steps`."""
    if conditions["attack"] == CLEAN:
        return CLEAN
    steps = f"-{conditions['steps']}-steps" if "steps" in conditions else ""
    eps = eps_text(conditions["eps"]).replace("/", "-")
    return f"{conditions['attack']}-{conditions['norm']}-{eps}{steps}"


def eval_results_yaml(results: Sequence[EvalResult], benchmark: str) -> str:
    """The content of a file in `.eval_results/`, by which accuracies reach model pages and a benchmark's leaderboard.

    Args:
        results: as `eval_results` gives them.
        benchmark: Hub id of the dataset that is the benchmark.
    """
    entries = [
        EvalResultEntry(
            dataset_id=benchmark,
            task_id=task_id(each.metric_args),
            value=each.metric_value,
            notes=notes(each.metric_args),
        )
        for each in results
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)


def notes(conditions: Mapping) -> str:
    """What the Hub shows beside an accuracy."""
    low, high = conditions["interval"]
    doubt = "" if conditions["reliable"] else "UNRELIABLE, a self-check failed; "
    return (
        f"{doubt}{conditions['correct']} of {conditions['count']} images, 95 % interval {low:.3f} to {high:.3f}; the "
        f"attacker knows: {conditions['knowledge']}; {conditions['report']}, SHA-256 {conditions['report_sha256']}"
    )


def benchmark_yaml(results: Sequence[EvalResult], existing: str = "") -> str:
    """The `eval.yaml` by which a dataset becomes a benchmark with these tasks, added to those it has.

    Args:
        results: as `eval_results` gives them.
        existing: the `eval.yaml` that is there.

    Raises:
        UserError: when that one is no list of tasks under a name.
    """
    first = results[0]
    try:
        known = yaml.safe_load(existing) or {}
        tasks = list(known.get("tasks") or [])
        named = {task["id"] for task in tasks}
    except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError("The benchmark's eval.yaml cannot be read, expected tasks with an id each.") from error
    new = [name for name in dict.fromkeys(task_id(each.metric_args) for each in results) if name not in named]
    if not new:
        return existing
    tasks += [{"id": name, "config": first.dataset_config or "default", "split": first.dataset_split} for name in new]
    about = {
        "name": f"Adversarial robustness on {first.dataset_name}",
        "description": "Accuracy in [0, 1] under the attack that a task names, with its norm, eps and steps; eps is in "
        "units of pixels in [0, 1].",
        "evaluation_framework": "genaf_hf",
    }
    return dump({**about, **known, "tasks": tasks})
