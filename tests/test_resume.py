"""Runs that are killed with SIGKILL end, once resumed, with the weights of a run that was not."""

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from train_tiny import copied_weights, tensors, tiny_model, tiny_trainer
from transformers import EarlyStoppingCallback, TrainerCallback

from genaf_hf.errors import UserError
from genaf_hf.sharing.record import ADAPT, LINEAR_PROBE
from genaf_hf.training.checkpoint import load_weights, newest_complete_checkpoint
from genaf_hf.training.trainer import STAGES

pytestmark = pytest.mark.slow(reason="trains")

PLAIN = {"dropout": 0.1, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3}
ACCUMULATED = {**PLAIN, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
SETTINGS = {"plain": PLAIN, "accumulated": ACCUMULATED}
# Where a run is killed, and its newest complete checkpoint then. A stage has five steps, an epoch three.
KILLS = {
    "stage_1": ("adversarial_finetune", "on_step_end", 3, "plain", "adversarial_finetune/checkpoint-2"),
    "stage_1_accumulated": (
        "adversarial_finetune",
        "on_step_end",
        5,
        "accumulated",
        "adversarial_finetune/checkpoint-4",
    ),
    "stage_1_saving": ("adversarial_finetune", "while_saving", 4, "plain", "adversarial_finetune/checkpoint-2"),
    "stage_1_finished": ("adversarial_finetune", "on_train_end", 5, "plain", "adversarial_finetune/checkpoint-5"),
    "stage_2_unsaved": ("adapt", "on_step_end", 1, "plain", "adversarial_finetune/checkpoint-5"),
    "stage_2_accumulated": ("adapt", "on_step_end", 3, "accumulated", "adapt/checkpoint-2"),
    "stage_2_saving": ("adapt", "while_saving", 4, "plain", "adapt/checkpoint-2"),
    "stage_2_finished": ("adapt", "on_train_end", 5, "plain", "adapt/checkpoint-5"),
}


@pytest.fixture(scope="module")
def killed(processes, tmp_path_factory) -> dict[str, Path]:
    """Output folders of the killed runs."""
    folders = {name: tmp_path_factory.mktemp(name) for name in KILLS}
    jobs = [
        {"folder": str(folders[name]), "kill": kill, "settings": SETTINGS[settings]}
        for name, (*kill, settings, _) in KILLS.items()
    ]
    script = Path(__file__).with_name("train_tiny.py")
    run = processes.run([sys.executable, script, json.dumps(jobs)])
    ended_by = [line for line in run.stdout.splitlines() if line.isdigit()]
    assert ended_by == [str(int(signal.SIGKILL))] * len(jobs), run.stderr
    return folders


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    """Final weights and training logs of whole runs by the name of their settings."""
    results = {}
    for name, settings in SETTINGS.items():
        trainer = tiny_trainer(tmp_path_factory.mktemp(name), **settings)
        trainer.train()
        results[name] = copied_weights(trainer.model), history(trainer)
    return results


TIMES = ("runtime", "samples_per_second", "steps_per_second")


def history(trainer) -> list[dict]:
    """Everything that was logged, but how long it took."""
    return [{k: v for k, v in log.items() if not k.endswith(TIMES)} for log in trainer.state.log_history]


@pytest.mark.parametrize("name", KILLS)
def test_killed_run_resumes_to_the_bit(killed, uninterrupted, name):
    stage, event, _, settings, resumes_from = KILLS[name]
    checkpoint = killed[name] / resumes_from
    assert newest_complete_checkpoint(checkpoint.parent) == checkpoint
    assert (killed[name] / stage / "checkpoint-4/model.safetensors").exists() == (
        event in ("while_saving", "on_train_end") or "checkpoint-4" in resumes_from
    )

    trainer = tiny_trainer(killed[name], **SETTINGS[settings])
    output = trainer.train(resume_from_checkpoint=True)

    weights, logged = uninterrupted[settings]
    torch.testing.assert_close(copied_weights(trainer.model), weights, rtol=0, atol=0)
    assert history(trainer) == logged
    assert trainer.state.global_step == 5
    assert output.global_step == (10 if resumes_from.startswith("adversarial_finetune") else 5)


def test_run_resumes_from_a_named_checkpoint(killed, uninterrupted, tmp_path):
    shutil.copytree(killed["stage_2_finished"], tmp_path / "run")
    trainer = tiny_trainer(tmp_path / "run", **PLAIN)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run/adversarial_finetune/checkpoint-4"))
    torch.testing.assert_close(copied_weights(trainer.model), uninterrupted["plain"][0], rtol=0, atol=0)


def test_a_training_that_came_to_its_end_is_not_taken_for_a_longer_one(killed, tmp_path):
    shutil.copytree(killed["stage_2_finished"], tmp_path / "run")
    (tmp_path / "run/adapt/checkpoint-5/log_history.json").write_text("[]")  # killed just before it was written
    for longer in ({"max_steps": 7}, {"adapt_max_steps": 7}):
        trainer = tiny_trainer(tmp_path / "run", **PLAIN, **longer)
        with pytest.raises(UserError, match=r"checkpoint-5 is of a training of 5 steps, but one of 7 is asked"):
            trainer.train(resume_from_checkpoint=True)


OFTEN = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 8, "metric_for_best_model": "clean_accuracy"}
LAST_UNSAVED = {
    "the best alone": {"save_strategy": "best"},
    "one": {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1},
    "out of patience": {"save_strategy": "steps", "save_steps": 5, "patience": 2},
    "out of patience, the best": {"save_strategy": "steps", "save_steps": 5, "patience": 2, "best": True},
}


@pytest.mark.parametrize("settings", LAST_UNSAVED.values(), ids=LAST_UNSAVED)
def test_a_training_that_came_to_its_end_is_loaded_as_it_ended(tmp_path, settings):
    settings = {"defence": "pgd-at", **OFTEN, **settings}
    patience, best = settings.pop("patience", None), settings.pop("best", False)

    def trainer():
        callbacks = [EarlyStoppingCallback(patience)] if patience else []
        return tiny_trainer(tmp_path, callbacks=callbacks, load_best_model_at_end=best, **settings)

    whole = trainer()
    whole.adversarial_finetune()
    again = trainer()
    again.adversarial_finetune(resume_from_checkpoint=True)
    torch.testing.assert_close(copied_weights(again.model), copied_weights(whole.model), rtol=0, atol=0)
    assert again.state.global_step == whole.state.global_step
    assert history(again) == history(whole)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_shorter_training_than_the_one_that_is_gone_on_with_is_refused(killed, tmp_path, steps):
    shutil.copytree(killed["stage_1"] / "adversarial_finetune/checkpoint-2", tmp_path / "checkpoint-2")
    trainer = tiny_trainer(tmp_path / "run", **{**PLAIN, "max_steps": steps})
    with pytest.raises(UserError, match=f"of a training of 5 steps, but one of {steps} is asked for"):
        trainer.adversarial_finetune(resume_from_checkpoint=tmp_path / "checkpoint-2")


def test_the_best_weights_are_kept_once(tmp_path):
    trainer = tiny_trainer(tmp_path, load_best_model_at_end=True, save_strategy="best", save_total_limit=2, **OFTEN)
    trainer.standard_finetune()
    assert not [*tmp_path.rglob("best-*")]


class Stream(torch.utils.data.IterableDataset):
    """Rows without a length."""

    def __iter__(self):
        yield from tensors(22, 0, torch.float32)


def test_a_stream_of_several_passes_is_not_promised_to_go_on_to_the_bit(tmp_path, caplog):
    settings = {"adapt_max_steps": -1, "adapt_epochs": 0, "defence": "pgd-at", "save_strategy": "steps"}

    def trainer(**changes):
        made = tiny_trainer(tmp_path, **settings, save_steps=1, **changes)
        made.train_dataset = Stream()
        return made

    with pytest.raises(KeyboardInterrupt):
        trainer(callbacks=[Interrupts()]).train()
    assert "has no length" not in caplog.text
    trainer().train(resume_from_checkpoint=True)
    assert "train_dataset has no length: a training that goes on after its first pass" in caplog.text


class Interrupts(TrainerCallback):
    """Stops a training in its third step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


class Minds(TrainerCallback):
    """Has a training saved and stopped after its third step, as where the time that it was given is over."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_training_stop = state.global_step == 3


def test_a_run_that_a_callback_stopped_goes_on(uninterrupted, tmp_path, caplog):
    tiny_trainer(tmp_path, callbacks=[Minds()], **PLAIN).train()
    told = f"stopped at step 3 of 5: a resumed one goes on from {tmp_path}/adversarial_finetune/checkpoint-3"
    assert told in caplog.text
    assert not (tmp_path / ADAPT).exists()
    resumed = tiny_trainer(tmp_path, model=zeroed_model(), **PLAIN)
    resumed.train(resume_from_checkpoint=True)
    torch.testing.assert_close(copied_weights(resumed.model), uninterrupted["plain"][0], rtol=0, atol=0)


def test_a_run_that_goes_on_has_the_patience_that_was_left(tmp_path):
    settings = {**PLAIN, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 8}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "clean_accuracy"}
    settings |= {"learning_rate": 1e-9, "head_learning_rate": 1e-9}  # of the same accuracy all the time
    whole = tiny_trainer(tmp_path / "whole", callbacks=[EarlyStoppingCallback(4)], **settings)
    whole.standard_finetune()
    assert whole.state.global_step == 5
    begun = tiny_trainer(tmp_path / "begun", callbacks=[Interrupts(), EarlyStoppingCallback(4)], **settings)
    with pytest.raises(KeyboardInterrupt):
        begun.standard_finetune()
    resumed = tiny_trainer(tmp_path / "begun", callbacks=[EarlyStoppingCallback(4)], **settings)
    resumed.standard_finetune(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5


def test_a_run_whose_folder_was_moved_goes_on_with_its_best_weights(tmp_path):
    settings = {
        **PLAIN,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "clean_accuracy",
        "learning_rate": 1e-6,
        "head_learning_rate": 1e-6,
    }
    whole = tiny_trainer(tmp_path / "whole", **settings)  # of the same accuracy all the time: the first ones are best
    whole.standard_finetune()
    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tmp_path / "begun", callbacks=[Interrupts()], **settings).standard_finetune()
    (tmp_path / "begun").rename(tmp_path / "moved")
    moved = tiny_trainer(tmp_path / "moved", **settings)
    moved.standard_finetune(resume_from_checkpoint=True)
    assert moved.state.best_model_checkpoint == str(tmp_path / "moved/standard_finetune/best-1")
    torch.testing.assert_close(copied_weights(moved.model), copied_weights(whole.model), rtol=0, atol=0)


def test_another_seed_trains_otherwise(uninterrupted, tmp_path):
    trainer = tiny_trainer(tmp_path, seed=20_250_101, **PLAIN)
    trainer.train()
    assert history(trainer) != uninterrupted["plain"][1]


def zeroed_model():
    """One that tells nothing of the weights that a run began with."""
    model = tiny_model(dropout=PLAIN["dropout"])
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


ALONE = [stage for stage in STAGES if stage != LINEAR_PROBE]  # which only train() does


@pytest.mark.parametrize("stage", ALONE)
def test_stage_called_alone_resumes_from_its_own_newest_complete_checkpoint(tmp_path, stage):
    chosen = {ADAPT: {"redundant_layers": ["classifier.weight", "vit.layers.0.mlp.fc1.weight"]}}
    trainer = tiny_trainer(tmp_path, **PLAIN)
    getattr(trainer, stage)(**chosen.get(stage, {}))
    expected, logged = copied_weights(trainer.model), history(trainer)
    for other in set(ALONE) - {stage}:  # which leave newer ones
        getattr(trainer, other)(**chosen.get(other, {}))
    (tmp_path / stage / "checkpoint-5/trainer_state.json").unlink()

    resumed = tiny_trainer(tmp_path, model=zeroed_model(), **PLAIN)
    getattr(resumed, stage)(**chosen.get(stage, {}), resume_from_checkpoint=True)
    torch.testing.assert_close(copied_weights(resumed.model), expected, rtol=0, atol=0)
    assert history(resumed) == logged


def test_a_linear_probe_resumes_from_its_own_newest_complete_checkpoint(tmp_path):
    settings = {**PLAIN, "defence": "linear-probe", "adapt_max_steps": -1}
    trainer = tiny_trainer(tmp_path, **settings)
    trainer.train()
    (tmp_path / LINEAR_PROBE / "checkpoint-5/trainer_state.json").unlink()
    resumed = tiny_trainer(tmp_path, model=zeroed_model(), **settings)
    resumed.train(resume_from_checkpoint=True)
    torch.testing.assert_close(copied_weights(resumed.model), copied_weights(trainer.model), rtol=0, atol=0)
    assert history(resumed) == history(trainer)


def test_each_stage_in_float16_begins_with_the_same_scale(tmp_path):
    """A scaler of the CPU stands for CUDA's, whose steps are left out where gradients are beyond float16."""

    class Killed(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            if Path(args.output_dir).name == ADAPT:
                raise KeyboardInterrupt

    def trainer(folder, **settings):
        trainer = tiny_trainer(
            folder, **PLAIN, max_steps=14, adapt_max_steps=10, max_grad_norm=0, redundant_share=1.0, **settings
        )
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**19)
        for parameter in trainer.model.parameters():
            parameter.register_hook(lambda gradient: gradient.where(gradient.abs() <= 65504, torch.inf))
        return trainer

    whole = trainer(tmp_path / "whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "killed", callbacks=[Killed()]).train()
    again = trainer(tmp_path / "killed")
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(copied_weights(again.model), copied_weights(whole.model), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["train", "standard_finetune", "adversarial_finetune"])
def test_nothing_to_resume_from_is_refused(tmp_path, method):
    with pytest.raises(ValueError, match=r"There is no complete checkpoint of 1 process.* in .*start without resuming"):
        getattr(tiny_trainer(tmp_path, **PLAIN), method)(resume_from_checkpoint=True)


def test_stage_2_does_not_resume_from_stage_1(killed, tmp_path):
    shutil.copytree(killed["stage_1_finished"] / "adversarial_finetune", tmp_path / "adversarial_finetune")
    with pytest.raises(ValueError, match=r"There is no complete checkpoint of 1 process.* in .*adapt; start without"):
        tiny_trainer(tmp_path, **PLAIN).adapt(["classifier.weight"], resume_from_checkpoint=True)


def test_a_named_checkpoint_of_another_stage_is_refused(killed, tmp_path):
    shutil.copytree(killed["stage_2_finished"], tmp_path / "run")
    stage_1, stage_2 = (tmp_path / "run" / stage / "checkpoint-5" for stage in ("adversarial_finetune", "adapt"))
    trainer = tiny_trainer(tmp_path / "run", **PLAIN)
    for stage, checkpoint in (("standard_finetune", stage_1), ("adversarial_finetune", stage_2), (ADAPT, stage_1)):
        chosen = {"redundant_layers": ["classifier.weight"]} if stage == ADAPT else {}
        with pytest.raises(UserError, match=f"is of the stage {checkpoint.parent.name}, expected one of {stage}"):
            getattr(trainer, stage)(**chosen, resume_from_checkpoint=checkpoint)


def test_named_checkpoint_that_is_half_written_is_refused(killed, tmp_path):
    folder = tmp_path / "adapt/checkpoint-5"
    shutil.copytree(killed["stage_2_finished"] / "adapt/checkpoint-5", folder)
    (folder / "trainer_state.json").write_text('{"best_global_step": null, "epo')
    with pytest.raises(ValueError, match="checkpoint-5 is no complete checkpoint; resume_from_checkpoint=True finds"):
        tiny_trainer(tmp_path, **PLAIN).train(resume_from_checkpoint=str(folder))


def written_checkpoint(folder: Path) -> Path:
    """A checkpoint as the Trainer leaves it, of one weight."""
    folder.mkdir()
    save_file({"weight": torch.zeros(3)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, folder / name)
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_half_written_checkpoints_are_not_the_newest(tmp_path):
    written_checkpoint(tmp_path / "checkpoint-2")
    (written_checkpoint(tmp_path / "checkpoint-10") / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert newest_complete_checkpoint(tmp_path, world_size=2) is None
    (tmp_path / "checkpoint-10/trainer_state.json").write_text('{"global')
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    (tmp_path / "checkpoint-10/trainer_state.json").write_text("{}")
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_with_a_file_that_is_cut_off_is_passed_over_and_named(tmp_path, caplog, name):
    older, newer = (written_checkpoint(tmp_path / f"checkpoint-{step}") for step in (2, 4))
    whole = (newer / name).read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        (newer / name).write_bytes(content)
        assert newest_complete_checkpoint(tmp_path) == older
        assert f"checkpoint-4 is passed over: {name} is missing or cut off" in caplog.text
        with pytest.raises(UserError, match=rf"checkpoint-4 is no complete checkpoint.*its {name} is missing or cut"):
            tiny_trainer(tmp_path / "run").adversarial_finetune(resume_from_checkpoint=newer)
    (newer / name).unlink()
    assert newest_complete_checkpoint(tmp_path) == older


def test_every_weight_is_loaded(tmp_path):
    model = tiny_model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    loaded = tiny_model()
    load_weights(loaded, tmp_path)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_weights_that_do_not_fit_are_refused(tmp_path, resnet):
    resnet[0].save_pretrained(tmp_path / "resnet")
    tiny_model().save_pretrained(tmp_path / "broken")
    (tmp_path / "broken/model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"resnet does not fit the model: .*missing_keys"):
        load_weights(tiny_model(), tmp_path / "resnet")
    for name in ("broken", "nowhere"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            load_weights(tiny_model(), tmp_path / name)
