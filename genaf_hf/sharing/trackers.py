"""Experiment trackers: Weights & Biases, TensorBoard, and what else `report_to` names."""

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.sharing.record import TrainingRecord


def track_results(report: RobustnessReport, record: TrainingRecord, args: TrainingArguments) -> None:
    """Tells trackers the accuracies of a report's last model, clean and under each attack, as a Trainer tells its logs.

    Args:
        report: what was measured.
        record: how the model was trained; the accuracies are of the step at its end.
        args: of the training, which name the trackers.
    """
    found = {f"test_{each.attack}": each.accuracy.value for each in report.of(report.subject)}
    state = TrainerState(global_step=sum(stage["steps"] for stage in record.stages.values()))
    for tracker in [kind() for kind in get_reporting_integration_callbacks(args.report_to)]:
        tracker.on_train_begin(args, state, TrainerControl())
        tracker.on_log(args, state, TrainerControl(), logs=found)
        tracker.on_train_end(args, state, TrainerControl())
