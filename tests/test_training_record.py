import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cards import make_record, make_report
from conftest import SIDE
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from PIL import Image
from transformers import TrainingArguments

from genaf_hf import GenAFConfig, PixelModel, UniversalPerturbation
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.evaluation.measurement import WorstCase
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.pipelines.harden import HardeningArguments
from genaf_hf.runs.reproducing_command import reproducing_command
from genaf_hf.sharing.data_figures import TILE, draw_samples
from genaf_hf.sharing.figures import attack_label, draw_accuracies, draw_gallery, draw_overview, draw_sweep
from genaf_hf.sharing.model_card import model_card
from genaf_hf.sharing.picture import save
from genaf_hf.sharing.record import TrainingRecord, balance_table, changed_settings, settings_of_training
from genaf_hf.sharing.result_folder import write_results
from genaf_hf.sharing.training_figures import draw_layers, draw_terms, draw_training, stage_label
from genaf_hf.training.defences import DEFENCES

TOKEN = "hf_plantedSoThatItCanBeSearchedFor"
QUIET = {"report_to": "none", "use_cpu": True}


# ---- the record ----


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = make_record(layers={"contributions": {"a.weight": 0.5}, "redundant_layers": ["a.weight"]})
    record.save(tmp_path / "training.json")
    assert TrainingRecord.load(tmp_path / "training.json") == record
    assert b"\r" not in (tmp_path / "training.json").read_bytes()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"base_model": {}, "colour": 1}', "[" * 100_000])
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(ValueError, match=r"training.json is not a training record that genaf_hf can read"):
        TrainingRecord.load(tmp_path / "training.json")


def test_stages_are_told_by_the_log():
    assert make_record().stages == {
        "adversarial_finetune": {"steps": 2, "epochs": 1.0, "seconds": 61.6},
        "adapt": {"steps": 1, "epochs": 0.25},
    }
    by_hand = [*make_record().history, {"eval_clean_accuracy": 0.5, "step": 9, "epoch": 9.0}]
    assert make_record(history=by_hand).stages == make_record().stages
    assert make_record(history=[]).stages == {}


def test_a_record_of_many_classes_and_its_table_stay_small(tmp_path):
    data = {
        **make_record().data,
        "class_names": [f"class {i}" for i in range(1000)],
        "class_counts": {split: [1300] * 999 + [7] for split in ("train", "validation", "test")},
    }
    record = make_record(data=data)
    record.save(tmp_path / "training.json")
    assert TrainingRecord.load(tmp_path / "training.json") == record
    assert (tmp_path / "training.json").stat().st_size < 80_000
    table = balance_table(data)
    assert "| train      | 1298707 | 1000    | class 999 (7)  | class 0 (1300) |" in table
    assert len(table) < 500


# ---- settings ----


def test_only_what_was_changed_is_told(tmp_path):
    assert changed_settings(GenAFConfig(output_dir=str(tmp_path), **QUIET)) == {}
    args = GenAFConfig(
        output_dir=str(tmp_path / "planted"),
        hub_token=TOKEN,
        hub_model_id="someone/private",
        push_to_hub=True,
        run_name="planted",
        logging_steps=3,
        per_device_eval_batch_size=3,
        dataloader_num_workers=1,
        learning_rate=0.002,
        num_train_epochs=2,
        random_start=False,
        lr_scheduler_type="cosine",
        lr_scheduler_kwargs={"num_cycles": 2},
        **QUIET,
    )
    changed = {
        "learning_rate": 0.002,
        "num_train_epochs": 2,
        "random_start": False,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 2},
    }
    assert changed_settings(args) == changed
    told = settings_of_training(args)
    assert told["hyperparameters"] == changed
    assert not told["defaults"].keys() & changed.keys()
    assert (told["defaults"]["eps"], told["defaults"]["seed"]) == (4 / 255, 42)
    assert TOKEN not in str(told)
    assert "planted" not in str(told)
    args.max_steps = 7
    assert settings_of_training(args)["hyperparameters"].keys() == {*changed, "max_steps"} - {"num_train_epochs"}


def test_the_step_size_is_told_where_its_default_would_follow_another_eps(tmp_path):
    def told(**changes) -> dict:
        return changed_settings(GenAFConfig(output_dir=str(tmp_path), **QUIET, **changes))

    assert told(eps=6 / 255) == {"eps": 6 / 255, "step_size": pytest.approx(5 / 255)}
    assert told(eps=6 / 255, step_size=2 / 255) == {"eps": 6 / 255, "step_size": 2 / 255}
    assert told(step_size=1 / 255) == {"step_size": 1 / 255}


def test_local_paths_are_told_by_name_and_other_arguments_work_too(tmp_path):
    (tmp_path / "deep.json").write_text("{}")
    args = TrainingArguments(output_dir=str(tmp_path), label_names=["labels"], tf32=None, seed=1, **QUIET)
    args.lr_scheduler_type = str(tmp_path / "deep.json")
    assert changed_settings(args) == {"lr_scheduler_type": "deep.json", "label_names": ["labels"], "seed": 1}


# ---- the command ----


def test_the_command_gives_the_same_arguments_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {
        "model_name_or_path": "someone/encoder",
        "dataset_name": "a folder with 'both' \"quotes\" & $more",
        "dataset_config_name": None,
        "held_out_share": 1e-07,
        "output_dir": "run",
        "random_start": False,
        "bf16": False,
        "dataloader_drop_last": True,
        "learning_rate": 2e-05,
        "max_steps": 7,
        "lr_scheduler_kwargs": {"num_cycles": 2, "name": "it's"},
        "label_names": ["labels", "two words"],
    }
    command = reproducing_command("harden", given, processes=2)
    launch = "accelerate launch --num_processes 2 -m genaf_hf.cli harden"
    assert command.startswith(f"{launch} --model_name_or_path someone/encoder")
    assert "\n" not in command
    assert "dataset_config_name" not in command
    flags = shlex.split(command)[7:]
    arguments, config = parse_arguments((HardeningArguments, GenAFConfig), "none.yaml", [*flags, "--use_cpu", "true"])
    found = {**vars(arguments), **vars(config)}
    assert {name: found[name] for name in given} == given


def test_the_command_of_a_configuration_makes_the_same_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = GenAFConfig(
        output_dir="run",
        optim_args="decoupled_weight_decay=false",
        lr_scheduler_kwargs={"epoch_decay": 0.96},
        genetic_share=float("inf"),
        eps=0.2,
        adapt_epochs=0.0,
        **QUIET,
    )
    settings = {"model_name_or_path": "a/b", "dataset_name": "digits", "output_dir": "run", **changed_settings(config)}
    flags = shlex.split(reproducing_command("harden", settings))[2:]
    _, again = parse_arguments((HardeningArguments, GenAFConfig), "none.yaml", [*flags, "--use_cpu", "true"])
    assert changed_settings(again) == changed_settings(config)


def test_several_processes_on_cpus_are_started_by_torchrun():
    command = reproducing_command("harden", {"seed": 1}, processes=2, device="cpu")
    assert command == "torchrun --nproc_per_node 2 -m genaf_hf.cli harden --seed 1"
    assert reproducing_command("harden", {}, device="cpu") == "genaf-hf harden"


def test_a_local_path_is_told_by_its_name(tmp_path):
    settings = {"model_name_or_path": str(tmp_path / "secret" / "encoder"), "output_dir": str(tmp_path)}
    command = reproducing_command("harden", settings)
    assert command.endswith(f"--model_name_or_path encoder --output_dir {tmp_path.name}")
    assert "secret" not in command


# ---- pictures ----


def size_of(path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        return image.size


@pytest.mark.parametrize("count", [1, 100])
def test_layers_are_drawn(tmp_path, count):
    names = [f"layers.{i}.$a_$<b>.weight" for i in range(count)]
    contributions = {name: i / count - 0.1 for i, name in enumerate(names)}
    draw_layers({"contributions": contributions, "redundant_layers": names[: count // 5]}, tmp_path / "layers.png")
    width, height = size_of(tmp_path / "layers.png")
    assert width == 1125
    assert height == pytest.approx(150 * (0.19 * count + 1.2), abs=2)


HISTORIES = {
    "both stages": make_record().history,
    "one point": [{"stage": "adapt", "step": 1, "epoch": 1.0, "loss": 1.0}],
    "no step yet": [{"stage": "adapt", "step": 0, "epoch": 0.0, "eval_clean_accuracy": 0.5}],
    "nothing to draw": [{"stage": "adapt", "step": 1, "epoch": 1.0, "train_runtime": 1.0}],
    "an evaluation by hand": [*make_record().history, {"step": 9, "epoch": 9.0, "eval_clean_accuracy": 0.5}],
    "not finite": [{"stage": "adapt", "step": step, "epoch": 1.0, "loss": float("nan")} for step in (1, 2)],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.filterwarnings("error")
def test_training_curves_are_drawn(tmp_path, history):
    record = make_record(history=history)
    draw_training(record, tmp_path / "curves.png")
    panels = 3 if any("accuracy" in name for entry in history for name in entry) else 2
    assert size_of(tmp_path / "curves.png") == (330 + 630 * len(record.stages), 150 + 300 * panels)


def test_losses_are_drawn_from_0_on():
    axes = Figure().subplots()
    draw_terms(axes, [{"step": step, "loss": 0.47 + step / 1e5} for step in (1, 2)], ["loss"], scale=1)
    low, high = axes.get_ylim()
    assert low <= 0 < 0.4701 < high


def test_chance_is_drawn_where_it_is_known():
    def lines(report) -> list[float]:
        axes = Figure().subplots()
        draw_accuracies(axes, report)
        return [line.get_ydata()[0] for line in axes.lines if line.get_label() == "chance"]

    report = make_report()
    assert lines(report) == [pytest.approx(100 / 3)]
    assert lines(replace(report, models={name: {"class": "ViT"} for name in report.models})) == []


def test_the_picture_shows_what_the_verdict_tells():
    cases = [WorstCase("undefended", None, 0, 10), WorstCase("hardened", None, 4, 10)]
    report, axes = make_report(worst_cases=cases), Figure().subplots()
    draw_accuracies(axes, report)
    assert [each.attack for each in report.verdict("hardened")] == ["clean", "l4a", "pgd"]
    shown = [label.get_text().split("\n")[0] for label in axes.get_xticklabels()]
    assert shown == ["clean", "l4a", "pgd", "every attack"]
    assert [round(bar.get_height()) for bar in axes.patches] == [90, 20, 0, 0, 80, 70, 50, 40]


def test_names_of_attacks_and_models_are_no_formulas(tmp_path):
    report = make_report(sweep=make_report().measurements[1:4])
    text = report.to_json().replace('"pgd"', r'"$\\alph$"').replace('"hardened"', '"$x_{$"')
    report = RobustnessReport.from_json(text)
    draw_sweep(report, tmp_path / "sweep.png")
    figure = Figure()
    draw_accuracies(figure.subplots(), report)
    save(figure, tmp_path / "accuracies.png")
    assert size_of(tmp_path / "sweep.png")[1] == 690


def test_pictures_say_the_eps_of_what_they_show():
    record = make_record()
    assert stage_label(record, "adversarial_finetune") == "adversarial finetune, adversary up to eps 0.1"
    assert stage_label(record, "adapt") == "adapt"
    defaults = make_record(defence=DEFENCES["gen-af"].configure().record())
    assert stage_label(defaults, "adversarial_finetune") == "adversarial finetune, adversary up to eps 4/255"
    labels = [attack_label(make_report(), attack) for attack in ("clean", "l4a", "pgd")]
    assert labels == [
        "clean\n(no attack)",
        "l4a\neps 10/255\n(knows the\npublic\nencoder)",
        "pgd\neps 8/255\n(knows the\nmodel)",
    ]


def samples(counts, names, side=(12, 9)) -> Dataset:
    """Images of one grey per class."""
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    images = [Image.new("RGB", side, (20 * (label % 10),) * 3) for label in labels]
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


@pytest.mark.filterwarnings("error")
def test_each_class_has_a_row_of_samples(tmp_path):
    train = samples([9, 0, 3], ["$a_$<b>", "no image", "a name that is " + "very " * 100 + "long"])
    for name in ("samples.png", "again.png"):
        draw_samples(train, tmp_path / name)
    assert (tmp_path / "samples.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "samples.png").convert("RGB"))
    for label, shown in ((0, 8), (2, 3)):
        assert (pixels == 20 * label).all(2).sum() == pytest.approx(shown * TILE**2, rel=0.03)


def test_a_name_of_any_length_leaves_room_in_pictures_and_tables(vit, tmp_path):
    names, endless = ["a" * 2**20, "b\n\0c", "d"], "a" * 2**20
    pixel_model = PixelModel(*vit)
    images, labels = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    perturbation = UniversalPerturbation(torch.zeros(3, SIDE, SIDE), eps=0.1, attack="l4a")
    report, models = make_report(), dict.fromkeys(make_report().models, pixel_model)
    draw_overview(report, models, images, labels, names, perturbation, tmp_path / "overview.png")
    draw_gallery(pixel_model, images, labels, names, {}, tmp_path / "gallery.png")
    draw_samples(samples([4, 4, 4], names), tmp_path / "samples.png")
    assert max(size_of(tmp_path / f"{name}.png")[0] for name in ("overview", "gallery", "samples")) < 3000
    table = balance_table({"class_names": names, "class_counts": {"train": [3, 2, 1]}})
    assert len(table) < 1000
    assert f"{endless[:97]}... (3)" in table
    record = make_record(data={**make_record().data, "class_names": names})
    card = str(model_card(make_report(), record, model_name="someone/model"))
    assert len(card) < 30_000


def test_of_many_classes_ten_are_shown(tmp_path):
    draw_samples(samples([1] * 200, [str(i) for i in range(200)], side=(2, 2)), tmp_path / "many.png")
    draw_samples(samples([1] * 10, [str(i) for i in range(10)], side=(2, 2)), tmp_path / "ten.png")
    assert size_of(tmp_path / "many.png")[1] == size_of(tmp_path / "ten.png")[1]


DRAWS = """
import matplotlib
import sys
matplotlib.use("svg")
import genaf_hf
from cards import make_record, make_report
from genaf_hf.adapter_search import front_figure
from genaf_hf.demo import pictures
from genaf_hf.leaderboard import page
from genaf_hf.sharing.data_figures import draw_samples
from genaf_hf.sharing.figures import draw_sweep
from genaf_hf.sharing.training_figures import draw_training

draw_sweep(make_report(sweep=make_report().measurements[1:4]), "sweep.png")
draw_training(make_record(), "training.png")
assert "matplotlib.pyplot" not in sys.modules
print(matplotlib.get_backend())
"""


def test_drawing_leaves_a_notebooks_backend_as_it_was(processes, tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = processes.run([sys.executable, "-c", DRAWS], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "svg\n"), done.stderr
    assert size_of(tmp_path / "sweep.png")[1] == 690


# ---- all of it ----


def test_nothing_of_an_earlier_run_is_left_beside_a_model(tmp_path):
    layers = {"contributions": {"a.weight": 0.5}, "redundant_layers": ["a.weight"]}
    swept = make_report(sweep=make_report().measurements[1:4])
    write_results(tmp_path, swept, make_record(layers=layers), model_name="a/b")
    drawn = {"accuracy_by_eps.png", "layer_robustness.png", "training_curves.png"}
    files = {"README.md", "report.json", "report.csv", "training.json"}
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == files | drawn
    text = ModelCard.load(tmp_path / "README.md").text
    assert all(f"({name})" in text for name in drawn)

    write_results(tmp_path, make_report(), make_record(history=[{"step": 1}]), model_name="a/b")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == files
    assert ".png" not in ModelCard.load(tmp_path / "README.md").text
    assert json.loads((tmp_path / "training.json").read_text())["history"] == [{"step": 1}]
