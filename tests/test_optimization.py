"""Learning rates of the parts of a model."""

import pytest
import torch
from one_step import batch_norm_model
from peft import LoraConfig, get_peft_model
from torch import nn
from train_tiny import PROCESSOR, tiny_model, tiny_trainer
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    CLIPConfig,
    CLIPForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from genaf_hf import GenAFConfig, GenAFTrainer
from genaf_hf.models.blocks import encoder_blocks
from genaf_hf.models.head import HEAD, in_head
from genaf_hf.training.optimization import fine_tuning_rate, layer_decay_powers, parameter_groups

SMALL = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
COUPLED = "decoupled_weight_decay=false"
RATES = {"learning_rate": 0.3, "head_learning_rate": 0.7, "weight_decay": 0.05}


def swin() -> nn.Module:
    return SwinForImageClassification(
        SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=2)
    )


FAMILIES = {  # with the number of blocks
    "vit": (tiny_model, 2),
    "beit": (lambda: BeitForImageClassification(BeitConfig(**SMALL, intermediate_size=32)), 2),
    "clip": (lambda: CLIPForImageClassification(CLIPConfig(vision_config=SMALL)), 2),
    "swin": (swin, 3),
    "convnext": (
        lambda: ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2)),
        3,
    ),
}


@pytest.mark.parametrize("optim_args", [None, COUPLED])
def test_without_layer_decay_a_model_has_four_groups_in_the_order_of_published_runs(optim_args, tmp_path):
    trainer = tiny_trainer(tmp_path, optim_args=optim_args)
    trainer.create_optimizer()
    model, decayed = trainer.model, set(trainer.get_decay_parameter_names(trainer.model))
    rates = trainer.args.learning_rate, trainer.args.head_learning_rate
    expected = [
        (
            [p for name, p in model.named_parameters() if (in_head(name, HEAD), name in decayed) == (head, decay)],
            rates[head],
        )
        for head in (False, True)
        for decay in (False, True)
    ]
    assert len(trainer.optimizer.param_groups) == 4
    for group, (parameters, rate) in zip(trainer.optimizer.param_groups, expected, strict=True):
        assert [id(each) for each in group["params"]] == [id(each) for each in parameters]
        assert group["lr"] == rate


def test_weights_of_batch_norm_do_not_decay_whatever_their_names(tmp_path):
    trainer = tiny_trainer(tmp_path, model=batch_norm_model(torch.float32))
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    assert {name for name, each in trainer.model.named_parameters() if each.ndim > 1} == decayed


def test_rates_of_a_vit_decay_as_in_the_code_of_beit_and_mae():
    powers = layer_decay_powers(tiny_model())
    expected = {"embeddings": 3, "layers.0": 2, "layers.1": 1, "layernorm": 0}
    for name, power in powers.items():
        [part] = [part for part in expected if name.startswith(f"vit.{part}.")]
        assert power == expected[part], name
    assert powers.keys() == {name for name, _ in tiny_model().named_parameters() if not in_head(name, HEAD)}


def test_what_merges_patches_between_stages_decays_with_the_block_before_it():
    powers = layer_decay_powers(swin())
    assert powers["swin.embeddings.norm.weight"] == 4
    assert powers["swin.encoder.layers.0.blocks.0.layernorm_before.weight"] == 3
    assert powers["swin.encoder.layers.0.downsample.reduction.weight"] == 3
    assert powers["swin.encoder.layers.1.blocks.0.layernorm_before.weight"] == 2
    assert powers["swin.encoder.layers.1.blocks.1.layernorm_before.weight"] == 1
    assert powers["swin.layernorm.weight"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_of_every_family_decay_block_by_block_from_the_head_down(family):
    make, blocks = FAMILIES[family]
    with torch.device("meta"):
        powers = list(layer_decay_powers(make()).values())
    assert powers == sorted(powers, reverse=True)
    assert {*powers} == set(range(blocks + 2))


def test_blocks_are_the_same_under_adapters():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=3)
    model = ResNetForImageClassification(config)
    plain = list(encoder_blocks(model))
    assert plain == [f"resnet.encoder.stages.{name}" for name in ("0.layers.0", "1.layers.0", "1.layers.1")]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["convolution"], modules_to_save=["classifier"]))
    assert list(encoder_blocks(adapted)) == [f"base_model.model.{name}" for name in plain]


def test_adapters_have_the_rate_of_their_block_and_the_head_keeps_its_own():
    adapters = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"])
    model = get_peft_model(tiny_model(), adapters)
    groups = parameter_groups(model, [], **RATES, layer_decay=0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(named) == len(rates) == 6
    for name, rate in named.items():
        part = next(part for part in ("layers.0", "layers.1", "classifier") if part in name)
        assert rate == {"layers.0": 0.3 * 0.25, "layers.1": 0.3 * 0.5, "classifier": 0.7}[part], name


def test_layer_decay_is_refused_for_an_encoder_without_blocks():
    model = nn.ModuleDict({"encoder": nn.Linear(4, 4), "classifier": nn.Linear(4, 2)})
    with pytest.raises(ValueError, match=r"^layer_decay is not 1, but the encoder has no repeated blocks [^\n]+$"):
        parameter_groups(model, [], **RATES, layer_decay=0.5)
    assert len(parameter_groups(model, [], **RATES, layer_decay=1.0)) == 2


def test_stage_1_trains_by_the_decayed_rates_and_stage_2_by_its_own(tmp_path):
    trainer = tiny_trainer(
        tmp_path,
        layer_decay=0.5,
        learning_rate=8e-3,
        head_learning_rate=2e-3,
        adapt_learning_rate=7e-4,
        max_steps=1,
        adapt_max_steps=1,
    )
    trainer.adversarial_finetune()
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 8e-3  # the one that the Trainer logs
    rates = {id(p): group["initial_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    powers = layer_decay_powers(trainer.model)
    for name, parameter in trainer.model.named_parameters():
        assert rates[id(parameter)] == (2e-3 if in_head(name, HEAD) else 8e-3 * 0.5 ** powers[name]), name
    trainer.adapt(["classifier.weight", "vit.layers.0.mlp.fc1.weight"])
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {7e-4}


@pytest.mark.parametrize(("parameters", "rate"), [(10, 5e-4), (3_000_000, 5e-4), (12_000_000, 2.5e-4)])
def test_a_rate_that_nobody_named_falls_with_the_root_of_the_size(parameters, rate):
    encoder = nn.Module()
    encoder.weight = nn.Parameter(torch.empty(parameters, device="meta"))
    assert fine_tuning_rate(encoder) == pytest.approx(rate)


def test_a_trainer_fills_in_the_rate_and_leaves_the_configuration_alone(tmp_path):
    config = GenAFConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    model = tiny_model()
    assert GenAFTrainer(model, config, processing_class=PROCESSOR).args.learning_rate == fine_tuning_rate(model)
    assert config.learning_rate is None
