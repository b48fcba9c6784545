import copy
import dataclasses

import pytest
import torch
from peft import PeftModel
from torch.nn import functional as F
from train_tiny import tiny_model

from genaf_hf.adapter_search import METHODS, Genome, adapt, merged_weights

TRAINING = {
    "alpha": 8,
    "dropout": 0.0,
    "learning_rate": 1e-3,
    "head_learning_rate": 2e-3,
    "genetic_weight": 20.0,
    "eps_share": 0.5,
    "steps": 2,
}
TARGETS = ["vit.layers.0.attention.q_proj", "vit.layers.1.mlp.fc1"]


def genome(method: str, targets: list[str] = TARGETS, **changes) -> Genome:
    """A genome on two modules, with ranks of their own where the method takes them."""
    ranks = [] if method == "head" else [2, 4] if METHODS[method].per_module else [4 if METHODS[method].size else 1] * 2
    return Genome(**{"method": method, "ranks": dict(zip(targets, ranks, strict=False)), **TRAINING, **changes})


def moved(model: PeftModel) -> PeftModel:
    """With every trainable parameter away from where it was initialized."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model.eval()


@pytest.fixture
def images():
    return torch.rand(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_merges_saves_and_loads(method, images, tmp_path):
    encoder = tiny_model(torch.float64)
    before = copy.deepcopy(encoder.state_dict())
    model = moved(adapt(encoder, genome(method).peft_config(encoder)))
    seen = images.clone().requires_grad_()
    logits = model(pixel_values=seen).logits
    loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1]))
    (input_gradient,) = torch.autograd.grad(loss, seen, retain_graph=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    assert input_gradient.abs().amax() > 0
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)

    with merged_weights(model):
        merged = model(pixel_values=seen).logits
        (merged_gradient,) = torch.autograd.grad(F.cross_entropy(merged, torch.tensor([0, 1, 2, 0, 1])), seen)
    torch.testing.assert_close(merged, logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(merged_gradient, input_gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(pixel_values=seen).logits, logits, rtol=0, atol=0)

    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(copy.deepcopy(encoder), tmp_path).eval()
    torch.testing.assert_close(loaded(pixel_values=images).logits, logits, rtol=0, atol=1e-6)  # PEFT loads float32
    plain = loaded.merge_and_unload()
    assert type(plain) is type(encoder)
    torch.testing.assert_close(plain(pixel_values=images).logits, logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(dict(encoder.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.convolutions])
def test_convolutions_take_ranks_of_their_own(method, resnet):
    targets = [f"resnet.encoder.stages.{stage}.layers.0.layer.0.convolution" for stage in (0, 1)]
    model = adapt(resnet[0], genome(method, targets).peft_config(resnet[0]))
    ranks = [model.get_submodule(f"base_model.model.{name}").r["default"] for name in targets]
    assert ranks == [2, 4]


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.per_module])
def test_ranks_are_those_of_the_genome(method):
    encoder = tiny_model()
    model = adapt(encoder, genome(method).peft_config(encoder))
    assert [model.get_submodule(f"base_model.model.{name}").r["default"] for name in TARGETS] == [2, 4]


@pytest.mark.parametrize("method", METHODS)
def test_json_gives_back_the_genome(method):
    assert Genome.from_json(genome(method).to_json()) == genome(method)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "lorra"}, 'method is "lorra", expected one of lora, rslora'),
        ({"ranks": {}}, "lora adapts 0 modules; expected none for head alone"),
        ({"method": "head"}, "head adapts 2 modules"),
        ({"ranks": {"a": 0}}, "A rank is 0, expected a whole number"),
        ({"ranks": {"a": 1.5}}, "A rank is 1.5, expected a whole number"),
        ({"method": "vera"}, r"vera takes one rank for all modules, not \[2, 4\]"),
        ({"dropout": 1.0}, r"dropout is 1.0, expected a share in \[0, 1\)"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a positive number"),
        ({"genetic_weight": float("nan")}, "genetic_weight is nan, expected 0 or more"),
    ],
)
def test_what_makes_no_adapter_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(genome("lora"), **changes)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"method": "lora"}', genome("lora").to_json() + "}"])
def test_what_is_no_genome_is_refused(text):
    with pytest.raises(ValueError, match="This is not a genome that genaf_hf can read"):
        Genome.from_json(text)


def test_a_genome_of_another_encoder_is_refused(resnet):
    with pytest.raises(ValueError, match=r"The ResNetForImageClassification has no module vit\.layers\.0"):
        genome("lora").peft_config(resnet[0])
