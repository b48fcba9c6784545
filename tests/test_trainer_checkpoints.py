"""Which weights a training keeps, and what stops it."""

import math
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from recorder import Recorder, changed
from train_tiny import copied_weights, tiny_model, tiny_trainer
from transformers import TrainerCallback

from genaf_hf.errors import UserError
from genaf_hf.training.checkpoint import load_weights, newest_complete_checkpoint

pytestmark = pytest.mark.slow(reason="trains")


@pytest.mark.parametrize("metric", ["score", "robust_accuracy"])
def test_best_model_is_loaded_at_the_end(tmp_path, metric):
    scores = iter([0.1, 0.9, 0.2])
    settings = {
        "max_steps": 6,
        "learning_rate": 1e-2,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "compute_metrics": lambda prediction: {"score": next(scores)},
    }
    trainer = tiny_trainer(tmp_path, **settings)
    trainer.adversarial_finetune()
    best = Path(trainer.state.best_model_checkpoint)
    measured = {log["step"]: log[f"eval_{metric}"] for log in trainer.state.log_history if f"eval_{metric}" in log}
    assert best.name == f"checkpoint-{max(measured, key=measured.get)}"
    saved = type(trainer.model).from_pretrained(best)
    torch.testing.assert_close(copied_weights(trainer.model), copied_weights(saved), rtol=0, atol=0)
    for other in {"checkpoint-2", "checkpoint-4", "checkpoint-6"} - {best.name}:
        weights = copied_weights(type(trainer.model).from_pretrained(best.with_name(other)))
        assert changed(weights, copied_weights(trainer.model)) == weights.keys()

    finished = tiny_trainer(tmp_path, **settings)
    finished.adversarial_finetune(resume_from_checkpoint=best.with_name("checkpoint-6"))
    torch.testing.assert_close(copied_weights(finished.model), copied_weights(saved), rtol=0, atol=0)


def test_best_weights_of_evaluations_without_a_checkpoint_are_kept_and_survive_a_kill(tmp_path):
    scores = {2: 0.1, 4: 0.9, 6: 0.2}
    settings = {"max_steps": 6, "learning_rate": 1e-2, "eval_strategy": "steps", "eval_steps": 2}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "score", "save_total_limit": 1}

    def train(folder, resume=None, save_steps=5):
        trainer = tiny_trainer(
            folder,
            save_strategy="steps",
            save_steps=save_steps,
            compute_metrics=lambda prediction: {"score": scores[trainer.state.global_step]},
            **settings,
        )
        trainer.adversarial_finetune(resume)
        return trainer

    trainer = train(tmp_path / "whole")
    best = tmp_path / "whole/adversarial_finetune/best-4"
    assert trainer.state.best_model_checkpoint == str(best)
    weights = copied_weights(trainer.model)
    assert changed(weights, copied_weights(train(tmp_path / "each", save_steps=2).model)) == set()
    assert sorted(path.name for path in best.parent.iterdir()) == ["best-4", "checkpoint-5", "checkpoint-6"]

    resumed = train(tmp_path / "whole", best.with_name("checkpoint-5"))
    assert changed(weights, copied_weights(resumed.model)) == set()


def test_best_is_the_most_robust_one_and_of_the_undefended_baseline_the_most_accurate_one(tmp_path):
    settings = {"eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer = tiny_trainer(tmp_path, **settings)
    for stage, metric in (("standard_finetune", "clean"), ("adversarial_finetune", "robust")):
        getattr(trainer, stage)()
        evaluations = [log for log in trainer.state.log_history if "eval_loss" in log]
        measured = [log[f"eval_{metric}_accuracy"] for log in evaluations]
        assert {"eval_robust_accuracy" in log for log in evaluations} == {metric == "robust"}  # which is of the defence
        assert trainer.state.best_metric == max(measured)
    with pytest.raises(UserError, match='load_best_model_at_end is True but eval_strategy is "no"'):
        tiny_trainer(tmp_path, load_best_model_at_end=True)


def test_a_model_with_one_answer_is_said_to_have_collapsed(tmp_path, caplog):
    trainer = tiny_trainer(tmp_path, learning_rate=1e-2, max_steps=20)
    trainer.standard_finetune()
    assert trainer.evaluate()["eval_clean_accuracy"] > 0.8
    assert "collapsed" not in caplog.text
    trainer.model.classifier.bias.data[1] = 100.0
    accuracy = trainer.evaluate()["eval_clean_accuracy"]
    right = f"{100 * accuracy:.0f}%"
    assert f'The model has collapsed: it answers "green" to 100% of the images, and {right} are right' in caplog.text


def test_a_regularization_that_drowns_the_cross_entropy_is_said(tmp_path, caplog):
    settings = {"genetic_weight": 1e5, "logging_steps": 1, "max_steps": 1}
    tiny_trainer(tmp_path, **settings).adversarial_finetune()
    assert "drowns" not in caplog.text
    tiny_trainer(tmp_path, genetic_share=math.inf, **settings).adversarial_finetune()
    assert "drowns" in caplog.text


@pytest.mark.parametrize(
    ("images", "epochs", "without_labels"), [(22, 334, 200), (2664, 4, 2), (2665, 3, 2), (4800, 3, 1)]
)
def test_few_images_are_seen_often_enough(tmp_path, images, epochs, without_labels):
    trainer = tiny_trainer(tmp_path, images=images, max_steps=-1)
    with trainer._stage("adversarial_finetune"):
        assert trainer.args.num_train_epochs == epochs
        assert trainer.args.logging_steps == min(500, math.ceil(images / 8))
    unlabelled = tiny_trainer(tmp_path, images=images, max_steps=-1, defence="anchor")
    with unlabelled._stage("adversarial_finetune"):
        assert unlabelled.args.num_train_epochs == without_labels
    named = tiny_trainer(tmp_path, images=images, max_steps=-1, num_train_epochs=2)
    with named._stage("adversarial_finetune"):
        assert named.args.num_train_epochs == 2


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_checkpoints_of_the_stages_lie_apart_with_the_last_step_and_the_processor(tmp_path, strategy):
    tiny_trainer(tmp_path, save_strategy=strategy, save_steps=3).train()
    for stage in ("adversarial_finetune", "adapt"):
        assert sorted(path.name for path in (tmp_path / stage).iterdir()) == ["checkpoint-3", "checkpoint-5"]
        assert (tmp_path / stage / "checkpoint-5/preprocessor_config.json").exists()


class Poison(TrainerCallback):
    """Makes one weight NaN before a step, or after it."""

    def __init__(self, event: str, step: int):
        setattr(self, event, self.poison)
        self.step = step

    def poison(self, args, state, control, model, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                next(model.parameters()).view(-1)[0] = torch.nan


@pytest.mark.parametrize(
    ("event", "step", "message"),
    [
        (
            "on_step_begin",
            3,
            "loss is not finite at step 3 of the stage adversarial_finetune.*resume from .*checkpoint-2",
        ),
        (
            "on_step_begin",
            0,
            "loss is not finite at step 0 of the stage adversarial_finetune.*begin anew in another output_dir.$",
        ),
        ("on_step_end", 4, "is not finite after step 4, nothing was saved.*resume from .*checkpoint-2"),
    ],
)
def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, event, step, message):
    callbacks = [Poison(event, step)]
    trainer = tiny_trainer(tmp_path, save_strategy="steps", save_steps=2, callbacks=callbacks)
    with pytest.raises(UserError, match=message):
        trainer.train()
    checkpoint = newest_complete_checkpoint(tmp_path / "adversarial_finetune")
    if step == 0:
        assert checkpoint is None
        return
    assert checkpoint.name == "checkpoint-2"
    model = tiny_model()
    load_weights(model, checkpoint)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    trainer = tiny_trainer(tmp_path, save_strategy="steps", save_steps=2)
    assert trainer.train(resume_from_checkpoint=True).global_step == 10


def test_full_disk_is_refused_before_any_step(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30, 2**10))
    recorder = Recorder()
    trainer = tiny_trainer(tmp_path, save_strategy="steps", callbacks=[recorder])
    sentence = r"has 0 MiB free, one checkpoint needs about \d+ MiB: free some space or choose another output_dir\."
    with pytest.raises(UserError, match=sentence):
        trainer.train()
    assert recorder.events == []
    assert list(tmp_path.iterdir()) == []
