"""Two and four processes compute what one does on the same global batch."""

import json
import os
import signal
import sys
from pathlib import Path

import own_defence
import pytest
import torch
import train_forked
from own_defence import register, trained
from safetensors.torch import load_file
from train_tiny import (
    FULL_BATCH,
    ODD,
    evaluation_counts,
    hardened_encoder,
    robustness_counts,
    tiny_trainer,
    write_images_and_encoder,
)

from genaf_hf import UniversalPerturbation
from genaf_hf.cli.harden import main as harden
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.training import defences

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def two(processes, tmp_path_factory) -> dict:
    """What two processes made."""
    folder = tmp_path_factory.mktemp("two")
    write_images_and_encoder(folder)
    script = Path(__file__).with_name("train_tiny.py")
    processes.run_on_two_processes(script, "dies", folder, ends=(1, -signal.SIGKILL), apart=60)
    processes.run_on_two_processes(script, "distributed", folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["world_size"] == 2
    return {**results, "folder": folder, "weights": torch.load(folder / "weights.pt")}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A trainer of one process after both stages."""
    trainer = tiny_trainer(tmp_path_factory.mktemp("one"), **FULL_BATCH)
    trainer.train()
    assert trainer.args.world_size == 1
    return trainer


@pytest.mark.parametrize("batches", ["half", "quarter"])
def test_weights_of_both_stages_are_those_of_one_process(one, two, batches):
    torch.testing.assert_close(two["weights"][batches], dict(one.model.state_dict()), rtol=0, atol=1e-9)


def test_gradient_through_gather_rows_is_that_of_one_process(two):
    assert two["gradient_error"] < 1e-15


def test_evaluation_counts_are_those_of_one_process(one, two):
    counts = evaluation_counts(one)
    assert two["evaluation"] == pytest.approx(counts, abs=1e-9)
    assert 0 < counts["robust"] < counts["clean"] <= ODD


def test_robustness_counts_are_those_of_one_process(one, two):
    clean, attacked = robustness_counts(one)
    assert two["robustness"] == [clean, attacked]
    assert 0 < attacked[0] < clean[0] <= ODD
    assert 0 < attacked[1] <= attacked[2] <= ODD


def test_run_of_which_one_process_died_resumes_to_the_bit(two):
    torch.testing.assert_close(two["weights"]["after a death"], two["weights"]["uninterrupted"], rtol=0, atol=0)


def test_interrupted_run_of_two_processes_resumes_to_the_bit(two):
    assert two["resumed_to"] == 5


def test_an_encoder_is_hardened_as_by_one_process(two, tmp_path):
    write_images_and_encoder(tmp_path)
    hardened_encoder(tmp_path, 8)
    begun, alone, found = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "encoder", tmp_path / "hardened", two["folder"] / "hardened")
    )
    way, difference = (
        torch.cat([(each - alone[name]).flatten() for name, each in others.items()]).norm() for others in (begun, found)
    )
    assert difference < 0.1 * way  # Adam makes much of rounding where a gradient is next to none
    one, both = (json.loads((each / "hardened/drift.json").read_text()) for each in (tmp_path, two["folder"]))
    # Of rounding Adam makes half of that, signs of live perturbations the rest; in float64, below, nothing differs.
    assert [each["distance"] for each in one] == pytest.approx([each["distance"] for each in both], rel=0.15, abs=1e-6)
    assert {each["count"] for each in both} == {3}
    assert (two["folder"] / "hardened/README.md").exists()


@pytest.fixture(scope="module")
def forked(processes, tmp_path_factory) -> dict[int, list[dict]]:
    """What each of two and of four processes trained."""
    folder = tmp_path_factory.mktemp("forked")
    script = Path(__file__).with_name("train_forked.py")
    done = processes.run([sys.executable, script, folder], env={**os.environ, "HF_HOME": str(folder / "home")})
    assert done.returncode == 0, done.stderr
    return {count: [torch.load(folder / f"{count}-{rank}.pt") for rank in range(count)] for count in (2, 4)}


@pytest.fixture
def registered():
    yield register()
    del defences.DEFENCES["paired"]


@pytest.mark.slow(reason="trains by all defences on two and four processes")
@pytest.mark.parametrize("name", own_defence.DEFENCES)
def test_two_processes_and_accumulation_are_one_batch_on_one(tmp_path, forked, registered, name):
    one = trained(tmp_path, **own_defence.DEFENCES[name], **train_forked.FULL)
    for found in forked[2]:
        torch.testing.assert_close(found[f"{name} accumulated"], one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", train_forked.DEFENCES)
def test_two_and_four_processes_train_what_one_does_by_every_defence(tmp_path, forked, name):
    one = trained(tmp_path, **train_forked.by_every_defence(8)[name])
    for found in forked[2] + forked[4]:
        torch.testing.assert_close(found[name], one, rtol=0, atol=1e-9)


def test_checkpointing_and_a_weight_that_nothing_reads_go_together(tmp_path, forked):
    one = trained(tmp_path, **train_forked.CHECKPOINTED, per_device_train_batch_size=8)
    for found in forked[2]:
        torch.testing.assert_close(found["checkpointed"], one, rtol=0, atol=1e-9)


def test_processes_that_cannot_share_a_batch_evenly_stay_the_same(forked):
    for found in forked[4][1:]:
        torch.testing.assert_close(found["uneven"], forked[4][0]["uneven"], rtol=0, atol=0)


@pytest.mark.slow(reason="a launcher and two processes import everything")
def test_what_accelerate_launches_on_two_processes_makes_what_one_does(processes, dataset, encoders, tmp_path):
    dataset.save_to_disk(tmp_path / "colours")
    words = f"""
        --model_name_or_path {encoders["dino"]} --dataset_name {tmp_path}/colours
        --attacks l4a --attack_settings {{"steps":2}} --defence gen-af --steps 1 --max_steps 4 --adapt_epochs 0
        --optim sgd --learning_rate 0.1 --eval_strategy no --load_best_model_at_end false --use_cpu
        --report_to none --disable_tqdm true
    """.split()
    outputs = [tmp_path / "one", tmp_path / "two"]
    one, two = ([*words, "--output_dir", str(each)] for each in outputs)
    harden([*one, "--per_device_train_batch_size", "8"], family_config="encoder.yaml")
    launcher = f"accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port {processes.free_port()}"
    recipe = [ROOT / "recipes/genaf_vit.py", *two, "--per_device_train_batch_size", "4"]
    settings = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = processes.run_alone([sys.executable, "-m", *launcher.split(), *recipe], env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr

    begun, *ended = (load_file(each / "model.safetensors") for each in (tmp_path / "one/undefended", *outputs))
    assert any((ended[0][name] - begun[name]).abs().max() > 1e-3 for name in begun)
    torch.testing.assert_close(*ended, rtol=0, atol=1e-6)
    reports = [RobustnessReport.load(each / "report.json") for each in outputs]
    counts = [[measurement.correct for measurement in report.measurements] for report in reports]
    assert counts[0] == counts[1]
    assert [report.environment["processes"] for report in reports] == [1, 2]
    deltas = (UniversalPerturbation.from_pretrained(each, subfolder="perturbation").delta for each in outputs)
    torch.testing.assert_close(*deltas, rtol=0, atol=1e-6)
