import pytest
from cards import make_record, make_report
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import integration_utils

from genaf_hf.pipelines.hardening import copy_results
from genaf_hf.runs.run import Run
from genaf_hf.sharing.trackers import track_results

FOUND = {"test_clean": 0.8, "test_l4a": 0.7, "test_l4a-adaptive": 0.6, "test_pgd": 0.5}


@pytest.fixture
def tracked(monkeypatch) -> list:
    """What a tracker by the name of "recorder" is told: events, and logs with their steps."""
    told = []

    class Recorder(TrainerCallback):
        def on_train_begin(self, args, state, control, **given):
            told.append(("begin", args.run_name))

        def on_log(self, args, state, control, logs, **given):
            told.append((state.global_step, logs))

        def on_train_end(self, args, state, control, **given):
            told.append("end")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    return told


def config(tmp_path, report_to: str) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "run"), run_name="mine", report_to=report_to, use_cpu=True)


def test_trackers_are_told_the_accuracies_of_the_hardened_model(tracked, tmp_path):
    track_results(make_report(), make_record(), config(tmp_path, "recorder"))
    assert tracked == [("begin", "mine"), (3, FOUND), "end"]


def test_nobody_is_told_where_nobody_was_named(tracked, tmp_path):
    track_results(make_report(), make_record(), config(tmp_path, "none"))
    assert tracked == []
    assert not (tmp_path / "run").exists()


def test_what_tensorboard_wrote_of_each_stage_lies_beside_the_result(tmp_path):
    run = Run(tmp_path / "out", {})
    stages = ("adversarial_finetune", "undefended/standard_finetune")
    for stage in stages:
        (run.unfinished / stage / "runs/today").mkdir(parents=True)
        (run.unfinished / stage / "runs/today/events").write_text(stage)
    copy_results(run)
    assert [(run.folder / "runs" / stage / "today/events").read_text() for stage in stages] == [*stages]
