import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from traces import leave_gradients_and_modes, leaves_no_trace
from transformers import ViTImageProcessor

from genaf_hf import PixelModel, layer_robustness, most_redundant
from genaf_hf.models.pixel_model import only_trainable
from genaf_hf.training.layers import freeze_modules

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 1])


@pytest.fixture
def images():
    return torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("batch_size", [3, 64])
@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("learning_rate", [1e-6, 1.0, 1e6])
def test_first_order_is_the_slope_times_the_way(family, batch_size, learning_rate, images, request):
    model = PixelModel(*request.getfixturevalue(family)).double()
    settings = {"radius": 0.2, "steps": 4, "learning_rate": learning_rate, "batch_size": batch_size}
    found = layer_robustness(model, images.double(), LABELS, **settings)

    by_hand = copy.deepcopy(model).eval()
    F.cross_entropy(by_hand(images.double()), LABELS).backward()
    parameters = dict(by_hand.model.named_parameters())
    assert len(found) > 1
    for name, contribution in found.items():
        weight = parameters[name]
        length, slope = (each.square().sum().sqrt().item() for each in (weight.detach(), weight.grad))
        assert contribution == pytest.approx(slope * min(0.2 * length, 4 * learning_rate * slope), rel=1e-9, abs=0)


def test_names_are_the_exact_names_of_linear_and_convolutional_weights_in_order(vit, resnet, images):
    block = ["attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2"]
    assert list(layer_robustness(PixelModel(*vit), images, LABELS)) == [
        "vit.embeddings.patch_embeddings.projection.weight",
        *(f"vit.layers.{index}.{name}.weight" for index in range(2) for name in block),
        "classifier.weight",
    ]
    assert list(layer_robustness(PixelModel(*resnet), images, LABELS)) == [
        "resnet.embedder.embedder.convolution.weight",
        "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight",
        "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight",
        "resnet.encoder.stages.1.layers.0.layer.0.convolution.weight",
        "resnet.encoder.stages.1.layers.0.layer.1.convolution.weight",
        "classifier.1.weight",
    ]


def test_frozen_weights_are_left_out(vit, images):
    model = PixelModel(*vit)
    model.model.vit.requires_grad_(False)
    assert list(layer_robustness(model, images, LABELS)) == ["classifier.weight"]


class LinearClassifier(nn.Module):
    """Two classes from the three channels of one pixel."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.layer(pixel_values.flatten(1)))


def linear_problem() -> tuple[PixelModel, torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    model = LinearClassifier().double()
    images = torch.rand(20, 3, 1, 1, dtype=torch.float64)
    labels = (images.flatten(1) @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) > -0.3).long()
    return PixelModel(model, ViTImageProcessor(do_normalize=False)), images, labels


def highest_loss_by_trying(model: PixelModel, images, labels, radius: float) -> float:
    """Two logits depend on the difference of the two rows only, so the worst shift is (-u, u): every direction u."""
    weight, bias = model.model.layer.weight.detach(), model.model.layer.bias.detach()
    directions = F.normalize(torch.randn(20000, 3, dtype=torch.float64), dim=1)
    shifts = torch.stack([-directions, directions], dim=1) / 2**0.5 * radius * weight.norm()
    logits = torch.einsum("scf,nf->snc", weight + shifts, images.flatten(1)) + bias
    losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(shifts)), reduction="none")
    return losses.view(len(shifts), -1).mean(1).max().item()


@pytest.mark.parametrize("radius", [0.1, 1.0])
@pytest.mark.parametrize("learning_rate", [1.0, 1000.0])
def test_ascent_finds_the_highest_loss_in_the_ball(radius, learning_rate):
    model, images, labels = linear_problem()
    with torch.no_grad():
        baseline = F.cross_entropy(model(images), labels).item()
    expected = highest_loss_by_trying(model, images, labels, radius) - baseline
    settings = {"method": "ascent", "radius": radius, "learning_rate": learning_rate, "batch_size": 6}
    found = layer_robustness(model, images, labels, **settings, steps=100)
    assert list(found) == ["layer.weight"]
    assert found["layer.weight"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("settings", [{"radius": 1e-4}, {"radius": 1.0, "learning_rate": 1e-5}])
def test_first_order_approaches_the_ascent_on_short_ways(settings):
    model, images, labels = linear_problem()
    first_order, ascent = (
        layer_robustness(model, images, labels, method=method, **settings)["layer.weight"]
        for method in ("first_order", "ascent")
    )
    assert first_order == pytest.approx(ascent, rel=1e-3)


def test_ascent_is_never_negative_and_grows_with_the_radius(vit, images):
    model = PixelModel(*vit)
    small, large = (
        layer_robustness(model, images, LABELS, method="ascent", radius=radius, steps=3) for radius in (0.05, 0.5)
    )
    assert all(contribution >= 0 for contribution in small.values())
    assert sum(large.values()) > sum(small.values()) > 0


def test_of_all_passes_of_the_ascent_the_highest_counts(vit, images):
    """Steps as long as these lead down again in some layers."""
    model, settings = PixelModel(*vit).double(), {"method": "ascent", "radius": 1.0, "learning_rate": 1e3}
    fewer, more = (layer_robustness(model, images.double(), LABELS, **settings, steps=steps) for steps in (2, 5))
    assert [name for name in fewer if more[name] < fewer[name]] == []


@pytest.mark.parametrize("method", ["first_order", "ascent"])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_the_assessment_leaves_no_trace(family, method, images, request):
    model = PixelModel(*request.getfixturevalue(family))
    contents = images.clone()
    leave_gradients_and_modes(model)
    with leaves_no_trace(model):
        layer_robustness(model, images, LABELS, method=method, steps=2)
    assert torch.equal(images, contents)


def test_the_weight_comes_back_after_an_error(vit, images):
    model, passes = PixelModel(*vit).train(), []

    def fail_after_the_first_ascent(*_):
        passes.append(model.model.vit.embeddings.patch_embeddings.projection.weight.sum().item())
        if len(passes) == 2:
            raise KeyboardInterrupt

    model.register_forward_hook(fail_after_the_first_ascent)
    with leaves_no_trace(model), pytest.raises(KeyboardInterrupt):
        layer_robustness(model, images, LABELS, method="ascent", steps=2)
    assert passes[0] != passes[1]


def test_an_unknown_method_is_refused(vit, images):
    with pytest.raises(ValueError, match='"second_order"'):
        layer_robustness(PixelModel(*vit), images, LABELS, method="second_order")


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.2, ["b"]),
        (0.5, ["b", "d"]),
        (0.59, ["b", "d"]),
        (0.6, ["b", "d", "a"]),
        (0.01, ["b"]),
        (1.0, ["b", "d", "a", "e", "c"]),
    ],
)
def test_the_smallest_contributions_are_redundant(share, expected):
    contributions = {"a": 0.3, "b": 0.0, "c": 9.0, "d": 0.2, "e": 0.31}
    assert most_redundant(contributions, share) == expected


def test_only_the_named_parameters_are_trainable_and_each_gets_its_setting_back(vit):
    model, _ = vit
    model.vit.embeddings.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    names = ["vit.layers.1.mlp.fc1.weight", "vit.embeddings.cls_token"]
    with only_trainable(model, names):
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(names)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before

    def fail():
        with only_trainable(model, names):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


@pytest.mark.parametrize("name", ["layers.1.mlp.fc1", "vit.layers.1.mlp.fc1", "vit.layers.9.mlp.fc1.weight"])
def test_a_name_that_is_no_parameter_is_refused(vit, name):
    model, _ = vit
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(ValueError, match=f'"{name}" is no parameter'), only_trainable(model, ["classifier.bias", name]):
        pass
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


def test_exactly_the_frozen_modules_are_put_into_eval_mode(resnet):
    model = resnet[0].train()
    with only_trainable(
        model,
        [
            "resnet.embedder.embedder.normalization.bias",
            "resnet.encoder.stages.1.layers.0.layer.0.convolution.weight",
        ],
    ):
        freeze_modules(model)
        for name, module in model.named_modules():
            tensors = [*module.parameters(), *module.buffers()]
            assert module.training == any(each.requires_grad for each in tensors) or not tensors, name


def test_what_is_frozen_as_a_whole_drops_nothing_and_what_is_trained_drops_as_before():
    frozen, trained = (nn.Sequential(nn.Linear(2, 2), nn.Dropout()) for _ in range(2))
    frozen.requires_grad_(False)
    freeze_modules(model := nn.Sequential(frozen, trained, nn.Dropout()))
    assert [each.training for each in (frozen[1], trained[1], model[2])] == [False, True, True]


def test_frozen_statistics_stand_still_and_trained_ones_move(resnet, images):
    model = resnet[0].train()
    moving = "resnet.encoder.stages.1.layers.0.layer.0.normalization"
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    with only_trainable(model, [f"{moving}.weight"]):
        freeze_modules(model)
        model(pixel_values=images)
    after = dict(model.named_buffers())
    moved = {name for name, buffer in before.items() if not torch.equal(buffer, after[name])}
    assert moved == {f"{moving}.running_mean", f"{moving}.running_var"}


def test_nothing_is_put_into_eval_mode_where_nothing_is_frozen():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Dropout())
    freeze_modules(model)
    assert all(module.training for module in model.modules())
