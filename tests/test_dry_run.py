"""What a run would take, told without doing it."""

import gc
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genaf_hf import GenAFTrainer
from genaf_hf.attacks import UniversalPerturbation, register_attack
from genaf_hf.cli.main import main
from genaf_hf.errors import UserError
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.pipelines.dry_run import DryRun, Stage, dry_run
from genaf_hf.pipelines.harden import HardeningArguments


@pytest.fixture
def asked_for(dataset, encoders, config, tmp_path):
    """A function that gives the arguments of a hardening of colours, and its configuration."""
    dataset.save_to_disk(tmp_path / "colours")

    def asked_for(**changes):
        arguments = HardeningArguments(encoders["dino"], str(tmp_path / "colours"))
        return arguments, config(output_dir=str(tmp_path / "out"), per_device_train_batch_size=10, **changes)

    return asked_for


def test_images_and_steps_are_those_of_the_run_and_nothing_is_written(asked_for, dataset, tmp_path):
    def there() -> list[Path]:  # but for the cache of perturbations
        return sorted(path for path in tmp_path.rglob("*") if "perturbations" not in path.parts)

    before = there()
    told = dry_run(*asked_for(max_steps=-1, num_train_epochs=4, adapt_max_steps=-1, adapt_epochs=1.5))
    per_epoch = math.ceil(told.images["train"] / 10)
    steps = {name: stage.steps for name, stage in told.stages.items()}
    whole = 4 * per_epoch
    assert steps == {"undefended": whole, "adversarial_finetune": whole, "adapt": math.ceil(1.5 * per_epoch)}
    assert {**told.images} == {split: len(images) for split, images in dataset.items()}
    assert all(stage.seconds > 0 for stage in told.stages.values())
    assert told.memory > 2**20
    assert there() == before


def test_no_more_models_are_trained_at_once_than_by_the_run(asked_for, monkeypatch):
    beside = []

    def counted(train):
        def trained(self, *args, **kwargs):
            beside.append(sum(isinstance(each, GenAFTrainer) for each in gc.get_objects()))
            return train(self, *args, **kwargs)

        return trained

    for name in ("train", "standard_finetune"):
        monkeypatch.setattr(GenAFTrainer, name, counted(getattr(GenAFTrainer, name)))
    dry_run(*asked_for())
    assert beside == [1, 1]


def test_what_only_the_report_is_of_is_not_crafted_to_its_end(asked_for, monkeypatch):
    crafted = []
    craft = Attacker.craft
    monkeypatch.setattr(
        Attacker, "craft", lambda self, attack, *more: crafted.append(attack) or craft(self, attack, *more)
    )
    arguments, config = asked_for()
    arguments.attacks, arguments.attack_settings = "l4a,pgd", '{"steps": 7}'
    dry_run(arguments, config)
    assert [(each.name, each.settings["steps"]) for each in crafted] == [("l4a", 1)]


def test_steps_that_are_named_win_over_epochs(asked_for):
    arguments, config = asked_for(max_steps=7, adapt_epochs=0, adapt_max_steps=-1)
    arguments.standard_max_steps = 5
    steps = {name: stage.steps for name, stage in dry_run(arguments, config).stages.items()}
    assert steps == {"undefended": 5, "adversarial_finetune": 7}


def test_without_a_length_it_is_that_of_the_run(asked_for, dataset):
    told = dry_run(*asked_for(max_steps=-1, adapt_epochs=0, adapt_max_steps=-1))
    per_epoch = math.ceil(len(dataset["train"]) / 10)
    assert told.stages["adversarial_finetune"].steps == math.ceil(1000 / per_epoch) * per_epoch


def test_what_is_told_adds_up():
    told = str(
        DryRun({"train": 1200, "test": 3}, {"undefended": Stage(600, 0.1), "adapt": Stage(60, 1.0)}, 30.0, 3 * 2**30)
    )
    assert "Images: 1,200 train, 3 test." in told
    assert "Training takes about 2.5 minutes and 3.0 GiB." in told


def test_what_perturbations_to_train_on_take_is_counted(asked_for, own_registries):
    @register_attack("encoder", "images", eps=0.1, universal=True)
    def slow(encoder, images, *, eps, steps=1, seed=0):
        time.sleep(0.3)
        return UniversalPerturbation(torch.zeros(images.shape[1:]), attack="slow", eps=eps, steps=steps, seed=seed)

    bank = {"bank": ["slow"]}
    told = dry_run(*asked_for(defence="universal", defence_settings=bank, steps=None, max_steps=7, adapt_epochs=0))
    assert told.crafting >= 0.3
    assert "perturbations are kept for the run" in str(told)


def test_an_encoder_that_is_not_there_is_not_trained(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["genaf-hf", "harden", "--dry_run", "--use_cpu"])
    with pytest.raises(SystemExit, match="digits-supervised is not there yet"):
        main()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metric_for_best_model": "acc"}, 'metric_for_best_model is "acc", expected one of'),
        ({"attacks": "l4a", "attack_settings": {"layer": 99}}, "layer is 99"),
        ({"attacks": "l4a", "attack_settings": {"steps": -3}}, "steps is -3"),
    ],
)
def test_what_the_run_would_refuse_is_refused(asked_for, changes, sentence):
    arguments, config = asked_for(**{name: value for name, value in changes.items() if name.startswith("metric")})
    arguments = replace(arguments, **{name: value for name, value in changes.items() if name.startswith("attack")})
    with pytest.raises(UserError, match=sentence):
        dry_run(arguments, config)
