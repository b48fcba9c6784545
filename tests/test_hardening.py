import json
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from conftest import colored_images
from datasets import ClassLabel, DatasetDict
from safetensors.torch import load_file, save_file

from genaf_hf import GenAFConfig, GenAFTrainer, UniversalPerturbation
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.errors import UserError
from genaf_hf.pipelines.harden import HardeningArguments, harden
from genaf_hf.sharing.record import TrainingRecord
from genaf_hf.values.markup import plain

pytestmark = [pytest.mark.slow(reason="hardens"), pytest.mark.usefixtures("quick_checks")]

RECIPE = Path(__file__).parents[1] / "recipes" / "genaf_mae.py"
QUICK = {
    "per_device_train_batch_size": 8,
    "defence": "gen-af",
    "max_steps": 6,
    "adapt_max_steps": 4,
    "steps": 2,
    "layer_decay": 1.0,
    "save_steps": 2,
    "attacks": "l4a,pgd",
    "attack_settings": '{"steps": 3, "pgd": {"steps": 2}}',
    "use_cpu": True,
}


@pytest.fixture
def command(dataset, encoders, tmp_path):
    """The recipe on tiny data, as a function of the output folder and changed flags."""
    dataset.save_to_disk(tmp_path / "colours")

    def make(output_dir: Path, **changes) -> list[str]:
        settings = {
            "model_name_or_path": encoders["mae"],
            "dataset_name": tmp_path / "colours",
            "output_dir": output_dir,
        }
        flags = {**settings, **QUICK, "report_to": "none", **changes}
        return [
            sys.executable,
            str(RECIPE),
            *(word for name, value in flags.items() for word in (f"--{name}", str(value))),
        ]

    return make


def told(folder: Path) -> dict:
    """What a run's record says, but for how long it took and where it wrote."""
    record = json.loads((folder / "training.json").read_text())
    times = ("runtime", "samples_per_second", "steps_per_second")
    record["history"] = [
        {name: value for name, value in entry.items() if not name.endswith(times)} for entry in record["history"]
    ]
    return {name: value for name, value in record.items() if name != "command"}


@pytest.fixture
def run(monkeypatch):
    """A function that runs the recipe in this process."""

    def run(command: list[str]) -> None:
        monkeypatch.setattr("sys.argv", command[1:])
        monkeypatch.setattr("sys.orig_argv", command)
        runpy.run_path(str(RECIPE), run_name="__main__")

    return run


@pytest.fixture
def refusal(run):
    """A function that runs the recipe in this process, and gives the sentence that it ends with."""

    def refusal(command: list[str]) -> str:
        with pytest.raises(SystemExit) as refused:
            run(command)
        return str(refused.value)

    return refusal


def test_a_killed_run_goes_on_where_it_was_and_never_mixes_with_another(processes, command, run, refusal, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(command(whole))
    assert not (whole / "unfinished_run").exists()

    stages = killed / "unfinished_run"
    processes.start_and_kill(command(killed), stages / "adversarial_finetune/checkpoint-2/trainer_state.json")
    assert "unfinished run with other settings (seed was 42 and is 1)" in refusal(command(killed, seed=1))
    killed = killed.rename(tmp_path / "moved")
    stages = killed / "unfinished_run"
    answered = stages / "evaluation/answers.undefended.l4a-adaptive.json"
    processes.start_and_kill(command("moved", disable_tqdm=True), answered, cwd=tmp_path)
    run(command(killed, save_total_limit=2))
    assert not stages.exists()
    stated = shlex.split(TrainingRecord.load(whole / "training.json").command)
    _, config = parse_arguments((HardeningArguments, GenAFConfig), None, [*stated[2:], "--use_cpu"])
    assert (config.learning_rate, config.weight_decay, config.steps) == (1.25e-4, 0.05, 2)
    assert "--layer_decay" in stated  # though it is the default of GenAFConfig, for it is not the recipe's
    models = ("model.safetensors", "undefended/model.safetensors")
    for file in (*models, "layer_robustness.json", "samples.png", "report.json"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file
    assert told(killed) == told(whole)

    assert "whole holds a finished run (README.md, report.json, training.json" in refusal(command(whole, seed=1))
    for file in models:
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file


def test_a_run_goes_on_with_the_encoder_and_the_images_that_it_began_with_alone(encoders, tmp_path, monkeypatch):
    shutil.copytree(encoders["mae"], tmp_path / "mae")
    place = tmp_path / "colours"

    def begin(seed: int = 0):
        shutil.rmtree(place, ignore_errors=True)
        DatasetDict(train=colored_images(48, seed), test=colored_images(18, 2)).save_to_disk(place)
        config = GenAFConfig(output_dir=str(tmp_path / "run"), report_to="none", disable_tqdm=True, use_cpu=True)
        harden(HardeningArguments(str(tmp_path / "mae"), str(place), attacks="pgd"), config)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("genaf_hf.pipelines.harden.fine_tune", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            begin()
    with pytest.raises(UserError, match=r"other settings \(content of the images was \w{16} and is \w{16}\)"):
        begin(seed=1)
    weights = load_file(tmp_path / "mae/model.safetensors")
    save_file({name: weight + 1e-6 for name, weight in weights.items()}, tmp_path / "mae/model.safetensors")
    with pytest.raises(UserError, match=r"other settings \(content of the encoder was \w{16} and is \w{16}\)"):
        begin()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_name_or_path": "nobody/nothing"}, '"nobody/nothing" is neither'),
        ({"dataset_name": "nobody/nothing"}, 'The dataset "nobody/nothing" is neither a local folder'),
        ({"attack_settings": '{"eps": 2}'}, "eps is 2, expected a value in"),
        ({"attack_settings": '{"layer": 99}'}, "layer is 99, expected 0 to 2, the hidden states of this encoder"),
        ({"attacks": "upgd", "attack_settings": '{"target": 9}'}, "target is 9, expected one of the model's 3 classes"),
        (
            {"attacks": "adversarial-patch", "attack_settings": '{"target": 9}'},
            "target is 9, expected one of the model's 3 classes",
        ),
    ],
)
def test_the_recipe_refuses_in_one_sentence_and_leaves_nothing(command, refusal, tmp_path, changes, sentence):
    refused = refusal(command(tmp_path / "run", **changes))
    assert sentence in refused
    assert "\n" not in refused.strip()
    assert not (tmp_path / "run").exists()


def test_what_is_refused_late_leaves_its_folder_to_the_mended_command(command, refusal, tmp_path):
    refused = refusal(command(tmp_path / "run", metric_for_best_model="acc"))
    assert 'metric_for_best_model is "acc", expected one of' in refused
    assert not (tmp_path / "run/unfinished_run").exists()


def test_a_checkpoint_that_is_named_is_refused(tmp_path):
    config = GenAFConfig(
        output_dir=str(tmp_path / "run"), resume_from_checkpoint="nowhere", report_to="none", use_cpu=True
    )
    with pytest.raises(UserError, match="resume_from_checkpoint is nowhere, but a run that was killed goes on by its"):
        harden(HardeningArguments("encoder", "digits"), config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("defence", ["none", "linear-probe"])
def test_what_no_defence_hardens_is_not_called_hardened(encoders, dataset, tmp_path, defence):
    dataset.save_to_disk(tmp_path / "colours")
    kept = {name: value for name, value in QUICK.items() if name in ("max_steps", "learning_rate", "use_cpu")}
    config = GenAFConfig(output_dir=str(tmp_path / "run"), defence=defence, report_to="none", disable_tqdm=True, **kept)
    few = {"attacks": "l4a,pgd", "attack_settings": {"steps": 2}}
    report = harden(HardeningArguments(encoders["dino"], str(tmp_path / "colours"), **few), config)
    assert [*report.models] == ["undefended", defence]
    card = (tmp_path / "run/README.md").read_text(encoding="utf-8")
    assert f"The defence is `{defence}`." in card
    assert "hardened, passed" not in card


@pytest.mark.parametrize(("defence", "told"), [("universal-anchor", True), ("universal", False)])
def test_what_the_encoder_knows_of_the_images_is_said_where_features_are_held_to_it(
    encoders, dataset, tmp_path, caplog, defence, told
):
    caplog.set_level("INFO", "genaf_hf.pipelines.harden")
    dataset.save_to_disk(tmp_path / "colours")
    own = {"bank": ["l4a"], "bank_steps": 1}
    settings = {"max_steps": 1, "per_device_train_batch_size": 8, "report_to": "none", "use_cpu": True}
    config = GenAFConfig(output_dir=str(tmp_path / "run"), defence=defence, defence_settings=own, **settings)
    harden(HardeningArguments(encoders["mae"], str(tmp_path / "colours"), attacks="pgd"), config)
    said = [each for each in caplog.messages if each.startswith("A linear probe on the frozen encoder is right about")]
    assert len(said) == told
    assert all(
        f"/{len(dataset['validation'])}) of the validation images. The defence {defence}" in each for each in said
    )


def test_a_run_without_a_defence_keeps_its_two_fine_tunes_apart(encoders, dataset, tmp_path, monkeypatch):
    dataset.save_to_disk(tmp_path / "colours")
    few = {"attacks": "pgd", "attack_settings": {"steps": 2}, "standard_max_steps": 2}
    arguments = HardeningArguments(encoders["dino"], str(tmp_path / "colours"), **few)

    def settings(name: str) -> GenAFConfig:
        saved = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "report_to": "none", "disable_tqdm": True}
        return GenAFConfig(output_dir=str(tmp_path / name), defence="none", use_cpu=True, **saved)

    def interrupted(trainer, *given, **named):
        if trainer.state.global_step == 4:
            raise KeyboardInterrupt
        return step(trainer, *given, **named)

    harden(arguments, settings("whole"))
    step = GenAFTrainer.training_step
    monkeypatch.setattr(GenAFTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        harden(arguments, settings("cut"))
    monkeypatch.setattr(GenAFTrainer, "training_step", step)
    harden(arguments, settings("cut"))
    for place in ("undefended/model.safetensors", "model.safetensors", "report.json"):
        assert (tmp_path / "cut" / place).read_bytes() == (tmp_path / "whole" / place).read_bytes()


def test_class_names_are_no_markup(encoders, tmp_path):
    names = ["$a_$", '"> <script>', "*b* | c"]
    data = DatasetDict({split: colored_images(18, seed) for seed, split in enumerate(("train", "validation", "test"))})
    data = data.cast_column("label", ClassLabel(names=names))
    data.save_to_disk(tmp_path / "odd | names")
    settings = {name: value for name, value in QUICK.items() if not name.startswith("attack")}
    config = GenAFConfig(output_dir=str(tmp_path / "run"), report_to="none", disable_tqdm=True, **settings)
    quick = {
        "eps": 0.1,
        "steps": 2,
        "width": 8,
        "advencoder-per": {"batch_size": 4},
        "advencoder-pat": {"batch_size": 4},
    }
    report = harden(HardeningArguments(encoders["mae"], str(tmp_path / "odd | names"), attack_settings=quick), config)
    assert report.measurement("hardened", "clean").count == 18
    universal = ["l4a", "ssp", "uapgd", "advencoder-per", "advencoder-pat"]
    twins = [name for attack in universal for name in (attack, f"{attack}-adaptive")]
    assert report.attacks == ["clean", *twins, "upgd", "pgd", "square"]
    knowledge = [report.measurement("hardened", attack).knowledge for attack in report.attacks]
    assert knowledge == ["nothing", *["public encoder", "model"] * 5, "model", "model", "model's answers"]
    swept = {(each.attack, round(each.settings["eps"] / 0.1, 6)) for each in report.sweep if each.attack != "pgd"}
    assert swept == {(name, factor) for name in twins[:2] for factor in (0.5, 1.0, 1.5, 2.0)}
    worst = report.worst("hardened", "public encoder")
    kept = UniversalPerturbation.from_pretrained(tmp_path / "run", subfolder="perturbation")
    assert kept.provenance.items() <= worst.settings.items()
    card = (tmp_path / "run/README.md").read_text()
    assert f"under the worst perturbation that was crafted on the public encoder alone ({worst.attack}, " in card
    crafted_on = [
        report.measurement(name, attack).settings["encoder"]
        for attack in ("l4a", "l4a-adaptive")
        for name in ("undefended", "hardened")
    ]
    assert crafted_on == ["mae", "mae", "undefended", "hardened"]
    # Each has two; those on images are held against noise, adaptive ones against twins, PGD against what is plain.
    of_attacks = 13 * 2 + 2 + 5 + 1
    assert len(report.checks) == 2 * (2 + of_attacks + 5) + 1  # and the hardened model against the undefended one
    assert "odd \\| names" in card
    example = TrainingRecord.load(tmp_path / "run/training.json").example
    assert {example["label"], example["answer"]} <= {*names}
    assert f"shows {plain(example['label'])}, it answers {plain(example['answer'])} with a probability of" in card
    assert (tmp_path / "run/example.png").exists()
    assert (tmp_path / "run/overview.png").stat().st_size > 10_000
