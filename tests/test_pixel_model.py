import pytest
import torch
from traces import leaves_no_trace
from transformers import ViTImageProcessor

from genaf_hf import PixelModel
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import evaluating

STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.fixture(params=[{}, STATISTICS, {"do_normalize": False}], ids=["half", "imagenet", "not normalised"])
def processor(request):
    return ViTImageProcessor(size={"height": 8, "width": 8}, **request.param)


def processed(dataset, processor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images by the processor, and as plain pixels in [0, 1]."""
    pictures = dataset["test"][:6]["image"]
    pixels = [torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8).view(8, 8, 3) for each in pictures]
    return processor(pictures, return_tensors="pt")["pixel_values"], torch.stack(pixels).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_logits_are_those_of_the_plain_model_on_the_processors_output(family, processor, dataset, request):
    model, _ = request.getfixturevalue(family)
    pixel_values, images = processed(dataset, processor)
    with torch.no_grad():
        expected = model.eval()(pixel_values=pixel_values).logits
        found = PixelModel(model, processor)(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_to_images_gives_back_the_pixels_and_to_pixel_values_the_processors_output(vit, processor, dataset):
    pixel_model = PixelModel(vit[0], processor)
    pixel_values, images = processed(dataset, processor)
    torch.testing.assert_close(pixel_model.to_images(pixel_values), images, rtol=0, atol=1e-6)
    torch.testing.assert_close(pixel_model.to_pixel_values(images), pixel_values, rtol=0, atol=1e-5)
    torch.testing.assert_close(pixel_model.to_images(pixel_model.to_pixel_values(images)), images, rtol=0, atol=1e-6)


def test_one_mean_and_deviation_stand_for_every_channel(vit, dataset):
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=0.4, image_std=0.2)
    pixel_values, images = processed(dataset, processor)
    torch.testing.assert_close(PixelModel(vit[0], processor).to_images(pixel_values), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"image_mean": [0.5, float("nan"), 0.5]}, {"image_std": 0}, {"image_std": ["1"] * 3}]
)
def test_statistics_that_are_no_such_numbers_are_refused(vit, change):
    with pytest.raises(UserError, match=rf"^The image processor has {next(iter(change))}=.*, expected one or three"):
        PixelModel(vit[0], ViTImageProcessor(size={"height": 8, "width": 8}, **change))


def test_black_and_white_come_back_inside_the_unit_range(vit, processor):
    pixel_model = PixelModel(vit[0], processor)
    extremes = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    images = pixel_model.to_images(pixel_model.to_pixel_values(extremes))
    assert images.amin() >= 0
    assert images.amax() <= 1


def test_rounding_beyond_the_unit_range_is_cut_off(vit):
    pixel_values = torch.zeros(1, 3, 8, 8)
    pixel_values[0, 0, 0, :2] = torch.tensor([-1.001, 1.001])
    images = PixelModel(*vit).to_images(pixel_values)
    assert images[0, 0, 0, :2].tolist() == [0, 1]


@pytest.mark.parametrize(("value", "sentence"), [(3.0, r", 2\]"), (-3.0, r"\[-1, "), (torch.nan, r"\[nan, nan\]")])
def test_pixel_values_by_another_normalisation_are_refused(vit, value, sentence):
    pixel_values = torch.zeros(2, 3, 8, 8)
    pixel_values[1, 0, 2, 2] = value
    with pytest.raises(ValueError, match=sentence):
        PixelModel(*vit).to_images(pixel_values)


def test_hidden_states_run_from_the_embeddings_to_the_last_layer(vit):
    model, processor = vit
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixel_model = PixelModel(model, processor).eval()
    with torch.no_grad():
        states = pixel_model.hidden_states(images)
        pixel_values = pixel_model.to_pixel_values(images)
        assert torch.equal(states[0], model.vit.embeddings(pixel_values))
        assert torch.equal(model.vit.layernorm(states[-1]), model.vit(pixel_values).last_hidden_state)
    assert [tuple(state.shape) for state in states] == [(2, 5, 16)] * 3


def test_hidden_states_of_a_convolutional_encoder_are_maps(resnet):
    states = PixelModel(*resnet).eval().hidden_states(torch.rand(2, 3, 8, 8))
    assert [tuple(state.shape) for state in states] == [(2, 8, 2, 2), (2, 8, 2, 2), (2, 16, 1, 1)]


@pytest.mark.parametrize("change", [{"rescale_factor": 1 / 127.5}, {"do_rescale": False}])
def test_a_processor_that_does_not_map_to_the_unit_range_is_refused(vit, change):
    with pytest.raises(ValueError, match="expected 1/255, which maps 8-bit pixels") as refusal:
        PixelModel(vit[0], ViTImageProcessor(size={"height": 8, "width": 8}, **change))
    [value] = change.values()
    assert str(value) in str(refusal.value)


def test_weights_are_shared_and_the_statistics_are_not_saved(vit):
    model, processor = vit
    pixel_model = PixelModel(model, processor)
    assert pixel_model.model is model
    assert pixel_model.state_dict().keys() == {f"model.{name}" for name in model.state_dict()}


def test_logits_are_at_least_float32_under_autocast(vit):
    pixel_model, images = PixelModel(*vit).eval(), torch.rand(2, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert pixel_model(images).dtype == torch.float32
    with torch.no_grad():
        assert pixel_model.double()(images.double()).dtype == torch.float64


def test_evaluating_gives_each_module_its_own_mode_back_after_an_error(resnet):
    model = resnet[0].train()
    model.resnet.embedder.eval()
    before = {name: module.training for name, module in model.named_modules()}

    def fail():
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_features_are_what_the_head_reads(family, request):
    pixel_model, images = PixelModel(*request.getfixturevalue(family)).eval(), torch.rand(2, 3, 8, 8)
    head = pixel_model.model.classifier
    with torch.no_grad():
        features = pixel_model.features(images)
        torch.testing.assert_close(head(features), pixel_model(images))
    assert features.shape == (2, 16)
    assert not head._forward_pre_hooks


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("vit", ["vit.embeddings", "vit.layers.0", "vit.layers.1"]),
        ("resnet", ["resnet.embedder", "resnet.encoder.stages.0", "resnet.encoder.stages.1"]),
    ],
)
def test_reading_up_to_a_layer_runs_none_above_it(family, names, request):
    pixel_model, images = PixelModel(*request.getfixturevalue(family)).train(), torch.rand(2, 3, 8, 8)
    with leaves_no_trace(pixel_model):
        assert pixel_model.layer_names(images) == names
    pixel_model.eval()
    every_state = pixel_model.hidden_states(images)
    called = []
    for name, module in pixel_model.model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    for index, layer in enumerate(names):
        called.clear()
        states = pixel_model.hidden_states(images, up_to=layer)
        assert len(states) == index + 1
        assert all(torch.equal(*pair) for pair in zip(states, every_state, strict=False))
        assert layer in called
        assert not [name for name in called if name.startswith((*names[index + 1 :], "classifier", "vit.layernorm"))]
    assert not any(module._forward_hooks for name, module in pixel_model.model.named_modules() if name in names[:1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_come_to_the_model_in_its_own_precision(resnet, dtype):
    model, processor = resnet
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = PixelModel(model.eval(), processor)(images)
    found = PixelModel(model.to(dtype), processor)(images)
    assert found.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=0, atol=0.05)


def test_images_that_the_model_cannot_take_are_refused_in_one_sentence(vit):
    pixel_model = PixelModel(*vit)
    with pytest.raises(UserError, match="given images of 10 x 10 pixels, its processor makes 8 x 8: Input image size"):
        pixel_model(torch.rand(2, 3, 10, 10))
    with pytest.raises(UserError, match=r"The images have shape \(2, 8, 8, 3\), expected \(n, 3, h, w\)"):
        pixel_model(torch.rand(2, 8, 8, 3))


def test_what_is_no_classifier_of_transformers_is_refused(vit):
    with pytest.raises(UserError, match="The model is a Linear, expected an image classifier of transformers"):
        PixelModel(torch.nn.Linear(2, 2), vit[1])
    with pytest.raises(UserError, match="The processor is a NoneType, expected an image processor of transformers"):
        PixelModel(vit[0], None)
