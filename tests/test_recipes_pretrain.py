"""recipes/pretrain.py, and the configurations of the recipes for each family."""

import logging
import math
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from conftest import TINY_VIT
from datasets import DatasetDict
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoModelForImageClassification

from genaf_hf import GenAFConfig
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.cli.harden import FAMILIES, OTHERS, TYPES, family_of
from genaf_hf.cli.pretrain import default_config
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.errors import UserError
from genaf_hf.pipelines.harden import SET_BY_FAMILY, HardeningArguments
from genaf_hf.pretraining.arguments import (
    PretrainingArguments,
    PretrainingConfig,
    encoder_config,
    method_settings,
    views,
)
from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.digits_encoder import DIGITS_ENCODERS
from genaf_hf.pretraining.encoder import LEAVES
from genaf_hf.pretraining.methods import METHODS, Settings, register_method
from genaf_hf.pretraining.pretrain import pretrain
from genaf_hf.pretraining.solo_learn import METHODS as SOLO_LEARN
from genaf_hf.pretraining.view_trainer import ViewTrainer

pytestmark = pytest.mark.slow(reason="pre-trains")

RECIPES = Path(__file__).parents[1] / "recipes"
# Their settings as they are in their code; their loss sums over a batch of 256 where ours takes the mean.
AUTHORS = {
    "learning_rate": 1e-4,
    "head_learning_rate": 5e-3,
    "layer_decay": 1,
    "weight_decay": 8e-4,
    "optim_args": "decoupled_weight_decay=false",
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": {"epoch_decay": 0.96},
    "warmup_steps": 0,
    "max_grad_norm": 0,
    "per_device_train_batch_size": 256,
    "num_train_epochs": 50,
    "eps": 0.03,
    "steps": 10,
    "step_size": 0.007,
    "norm": "linf",
    "random_start": False,
    "eps_warmup_ratio": 0,
    "genetic_weight": 5120,
    "genetic_share": math.inf,
    "clean_share": 0,
    "redundant_share": 0.2,
    "layer_assessment": "ascent",
    "adapt_learning_rate": 1e-3,
}
PAPER_METHODS = ["byol", "dino", "mocov2plus", "mocov3", "nnclr", "ressl", "simclr", "swav", "vibcreg", "wmse"]
TINY = {name: value for name, value in TINY_VIT.items() if name != "image_size"}
DECODER = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
PRETRAINING = (PretrainingArguments, PretrainingConfig)
HEAD = {"hidden_size": 16, "bottleneck_size": 8, "prototypes": 12}


def asked_for(**changes) -> PretrainingArguments:
    settings = {"method": "dino", "dataset_name": "digits", "image_size": 8, "model_settings": TINY}
    return PretrainingArguments(**{**settings, **changes})


@pytest.mark.parametrize("method", ["mae", "dino"])
def test_a_killed_run_goes_on_to_the_bit_and_never_mixes_with_another(processes, dataset, tmp_path, method):
    dataset.save_to_disk(tmp_path / "colors")
    settings = {
        "method": method,
        "dataset_name": str(tmp_path / "colors"),
        "model_settings": TINY | (DECODER if method == "mae" else {}),
        "method_settings": HEAD if method == "dino" else None,
        "image_size": 8,
        "local_views": 1 if method == "dino" else None,
        "max_steps": 30,
        "save_steps": 2,
        "use_cpu": True,
        "report_to": "none",
    }
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    checkpoint = killed / "unfinished_run/checkpoints/checkpoint-4/trainer_state.json"
    processes.start_and_kill([sys.executable, RECIPES / "pretrain.py", file, "--output_dir", killed], checkpoint)
    assert not (killed / "config.json").exists()

    def run(folder: Path, *flags: str) -> None:
        pretrain(*parse_arguments(PRETRAINING, None, [str(file), "--output_dir", str(folder), *flags]))

    with pytest.raises(ValueError, match=r"unfinished run with other settings \(seed was 42 and is 1\)"):
        run(killed, "--seed", "1")
    run(killed)
    run(whole)
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()} == {*LEAVES}
    for name in ("model.safetensors", "README.md", "config.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"method": "mae", "model_type": "resnet", "model_settings": None},
            'model_type is "resnet", but mae trains only vit',
        ),
        ({"image_size": 0}, "image_size is 0, expected 1 to 2048"),
        ({"image_size": 4096}, "image_size is 4096, expected 1 to 2048"),
        ({"image_size": 10}, "image_size is 10, expected a positive multiple of the patch size 4"),
        ({"local_size": 6}, "local_size is 6, expected a positive multiple of the patch size 4"),
        ({"local_size": 0}, "local_size is 0, expected a positive multiple of the patch size 4"),
        ({"local_views": -1}, "local_views is -1"),
        ({"color": -0.1}, "color is -0.1"),
        ({"method": "simclr", "local_views": 2}, "local_views is 2, but simclr has no such views: leave it out"),
        ({"method": "mae", "color": 0.5}, "color is 0.5, but mae has no such views: leave it out"),
        ({"crop_scale": [0.5, 0.2]}, r"crop_scale is \[0.5, 0.2\], expected two shares"),
        ({"crop_scale": [0.5]}, r"crop_scale is \[0.5\], expected two shares"),
        ({"model_settings": '{"hidden_sice": 3}'}, "model_settings have the unknown hidden_sice; known are "),
        ({"model_settings": {"image_size": 3}}, "model_settings have the unknown image_size"),
        ({"model_settings": "hidden_size: 3"}, "expected JSON such as"),
        ({"model_settings": TINY | {"num_channels": 1}}, "unknown num_channels"),
        ({"model_settings": TINY | {"problem_type": "regression"}}, "unknown problem_type"),
        ({"model_settings": TINY | {"patch_size": 0}}, "patch_size 0, expected 1 to"),
        ({"model_settings": TINY | {"patch_size": [2, 2]}}, "patch_size"),
        ({"model_settings": TINY | {"num_attention_heads": 5}}, "expected a multiple of 5 heads"),
        ({"model_settings": TINY | {"hidden_act": "foo"}}, "model_settings make no vit: KeyError.*foo"),
        ({"model_settings": TINY | {"hidden_size": "16"}}, "model_settings make no vit: Field 'hidden_size' expected"),
        ({"model_settings": TINY | {"hidden_size": 10**6, "num_attention_heads": 1}}, "model_settings make no vit"),
        ({"model_settings": TINY | {"hidden_dropout_prob": 2.0}}, "expected a share in"),
        ({"method": "mae", "model_settings": TINY | DECODER | {"mask_ratio": 1.0}}, "mask_ratio 1.0, expected a share"),
        (
            {"method": "mae", "model_settings": TINY | DECODER | {"decoder_hidden_size": 10}},
            "decoder_hidden_size 10, expected a multiple of 4",
        ),
        ({"model_type": "resnet", "model_settings": {"depths": [1, 1]}}, r"depths \[1, 1\], expected one for each"),
        ({"method_settings": {"prototypes": 0}}, "prototypes in method_settings is 0, expected more"),
        ({"method_settings": {"center_momentum": 2}}, "center_momentum in method_settings is 2, expected a share"),
        ({"method_settings": {"student_temperature": "a"}}, 'is "a", expected a number'),
        ({"method": "simclr", "method_settings": {"temperature": -1}}, "temperature in method_settings is -1"),
        ({"color": float("inf")}, "color is inf"),
        ({"model_settings": "[3]"}, "expected settings by name, such as"),
        ({"method_settings": {"temperature": 3}}, "unknown temperature; known are batch_norm, bottleneck_size"),
        ({"method": "supervised", "method_settings": {"temperature": 3}}, "unknown temperature; known are none"),
        ({"dataset_name": "nobody/nothing"}, 'The dataset "nobody/nothing" is neither a local folder'),
    ],
)
def test_what_cannot_be_worked_with_is_refused_before_training(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        pretrain(asked_for(**changes), PretrainingConfig(output_dir=str(tmp_path / "run"), use_cpu=True))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"what is of no finished run \(config.json\).*choose another output_dir"):
        pretrain(asked_for(), PretrainingConfig(output_dir=str(tmp_path), use_cpu=True))


def test_views_are_those_of_the_papers_unless_flags_leave_them_out():
    dino = views(PretrainingArguments("dino", "digits"), encoder_config(PretrainingArguments("dino", "digits")))
    assert [view.size for view in dino] == [224, 224, *[96] * 8]
    assert [view.scale for view in dino] == [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 8
    assert [(view.blur, view.solarize) for view in dino[:3]] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]
    assert {(view.brightness, view.contrast, view.saturation, view.hue) for view in dino} == {(0.4, 0.4, 0.2, 0.1)}

    arguments = asked_for(method="simclr", color=0.0, blur=False, flip=False)
    [first, second] = views(arguments, encoder_config(arguments))
    assert first == second
    assert first == Augmentation(8, scale=(0.08, 1.0), flip=False)


def test_settings_come_from_json_and_from_yaml_alike():
    for given in ({"temperature": 0.5}, '{"temperature": 0.5}'):
        settings = method_settings(asked_for(method="simclr", method_settings=given))
        assert (settings.temperature, settings.output_size) == (0.5, 128)
    assert encoder_config(asked_for(model_settings='{"patch_size": 2, "hidden_size": 24}')).hidden_size == 24
    resnet = asked_for(
        method="simclr", model_type="resnet", model_settings={"depths": [2, 2, 2, 2], "layer_type": "basic"}
    )
    assert encoder_config(resnet).model_type == "resnet"


def test_the_papers_settings_take_the_encoder_of_any_of_its_methods():
    assert {*PAPER_METHODS} <= {*SOLO_LEARN}
    named = ["--model_name_or_path", "byol-resnet18", "--dataset_name", "uoft-cs/cifar10", "--output_dir", "out"]
    argv = [str(CONFIGS / "paper.yaml"), *named, "--use_cpu"]
    arguments, config = parse_arguments((HardeningArguments, GenAFConfig), None, argv)
    assert (arguments.model_name_or_path, arguments.image_size, arguments.head) == ("byol-resnet18", 64, "mlp")
    assert {name: getattr(config, name) for name in AUTHORS} == AUTHORS


@pytest.mark.parametrize("family", ["vit", "dino", "mae"])
def test_the_default_of_a_family_is_read_by_its_recipe(family):
    assert f'default_config="digits_{family}.yaml"' in (RECIPES / f"genaf_{family}.py").read_text()
    arguments, _ = parse_arguments((HardeningArguments, GenAFConfig), CONFIGS / f"digits_{family}.yaml", ["--use_cpu"])
    assert arguments.model_name_or_path in DIGITS_ENCODERS
    assert arguments.dataset_name == "digits"


@pytest.mark.parametrize(
    ("kind", "file", "rate", "decay"),
    [("dino", "encoder.yaml", None, 1.0), ("resnet", "encoder.yaml", None, 1.0), ("mae", "mae.yaml", 1.25e-4, 0.65)],
)
def test_a_named_encoder_gets_the_settings_of_its_family(kind, file, rate, decay, encoders):
    argv = ["--model_name_or_path", encoders[kind], "--dataset_name", "digits", "--output_dir", "out", "--use_cpu"]
    assert family_of({"model_name_or_path": encoders[kind]}) == file
    _, config, _ = parse_arguments(TYPES, None, argv, family_config=lambda given: CONFIGS / family_of(given))
    assert (config.learning_rate, config.layer_decay, config.per_device_train_batch_size) == (rate, decay, 64)
    assert not config.load_best_model_at_end


def test_a_file_of_the_user_is_laid_over_that_of_the_family(encoders, tmp_path):
    settings = {
        "model_name_or_path": encoders["mae"],
        "dataset_name": "digits",
        "output_dir": "out",
        "layer_decay": 0.9,
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    argv = [str(tmp_path / "own.yaml"), "--weight_decay", "0.1", "--use_cpu"]
    _, config, _ = parse_arguments(TYPES, None, argv, family_config=lambda given: CONFIGS / family_of(given))
    assert (config.defence, config.eval_strategy, config.learning_rate) == ("universal", "epoch", 1.25e-4)
    assert (config.layer_decay, config.weight_decay) == (0.9, 0.1)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**settings, "defence": "gen-af", "gen-af": {"steps": 2}}))
    _, config, _ = parse_arguments(TYPES, None, argv, family_config=lambda given: CONFIGS / family_of(given))
    assert (config.defence, config.steps) == ("gen-af", 2)


def test_a_card_states_what_families_have_settings_of_their_own_for():
    written = [yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8")) for file in (OTHERS, *FAMILIES.values())]
    assert {name for each in written for name in each} <= {
        *SET_BY_FAMILY,
        "learning_rate",
        "save_steps",
        "save_total_limit",
    }


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A function that runs recipes/pretrain.py with flags, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *flags, "--use_cpu"])
        runpy.run_path(str(RECIPES / "pretrain.py"), run_name="__main__")

    return run


@pytest.mark.parametrize("flags", [[], *(["--method", method] for method in METHODS), ["--method=mae"]], ids=str)
def test_there_is_a_default_for_each_method(flags):
    method = flags[-1].removeprefix("--method=") if flags else "simclr"
    default = default_config([*flags, "--seed", "1"])
    arguments, config = parse_arguments(PRETRAINING, default, [*flags, "--use_cpu"])
    assert (arguments.method, arguments.dataset_name) == (method, "digits")
    assert config.output_dir == f"digits-pretrained-{method}"  # not where the recipes keep an encoder of their own
    assert views(arguments, encoder_config(arguments))
    method_settings(arguments)


@pytest.mark.parametrize(("method", "images"), [("mae", "1,297"), ("dino", "1,297"), ("supervised", "1,167")])
def test_the_default_of_a_method_trains(method, images, recipe, capsys):
    recipe("--method", method, "--max_steps", "2")
    assert f"The encoder is in digits-pretrained-{method}." in capsys.readouterr().out
    assert f"on {images} images of digits" in ModelCard.load(f"digits-pretrained-{method}/README.md").text
    assert AutoModel.from_pretrained(f"digits-pretrained-{method}").config.hidden_size == 64


def test_an_unknown_method_is_refused(recipe, capsys):
    with pytest.raises(SystemExit):
        recipe("--method", "byol")
    assert "invalid choice: 'byol' (choose from" in capsys.readouterr().err


# ---- labels ----


@pytest.fixture
def quick(tmp_path):
    """A function that pre-trains a tiny encoder for two steps on a dataset."""

    def run(dataset_name: Path, **changes) -> Path:
        config = PretrainingConfig(output_dir=str(tmp_path / "encoder"), max_steps=2, use_cpu=True, report_to="none")
        return pretrain(asked_for(dataset_name=str(dataset_name), **changes), config)

    return run


@pytest.mark.parametrize("method", ["mae", "dino", "simclr"])
def test_methods_without_labels_need_none_and_see_every_image(method, quick, dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO, "genaf_hf")
    (tmp_path / "flat").mkdir()
    for index, image in enumerate(dataset["train"]["image"][:]):
        image.save(tmp_path / "flat" / f"{index}.png")
    settings = {"dino": HEAD, "simclr": {"hidden_size": 16}}.get(method)
    folder = quick(
        tmp_path / "flat",
        method=method,
        method_settings=settings,
        model_settings=TINY | (DECODER if method == "mae" else {}),
        local_views=1 if method == "dino" else None,
        label_column="what supervised training would read",
    )
    assert "on 48 images of flat" in ModelCard.load(folder / "README.md").text
    assert next(message for message in caplog.messages if "images" in message).startswith("Training on 48 images")


def test_supervised_training_needs_labels_and_tells_of_its_classes(quick, dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO, "genaf_hf")
    DatasetDict({"train": dataset["train"].remove_columns("label")}).save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match="0 columns could be the label"):
        quick(tmp_path / "unlabelled", method="supervised")
    dataset.save_to_disk(tmp_path / "labelled")
    quick(tmp_path / "labelled", method="supervised", max_train_samples=30)
    [table] = [message for message in caplog.messages if "smallest class" in message]
    assert "| train | 30     | 3       | red (10)       | red (10)      |" in table


@pytest.mark.usefixtures("own_registries")
def test_a_method_of_ones_own_is_one_function(quick, dataset, tmp_path):
    @dataclass(frozen=True)
    class Mine(Settings):
        smoothing: float = 0.1

    @register_method(title="mine (Me, 2026)", views=(Augmentation(224),), settings=Mine, labelled=True)
    def my_own(config, settings, *others):
        assert settings.smoothing == 0.2
        return ViewTrainer(AutoModelForImageClassification.from_config(config), *others, labels=True)

    dataset.save_to_disk(tmp_path / "labelled")
    card = quick(tmp_path / "labelled", method="my-own", method_settings={"smoothing": 0.2}) / "README.md"
    assert "by mine (Me, 2026)." in card.read_text()
    assert "| smoothing | 0.2 |" in card.read_text()
    with pytest.raises(UserError, match='"my-own" is known already'):
        register_method(title="", views=())(my_own)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("pretrain_*.yaml")), ids=lambda file: file.stem)
def test_configurations_of_pre_training_are_read_by_the_recipe(file):
    argv = [str(file), "--use_cpu", "--dataset_name", "digits", "--output_dir", "out"]
    arguments, _ = parse_arguments(PRETRAINING, None, argv)
    assert views(arguments, encoder_config(arguments))
    method_settings(arguments)
