"""The benchmark of hardened encoders: each way of using one is measured once, and the ways are what they are called."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import BENCHMARKS, CLASSES, SIDE, benchmark_module
from transformers import MobileNetV1Config, MobileNetV1ForImageClassification, ViTImageProcessor

from genaf_hf import PixelModel, UniversalPerturbation, load_encoder
from genaf_hf.errors import UserError

ATTACKED = {"attacks": "l4a,ssp", "attack_settings": '{"steps": 200}'}
FINE_TUNES = ["all:1:1e-3", "shown:1:1e-3", "universal:1:1e-3"]


@pytest.fixture(scope="module")
def benchmark():
    return benchmark_module("hardened_encoders")


@pytest.mark.slow(reason="hardens an encoder and fine-tunes it")
def test_killed_and_started_again_it_measures_what_is_missing(benchmark, encoders, dataset, tmp_path, monkeypatch):
    dataset.save_to_disk(tmp_path / "colours")
    monkeypatch.chdir(tmp_path)
    asked = [encoders["dino"], "colours", "--steps", "1", "--batch_size", "8", "--bank_steps", "1"]
    asked += ["--attacks", "l4a", "--attack_settings", '{"steps": 1}', "--precision", "fp32"]
    asked += ["--found", "found", "--fine_tunes", *FINE_TUNES]
    args, measured = benchmark.parsed_arguments(asked), benchmark.measured

    def killed(args, use, origin, given, seed):
        if (origin, given) == ("hardened", FINE_TUNES[1]):
            raise KeyboardInterrupt
        return measured(args, use, origin, given, seed)

    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "measured", killed)
        with pytest.raises(KeyboardInterrupt):
            benchmark.measure(args, "colours", 0)
    before = benchmark.lines(args.found)
    ways = [each["way"] for each in before]
    assert ways == [
        ["public", "as it is"],
        ["public", "all:1:1e-3"],
        ["public", "shown:1:1e-3"],
        ["public", "universal:1:1e-3"],
        ["hardened", "as it is"],
        ["hardened", "all:1:1e-3"],
    ]
    benchmark.measure(args, "colours", 0)
    found = benchmark.lines(args.found)
    assert found[:6] == before
    assert [each["way"] for each in found[6:]] == [["hardened", given] for given in FINE_TUNES[1:]]
    assert [*found[4]["rows"]] == ["linear probe", "kNN"]
    assert [*found[7]["rows"]["fine-tune universal:1:1e-3"]] == ["clean", "l4a, public", "l4a, hardened"]
    table = Path("found.md").read_text()
    assert table.count("\n| fine-tune") == 6
    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "load_images", None)  # all is there
        benchmark.measure(args, "colours", 0)


def test_the_table_has_the_mean_of_seeds_and_its_interval(benchmark):
    setting, way = {"encoder": "a", "dataset": "b", "steps": 6, **ATTACKED}, ["hardened", "as it is"]
    rows = [
        {
            "clean": 90.0,
            "l4a, public": 50.0,
            "ssp, public": 60.0,
            "advencoder-pat, public": 10.0,
            "l4a, hardened": 70.0,
        },
        {
            "clean": 92.0,
            "l4a, public": 60.0,
            "ssp, public": 54.0,
            "advencoder-pat, public": 12.0,
            "l4a, hardened": 70.0,
        },
    ]
    found = [
        {"setting": setting, "downstream": "c", "seed": seed, "drift": 0.1, "seconds": 2, "epochs": 3, "way": way}
        | {"rows": {"linear probe": row}}
        for seed, row in enumerate(rows)
    ]
    *_, row = benchmark.section(found).strip().splitlines()
    cells = [each.strip() for each in row.strip("|").split("|")]
    assert cells[:5] == ["linear probe, hardened", "2", "91.0 ± 12.7", "52.0 ± 25.4", "70.0"]


def test_what_was_not_reached_is_bold(benchmark):
    def line(origin, way, clean, public, hardened=None):
        row = {"clean": clean, "l4a, public": public, "advencoder-pat, public": 1.0}
        row |= {} if hardened is None else {"l4a, hardened": hardened}
        return {"setting": told, "downstream": "b", "seed": 0, "epochs": 3.0, "way": [origin, ""], "rows": {way: row}}

    told = {"encoder": "a", "dataset": "b", "steps": 6, **ATTACKED}
    found = [line("public", "linear probe", 90.0, 30.0), line("hardened", "linear probe", 88.5, 83.0, 80.0)]
    elsewhere = [{**each, "downstream": "c"} for each in found]
    tuned = [*elsewhere, line("hardened", "fine-tune all:3:1e-3", 95.0, 85.0, 84.0)]
    longer = {**told, "attacks": "l4a", "attack_settings": '{"steps": 2000}'}
    begun = found[:1]
    _, *rows = benchmark.goals([begun, found, tuned, [{**each, "setting": longer} for each in found]])
    assert rows == [
        ["a, 6 steps on b", "b", "**-1.5**", "-5.5", "**-8.5**", "-", "-", "3.0"],
        ["a, 6 steps on b", "c", "-1.5", "-5.5", "**-8.5**", "-10.0", "**-11.0**", "3.0"],
        ["a, 6 steps on b, attacked by 2,000 steps of l4a", "b", "**-1.5**", "-5.5", "**-8.5**", "-", "-", "3.0"],
    ]


def test_a_half_of_the_images_is_shown_under_known_perturbations(benchmark, vit):
    torch.manual_seed(0)
    model, eps = PixelModel(*vit), 0.1
    known = [UniversalPerturbation(torch.full((3, SIDE, SIDE), value), "l4a", eps) for value in (-eps, eps)]
    images = torch.full((400, 3, SIDE, SIDE), 0.5)
    rows = [{"pixel_values": each, "labels": 1} for each in model.to_pixel_values(images)]
    batch = benchmark.shown(model, known, rows)
    moved = (model.to_images(batch["pixel_values"]) - images).mean((1, 2, 3))
    assert batch["labels"].tolist() == [1] * 400
    for value, share in ((-eps, 1 / 4), (0, 1 / 2), (eps, 1 / 4)):
        assert (moved - value).abs().lt(1e-5).float().mean() == pytest.approx(share, abs=0.06)


def test_lora_is_refused_where_its_layers_do_not_work(benchmark, tmp_path):
    config = MobileNetV1Config(image_size=SIDE, depth_multiplier=0.25, num_labels=len(CLASSES))
    MobileNetV1ForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lora, but PEFT's layers do not work in a MobileNetV1ForImageClassification"):
        benchmark.check_lora(PixelModel(*load_encoder(str(tmp_path), CLASSES)))


def test_the_table_is_of_what_was_measured(benchmark, tmp_path):
    shutil.copy(BENCHMARKS / "hardened_encoders.jsonl", tmp_path)
    benchmark.write(tmp_path / "hardened_encoders")
    assert (tmp_path / "hardened_encoders.md").read_text() == (BENCHMARKS / "hardened_encoders.md").read_text()
