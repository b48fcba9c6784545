"""Pre-training by each method: what is saved, what moves, and runs that are killed or shared."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, TINY_VIT, colored_images
from pretrain_tiny import (
    DISTRIBUTED,
    LOCAL,
    PROCESSOR,
    TINY,
    TINY_DINO,
    TINY_SIMCLR,
    VIEW,
    pretrain_tiny,
    tiny_config,
    train_distributed,
)
from safetensors.torch import load_file
from transformers import ResNetConfig, ViTConfig, set_seed

from genaf_hf import load_encoder
from genaf_hf.errors import UserError
from genaf_hf.pretraining import METHODS, pretrain_encoder
from genaf_hf.pretraining.losses import next_center
from genaf_hf.pretraining.methods.dino import DINOTrainer
from genaf_hf.pretraining.projection import PrototypeHead

pytestmark = pytest.mark.slow(reason="pre-trains by all methods")

WITHOUT_US = """
import json, sys
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining
found = {}
for folder in sys.argv[1:]:
    model, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    found[folder] = [type(model).__name__, missing, AutoImageProcessor.from_pretrained(folder).size["height"]]
assert not [name for name in sys.modules if name.startswith("genaf_hf")]
print(json.dumps(found))
"""
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Tiny encoders of all methods, and two ResNets."""
    root, data = tmp_path_factory.mktemp("encoders"), colored_images(24, 0)
    made = {method: pretrain_tiny(method, root / method) for method in METHODS}
    for name, method, others in (
        ("resnet", "simclr", ([VIEW, VIEW], TINY_SIMCLR)),
        ("resnet-supervised", "supervised", ([VIEW],)),
    ):
        args = tiny_config(root / name)
        made[name] = pretrain_encoder(METHODS[method], data, ResNetConfig(**RESNET), PROCESSOR, args, *others)
    return made


def test_encoders_load_without_this_package(processes, folders, tmp_path):
    command = [sys.executable, "-c", WITHOUT_US, *map(str, folders.values())]
    found = json.loads(processes.run(command, check=True, cwd=tmp_path).stdout)
    assert {name: found[str(folder)] for name, folder in folders.items()} == {
        "mae": ["ViTMAEModel", [], 8],
        "dino": ["ViTModel", [], 8],
        "simclr": ["ViTModel", [], 8],
        "supervised": ["ViTModel", [], 8],
        "resnet": ["ResNetModel", [], 8],
        "resnet-supervised": ["ResNetModel", [], 8],
    }
    classes = {
        name: json.loads((folder / "config.json").read_text())["architectures"] for name, folder in folders.items()
    }
    assert classes == {
        "mae": ["ViTMAEForPreTraining"],
        "dino": ["ViTModel"],
        "simclr": ["ViTModel"],
        "supervised": ["ViTForImageClassification"],
        "resnet": ["ResNetModel"],
        "resnet-supervised": ["ResNetForImageClassification"],
    }


def test_encoders_become_classifiers_and_a_supervised_one_keeps_its_head(folders, caplog):
    caplog.set_level("INFO", "genaf_hf.models.loading")
    for folder in folders.values():
        model, _ = load_encoder(str(folder), CLASSES)
        assert model(torch.zeros(1, 3, 8, 8)).logits.shape == (1, 3)
    new = [record.message.partition(": ")[2] for record in caplog.records if record.message.startswith("New weights")]
    assert [message.startswith("none") for message in new] == [name.endswith("supervised") for name in folders]


def test_a_folder_that_is_there_is_returned_as_it_is(folders):
    before = (folders["dino"] / "model.safetensors").stat().st_mtime_ns
    assert pretrain_tiny("dino", folders["dino"]) == folders["dino"]
    assert (folders["dino"] / "model.safetensors").stat().st_mtime_ns == before
    assert not (folders["dino"] / "unfinished_run").exists()


def test_a_run_goes_on_with_the_images_that_it_began_with_alone(tmp_path):
    def killed(*given):
        raise KeyboardInterrupt

    def begin(images):
        method = replace(METHODS["supervised"], trainer=killed)
        pretrain_encoder(method, images, ViTConfig(**TINY_VIT), PROCESSOR, tiny_config(tmp_path / "vit"), [VIEW])

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            begin(colored_images(24, 0))
    with pytest.raises(UserError, match=r"vit holds .* other settings \(content of the images was "):
        begin(colored_images(24, 1))


def test_simclr_is_refused_batches_of_one_image_from_which_it_learns_nothing(tmp_path):
    with pytest.raises(UserError, match=r"per_device_train_batch_size is 1 of 24 image.*, but simclr tells an image"):
        pretrain_tiny("simclr", tmp_path / "out", per_device_train_batch_size=1, gradient_accumulation_steps=8)


@pytest.mark.parametrize("method", ["dino", "simclr", "mae"])
def test_activations_can_be_computed_anew_and_arguments_stay_the_callers(method, folders, tmp_path):
    args = tiny_config(tmp_path / "again", gradient_checkpointing=True)
    before = args.to_dict()
    set_seed(0)
    config, *others = TINY[method]
    folder = pretrain_encoder(METHODS[method], colored_images(24, 0), config, PROCESSOR, args, *others)
    assert args.to_dict() == before
    expected = load_file(folders[method] / "model.safetensors")
    torch.testing.assert_close(load_file(folder / "model.safetensors"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["dino-resnet", "simclr-resnet", "supervised-resnet"])
def test_what_cannot_compute_activations_anew_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"gradient_checkpointing is True, but a .* has no activation checkpointing"):
        pretrain_tiny(name, tmp_path / name, gradient_checkpointing=True)


def test_what_has_no_evaluation_has_no_best_weights(tmp_path):
    with pytest.raises(UserError, match='save_strategy is "best", but pre-training has no images'):
        tiny_config(tmp_path, save_strategy="best", metric_for_best_model="loss")


def test_the_card_tells_method_data_and_settings(folders):
    cards = {name: (folder / "README.md").read_text() for name, folder in folders.items()}
    assert "24 images of images without a name, by DINO (Caron et al., ICCV 2021" in cards["dino"]
    assert "| teacher\\_momentum | 0.9 |" in cards["dino"]
    assert "{'size': 4, 'scale': (0.2, 0.5)}\\]" in cards["dino"]
    assert "| learning\\_rate | 0.003 |" in cards["mae"]
    assert "pipeline_tag: image-classification" in cards["supervised"]
    assert "- self-supervised" in cards["simclr"]
    assert not [card for card in cards.values() if str(folders["mae"].parent) in card]


def test_two_processes_train_what_one_does(processes, tmp_path):
    train_distributed(tmp_path / "one", batch_size=8)
    processes.run_on_two_processes(Path(__file__).with_name("pretrain_tiny.py"), tmp_path / "two")
    for name in DISTRIBUTED:
        one, two = (load_file(tmp_path / count / name / "model.safetensors") for count in ("one", "two"))
        torch.testing.assert_close(two, one, rtol=0, atol=2e-6)
        begin = load_file(pretrain_tiny(name, tmp_path / "begin" / name, learning_rate=0.0) / "model.safetensors")
        trained = [weight for weight in begin if "running" not in weight and "num_batches" not in weight]
        assert max((one[weight] - begin[weight]).abs().max() for weight in trained) > 1e-4


@pytest.fixture
def dino(tmp_path) -> DINOTrainer:
    """A trainer of one step."""
    set_seed(0)
    given = (tiny_config(tmp_path / "run", max_steps=1), colored_images(8, 0), PROCESSOR, [VIEW, VIEW, LOCAL])
    return METHODS["dino"].trainer(ViTConfig(**TINY_VIT), TINY_DINO, *given)


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def test_a_step_of_dino_moves_the_teacher_by_its_momentum_and_keeps_the_last_layer(dino):
    before = weights(dino.model.student)
    torch.testing.assert_close(weights(dino.model.teacher), before, rtol=0, atol=0)
    dino.train()
    student, teacher = weights(dino.model.student), weights(dino.model.teacher)
    torch.testing.assert_close(student["head.prototypes"], before["head.prototypes"], rtol=0, atol=0)
    moved = [name for name in before if not torch.equal(student[name], before[name])]
    assert len(moved) >= len(before) - 2
    expected = {name: 0.9 * before[name] + 0.1 * student[name] for name in before}
    torch.testing.assert_close(teacher, expected, rtol=0, atol=1e-6)


def test_after_the_first_epoch_the_last_layer_of_dino_moves(dino):
    dino.args.max_steps = 2
    before = weights(dino.model.student)["head.prototypes"]
    dino.train()
    assert not torch.equal(weights(dino.model.student)["head.prototypes"], before)


def test_a_step_of_dino_moves_the_center_to_the_teachers_mean(dino):
    batch = dino.data_collator([dino.train_dataset[i] for i in range(8)])
    first, second, local = dino.views(batch)
    assert first.shape == second.shape == (8, 3, 8, 8)
    assert local.shape == (8, 3, 4, 4)
    with torch.no_grad():
        logits = dino.model.teacher(torch.cat([first, second]))
    assert logits.abs().max() <= 1 + 1e-6  # cosines
    dino.compute_loss(dino.model, batch)
    expected = next_center(torch.zeros(TINY_DINO.prototypes), logits, TINY_DINO.center_momentum)
    torch.testing.assert_close(dino.model.center, expected, rtol=0, atol=1e-6)


def test_views_change_with_the_epoch_and_are_normalized(dino):
    batch = dino.data_collator([dino.train_dataset[i] for i in range(8)])
    first = dino.views(batch)[0]
    torch.testing.assert_close(dino.views(batch)[0], first, rtol=0, atol=0)
    dino.state.epoch = 0.9
    torch.testing.assert_close(dino.views(batch)[0], first, rtol=0, atol=0)
    dino.state.epoch = 1.0
    assert not torch.allclose(dino.views(batch)[0], first, atol=0.1)
    assert -1 <= first.min() < -0.5 < 0.5 < first.max() <= 1


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_head_that_normalizes_over_the_batch_does_not_see_what_all_features_share(batch_norm):
    set_seed(0)
    head = PrototypeHead(6, TINY_DINO.hidden_size, TINY_DINO.bottleneck_size, TINY_DINO.prototypes, batch_norm)
    features, shared = torch.randn(8, 6), 3 * torch.randn(6)
    assert torch.allclose(head(features + shared), head(features), atol=1e-4) is batch_norm
