import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import RandomSampler
from peft.tuners.ia3.layer import Linear as IA3Linear
from torch import nn
from train_tiny import tiny_model
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from genaf_hf.adapter_search import METHODS, Genome, SearchSpace, adapt, suggest

SMALL = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "vit": tiny_model,
    "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**SMALL, mlp_ratio=2)),
    "beit": lambda: BeitForImageClassification(BeitConfig(**SMALL, intermediate_size=32)),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=2)
    ),
    "convnext": lambda: ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2)
    ),
}


@pytest.fixture
def space_of(config):
    """A function that gives the space of a classifier, and of nothing else."""

    def make(model) -> SearchSpace:
        side = 8 if getattr(model.config, "image_size", 8) == 8 else 16
        return SearchSpace.of(model, config(), torch.rand(2, 3, side, side))

    return make


def drawn(space: SearchSpace, count: int, seed: int = 0) -> list:
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    return [suggest(study.ask(), space) for _ in range(count)]


def test_a_vit_has_six_kinds_of_modules_in_each_block(space_of):
    space = space_of(tiny_model())
    assert space.kinds == [*(f"attention.{letter}_proj" for letter in "qkvo"), "mlp.fc1", "mlp.fc2"]
    assert space.blocks == [0, 1]
    assert len(space.targets) == 12
    assert list(space.known_configurations()) == ["LoRA q, v, rank 8", "LoRA all linear, rank 8", "head only"]


def test_known_configurations_are_what_they_are_called(space_of):
    space = space_of(tiny_model())
    genomes = {name: space.genome(parameters) for name, parameters in space.known_configurations().items()}
    query_value, everything, head = genomes.values()
    assert query_value.ranks == {f"vit.layers.{i}.attention.{name}_proj": 8 for i in (0, 1) for name in "qv"}
    assert everything.ranks == dict.fromkeys(space.targets, 8)
    assert (head.method, head.ranks) == ("head", {})
    for parameters in space.known_configurations().values():
        assert {name: each._contains(each.to_internal_repr(parameters[name])) for name, each in
                space.distributions.items()} == dict.fromkeys(space.distributions, True)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_blocks_and_takes_what_is_drawn(family, space_of):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    space = space_of(model)
    assert len(space.blocks) == (3 if family in ("swin", "convnext") else 2)
    assert not any(name.startswith("classifier") for name in space.targets)
    side = 8 if model.config.image_size == 8 else 16
    pixels = torch.rand(2, 3, side, side)
    assert set(METHODS) - {*space.methods, "head"} == ({"oft"} if family == "convnext" else set())
    for genome in drawn(space, 6):
        logits = adapt(model, genome.peft_config(model)).eval()(pixel_values=pixels).logits
        assert logits.isfinite().all()


def test_a_resnet_gives_its_convolutions_to_methods_that_take_them(resnet, space_of):
    space = space_of(resnet[0])
    assert space.methods == ["lora", "rslora", "dora"]
    assert all(target.convolution for target in space.targets.values())
    assert list(space.known_configurations()) == ["LoRA all linear, rank 8", "head only"]
    for genome in drawn(space, 6):
        adapt(resnet[0], genome.peft_config(resnet[0]))


def test_every_drawn_genome_is_valid(space_of):
    model = tiny_model()
    genomes = drawn(space_of(model), 100)
    assert {genome.method for genome in genomes} | {"head"} == {*space_of(model).methods, "head"}
    for genome in genomes:
        genome.peft_config(model)
        if genome.method == "oft":
            assert genome.ranks
            assert all(model.get_submodule(name).in_features % size == 0 for name, size in genome.ranks.items())


def test_a_block_that_is_off_is_left_alone_and_shares_change_ranks(space_of):
    space = space_of(tiny_model())
    parameters = space.known_configurations()["LoRA all linear, rank 8"]
    changed = space.genome({**parameters, "block.0": "off", "block.1": "half", "rank.mlp.fc1": -1})
    assert changed.ranks == {name: 4 for name in space.targets if name.startswith("vit.layers.1") and "fc1" not in name}
    doubled = space.genome({**parameters, "block.0": "double", "block.1": "double"})
    assert set(doubled.ranks.values()) == {16}


def test_an_encoder_without_blocks_is_refused(config):
    with pytest.raises(ValueError, match="no repeated blocks with linear layers or convolutions"):
        SearchSpace.of(nn.ModuleDict({"classifier": nn.Linear(4, 4)}), config(), torch.rand(2, 3, 8, 8))


def test_an_encoder_that_no_method_works_on_is_refused_with_the_first_reason(space_of, monkeypatch):
    def refuse(self, model):
        raise ValueError(f"{self.method} takes no such module.")

    monkeypatch.setattr(Genome, "peft_config", refuse)
    sentence = r"No adapter method works on this ViTForImageClassification \(lora: lora takes no such module\): choose"
    with pytest.raises(ValueError, match=sentence):
        space_of(tiny_model())


def test_a_method_that_computes_something_else_when_merged_is_left_out(space_of, monkeypatch, caplog):
    model = tiny_model().eval()
    monkeypatch.setattr(IA3Linear, "merge", lambda self, **options: self.get_base_layer().weight.zero_())
    with caplog.at_level("WARNING"):
        assert "ia3" not in space_of(model).methods
    assert "ia3 does not work on this encoder and is left out: merged, it gives other logits" in caplog.text


def test_learning_rates_span_two_decades_around_those_of_the_configuration(config):
    space = SearchSpace.of(tiny_model(), config(learning_rate=1e-3), torch.rand(2, 3, 8, 8))
    distribution = space.distributions["learning_rate"]
    np.testing.assert_allclose([distribution.low, distribution.high], [1e-4, 1e-2])
