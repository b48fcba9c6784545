import json

import pytest
import torch
from conftest import CLASSES, SIDE, TINY_VIT
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    Dinov2WithRegistersConfig,
    ResNetConfig,
    ViTConfig,
)

from genaf_hf import PixelModel, layer_robustness, load_encoder
from genaf_hf.models.encoder_classifier import EncoderClassifierConfig, EncoderForImageClassification
from genaf_hf.models.head import head_name, in_head

LABELS = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")


def classifier(encoder_config=None, **settings) -> EncoderForImageClassification:
    torch.manual_seed(0)
    settings = {"encoder_config": encoder_config or ViTConfig(**TINY_VIT), "feature_size": 16, **LABELS, **settings}
    return EncoderForImageClassification(EncoderClassifierConfig(**settings)).eval()


@pytest.fixture
def pixel_values():
    return torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_the_head_reads_what_the_pooling_says(pooling, pixel_values):
    model = classifier(Dinov2WithRegistersConfig(**TINY_VIT, num_register_tokens=2), pooling=pooling, prefix_tokens=3)
    with torch.no_grad():
        outputs = model.encoder(pixel_values)
        states = outputs.last_hidden_state
        read = {"cls": states[:, 0], "mean": states[:, 3:].mean(1), "pooler": outputs.pooler_output}[pooling]
        torch.testing.assert_close(model(pixel_values).logits, model.classifier(read), rtol=0, atol=0)


def test_the_mean_of_a_feature_map_is_that_over_its_places(pixel_values):
    model = classifier(RESNET, pooling="mean")
    with torch.no_grad():
        expected = model.classifier(model.encoder(pixel_values).last_hidden_state.mean((2, 3)))
        torch.testing.assert_close(model(pixel_values).logits, expected)


def test_the_papers_head_is_three_linear_layers_with_one_dropout():
    head = classifier(head="mlp").classifier
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [
        (16, 16),
        (16, 16),
        (3, 16),
    ]
    assert head[2].p == 0.2
    assert all(layer.bias.eq(0).all() for layer in head if isinstance(layer, nn.Linear))
    assert all(0.1 < layer.weight.std() < 0.2 for layer in head if isinstance(layer, nn.Linear))  # 16**-0.5 / 3**0.5


def test_a_pooling_layer_that_nobody_reads_is_left_out():
    assert not [name for name, _ in classifier(pooling="cls").named_parameters() if "pooler" in name]
    assert [name for name, _ in classifier(pooling="pooler").named_parameters() if "pooler" in name]


def test_the_cifar_stem_keeps_the_size_of_the_image(pixel_values):
    model = classifier(RESNET, cifar_stem=True)
    stem = model.encoder.embedder.embedder.convolution
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))
    assert model.encoder.embedder(pixel_values).shape == (4, 8, SIDE, SIDE)
    padded = classifier(RESNET, cifar_stem=True, stem_padding=2)
    assert padded.encoder.embedder(pixel_values).shape == (4, 8, SIDE + 2, SIDE + 2)


@pytest.mark.parametrize("setting", [{"pooling": "max"}, {"head": "deep"}])
def test_unknown_settings_are_refused(setting):
    [(name, value)] = setting.items()
    with pytest.raises(ValueError, match=f'{name} is "{value}", expected one of '):
        EncoderClassifierConfig(**setting)


def test_loss_and_hidden_states_are_those_of_other_classifiers(pixel_values):
    model, labels = classifier(pooling="cls"), torch.tensor([0, 1, 2, 0])
    outputs = model(pixel_values=pixel_values, labels=labels, output_hidden_states=True)
    torch.testing.assert_close(outputs.loss, nn.functional.cross_entropy(outputs.logits, labels))
    assert len(outputs.hidden_states) == 3
    assert torch.equal(model(pixel_values, return_dict=False)[0], outputs.logits)
    assert model.base_model is model.encoder
    assert model.main_input_name == "pixel_values"


@pytest.mark.parametrize(
    "settings", [{"head": "mlp", "pooling": "mean"}, {"encoder_config": RESNET, "cifar_stem": True}]
)
def test_what_is_saved_comes_back_through_the_auto_classes(settings, pixel_values, tmp_path):
    model = classifier(**settings)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_encoder_classifier.EncoderClassifierConfig",
        "AutoModelForImageClassification": "modeling_encoder_classifier.EncoderForImageClassification",
    }
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "model.safetensors"),
        *("configuration_encoder_classifier.py", "modeling_encoder_classifier.py"),
    }
    assert type(AutoConfig.from_pretrained(tmp_path)) is EncoderClassifierConfig
    for auto_class in (AutoModelForImageClassification, AutoModel):
        again, loading = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(again) is EncoderForImageClassification
        assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        with torch.no_grad():
            torch.testing.assert_close(again.eval()(pixel_values).logits, model(pixel_values).logits, rtol=0, atol=0)


def test_gradients_are_the_same_with_checkpointing(pixel_values):
    model = classifier(pooling="mean").train()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(pixel_values, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        gradients.append(model.encoder.layers[0].mlp.fc1.weight.grad.clone())
        model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    torch.testing.assert_close(*gradients)
    assert (
        classifier(RESNET).supports_gradient_checkpointing
        == AutoModel.from_config(RESNET).supports_gradient_checkpointing
    )


def test_adapters_are_found_trained_and_merged(pixel_values, tmp_path):
    model = classifier(pooling="mean")
    settings = LoraConfig(
        target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], r=2, init_lora_weights=False
    )
    adapted = get_peft_model(model, settings).eval()
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    head = head_name(adapted)
    adapters = [name for name in trained if not in_head(name, head)]
    assert 0 < len(adapters) < len(trained)
    assert all("lora" in name for name in adapters)
    with torch.no_grad():
        expected = adapted(pixel_values=pixel_values).logits
        merged = adapted.merge_and_unload()
        merged.save_pretrained(tmp_path)
        again = AutoModelForImageClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(again(pixel_values).logits, expected, rtol=0, atol=1e-5)


def test_layers_are_assessed_under_the_head_and_in_the_encoder(pixel_values, encoders):
    model, processor = load_encoder(encoders["mae"], CLASSES, pooling="mean", head="mlp")
    names = list(layer_robustness(PixelModel(model, processor), pixel_values, torch.tensor([0, 1, 2, 0])))
    assert names[0] == "encoder.embeddings.patch_embeddings.projection.weight"
    assert names[-3:] == ["classifier.0.weight", "classifier.3.weight", "classifier.5.weight"]
    assert len(names) == 1 + 2 * 6 + 3
