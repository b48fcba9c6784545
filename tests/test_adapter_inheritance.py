import dataclasses

import pytest
import torch
from test_adapter_genome import TARGETS, genome, moved
from train_tiny import tiny_model

from genaf_hf.adapter_search import METHODS, Genome, adapt
from genaf_hf.adapter_search.fitness import save_adapter
from genaf_hf.adapter_search.inheritance import lora_layers, set_factors


@pytest.fixture
def encoder():
    return tiny_model()


@pytest.fixture
def images():
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def raised(encoder, own: Genome, folder, seed: int = 0):
    """A trained parent, as far as a child can tell, and its folder."""
    torch.manual_seed(seed)
    model = adapt(encoder, own.peft_config(encoder))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_adapter(model, own, folder)
    return model.eval(), folder


def child_of(encoder, own: Genome, *parents):
    torch.manual_seed(9)
    return adapt(encoder, own.peft_config(encoder), dict.fromkeys(parents, 1)).eval()


def updates(model) -> dict[str, torch.Tensor]:
    found = {name: layer.get_delta_weight("default") for name, layer in lora_layers(model).items()}
    assert found
    return found


@pytest.mark.parametrize("method", METHODS)
def test_the_child_of_one_parent_with_its_own_genome_is_that_parent(method, encoder, images, tmp_path):
    parent, folder = raised(encoder, genome(method), tmp_path)
    child = child_of(encoder, genome(method), folder)
    torch.testing.assert_close(
        child(pixel_values=images).logits, parent(pixel_values=images).logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("parent", ["lora", "rslora"])
@pytest.mark.parametrize("child", ["lora", "rslora", "dora"])
def test_the_child_of_one_parent_of_another_variant_computes_what_it_did(parent, child, encoder, images, tmp_path):
    model, folder = raised(encoder, genome(parent), tmp_path)
    torch.testing.assert_close(
        child_of(encoder, genome(child), folder)(pixel_values=images).logits,
        model(pixel_values=images).logits,
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_another_alpha_changes_nothing_of_what_is_inherited(method, encoder, images, tmp_path):
    model, folder = raised(encoder, genome(method, alpha=8), tmp_path)
    torch.testing.assert_close(
        child_of(encoder, genome(method, alpha=3), folder)(pixel_values=images).logits,
        model(pixel_values=images).logits,
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("method", ["loha", "lokr", "vera", "miss", "hra", "oft"])
def test_a_module_takes_all_tensors_of_its_parent_or_none(method, encoder, tmp_path):
    """Factors of a product that only some were taken over of would be worse than a cold start."""
    _, folder = raised(encoder, genome(method), tmp_path)
    own = genome(method)
    other = dataclasses.replace(own, ranks={name: rank // 2 for name, rank in own.ranks.items()})
    child, cold = child_of(encoder, other, folder), child_of(encoder, other)
    names = [name for name, each in child.named_parameters() if each.requires_grad and "classifier" not in name]
    assert names
    for name in names:
        same = torch.equal(child.get_parameter(name), cold.get_parameter(name))
        assert same or method == "lokr"
    if method == "lokr":  # of 4 x 4 and 8 x 4, what is full at rank 4 is not at rank 1
        assert any(torch.equal(child.get_parameter(name), cold.get_parameter(name)) for name in names)


def test_convolutions_inherit_magnitudes_too(resnet, tmp_path):
    encoder = resnet[0].eval()
    targets = ["resnet.encoder.stages.0.layers.0.layer.0.convolution"]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    parent, folder = raised(encoder, genome("lora", targets), tmp_path)
    child = child_of(encoder, genome("dora", targets), folder)
    torch.testing.assert_close(
        child(pixel_values=images).logits, parent(pixel_values=images).logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("first", "second"), [("lora", "lora"), ("lora", "rslora"), ("rslora", "dora")])
def test_a_large_child_of_two_has_the_mean_of_their_updates_and_heads(first, second, encoder, tmp_path):
    parents = [
        raised(encoder, genome(method, alpha=alpha), tmp_path / str(seed), seed)
        for seed, (method, alpha) in enumerate([(first, 8), (second, 3)])
    ]
    child = child_of(encoder, dataclasses.replace(genome("rslora"), ranks=dict.fromkeys(TARGETS, 8)),
                     *(folder for _, folder in parents))  # fmt: skip
    for name, update in updates(child).items():
        mean = sum(updates(parent)[name] for parent, _ in parents) / 2
        torch.testing.assert_close(update, mean, rtol=1e-4, atol=1e-5)
    heads = [model.base_model.model.classifier.weight for model in (child, *(parent for parent, _ in parents))]
    torch.testing.assert_close(heads[0], (heads[1] + heads[2]) / 2)


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_the_parent_of_more_genes_counts_more(method, encoder, tmp_path):
    parents = [raised(encoder, genome(method), tmp_path / str(seed), seed) for seed in (0, 1)]
    weights = dict(zip((folder for _, folder in parents), (3, 1), strict=True))
    large = dataclasses.replace(genome(method), ranks=dict.fromkeys(TARGETS, 8 if method == "lora" else 1))
    child = adapt(encoder, large.peft_config(encoder), weights).eval()
    for name, update in updates(child).items() if method == "lora" else ():
        first, second = (updates(parent)[name] for parent, _ in parents)
        torch.testing.assert_close(update, 0.75 * first + 0.25 * second, rtol=1e-4, atol=1e-5)
    names = [name for name, each in child.named_parameters() if each.requires_grad and "lora_" not in name]
    assert len(names) == 2 + len(TARGETS) * (method == "ia3")
    for name in names:
        first, second = (parent.get_parameter(name) for parent, _ in parents)
        torch.testing.assert_close(child.get_parameter(name), 0.75 * first + 0.25 * second)


def test_a_module_that_one_parent_has_counts_half(encoder, tmp_path):
    first, second = TARGETS
    parents = [
        raised(encoder, Genome(**{**vars(genome("lora")), "ranks": {target: 2}}), tmp_path / str(seed), seed)
        for seed, target in enumerate(TARGETS)
    ]
    child = child_of(encoder, genome("lora"), *(folder for _, folder in parents))
    for (parent, _), name in zip(parents, (first, second), strict=True):
        name = f"base_model.model.{name}"
        torch.testing.assert_close(updates(child)[name], updates(parent)[name] / 2, rtol=1e-4, atol=1e-5)


def test_a_smaller_child_has_the_closest_update_of_its_rank(encoder, tmp_path):
    parent, folder = raised(encoder, genome("lora"), tmp_path)
    small = Genome(**{**vars(genome("lora")), "ranks": dict.fromkeys(TARGETS, 1)})
    child = child_of(encoder, small, folder)
    for name, update in updates(parent).items():
        lost = torch.linalg.matrix_norm(update - updates(child)[name])
        torch.testing.assert_close(lost, torch.linalg.svdvals(update)[1:].norm(), rtol=1e-4, atol=1e-6)


def test_rows_beyond_the_rank_of_an_update_can_still_learn():
    lora_a, lora_b = torch.randn(4, 6), torch.randn(5, 4)
    fresh = lora_a.clone()
    update = torch.outer(torch.randn(5), torch.randn(6))
    set_factors(lora_a, lora_b, update)
    torch.testing.assert_close(lora_b @ lora_a, update)
    torch.testing.assert_close(lora_a[1:], fresh[1:], rtol=0, atol=0)
    assert not lora_b[:, 1:].any()


def test_convolutions_inherit(resnet, tmp_path):
    encoder = resnet[0].eval()
    targets = [f"resnet.encoder.stages.{stage}.layers.0.layer.0.convolution" for stage in (0, 1)]
    parent, folder = raised(encoder, genome("lora", targets), tmp_path)
    child = child_of(encoder, genome("lora", targets), folder)
    for name, update in updates(parent).items():
        torch.testing.assert_close(updates(child)[name], update, rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_is_left_fresh(encoder, tmp_path):
    _, folder = raised(encoder, genome("oft"), tmp_path)
    child = child_of(encoder, genome("lora"), folder)
    assert not any(update.any() for update in updates(child).values())


def test_the_encoder_stays_as_it_is(encoder, tmp_path):
    names = [name for name, _ in encoder.named_modules()]
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    _, folder = raised(encoder, genome("dora"), tmp_path)
    moved(child_of(encoder, genome("lora"), folder))
    assert [name for name, _ in encoder.named_modules()] == names
    torch.testing.assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)
