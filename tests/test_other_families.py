"""Encoders beside the families that are promised by name: each works, or is refused in one sentence."""

import pytest
import torch
from conftest import CLASSES, TINY_VIT
from transformers import (
    Aimv2VisionConfig,
    AutoModel,
    AutoModelForImageClassification,
    EfficientNetConfig,
    HGNetV2Config,
    HieraConfig,
    MobileNetV1Config,
    MobileNetV2Config,
    MobileViTConfig,
    PixtralVisionConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PvtConfig,
    PvtV2Config,
    Sam2VisionConfig,
    Siglip2VisionConfig,
    SwiftFormerConfig,
    TextNetConfig,
    VitDetConfig,
    ViTImageProcessor,
    YolosConfig,
)

from genaf_hf import PixelModel, load_encoder
from genaf_hf.models.encoder_classifier import EncoderForImageClassification
from genaf_hf.models.loading import load_classifier

SIDE = 32
OURS = EncoderForImageClassification.__name__
STAGES = {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}
HGNET = {f"stage_{name}_channels": [8, 8, 8, 8] for name in ("in", "mid", "out")}
HGNET |= {"stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [1, 1, 1, 1], "stem_channels": [3, 4, 8]}
HIERA = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "masked_unit_size": [2, 2], "num_query_pool": 1}
CLASSIFIERS = {
    "mobilenet_v2": (
        MobileNetV2Config(image_size=SIDE, depth_multiplier=0.1, min_depth=4, depth_divisible_by=4),
        "MobileNetV2ForImageClassification",
    ),
    "pvt_v2": (
        PvtV2Config(image_size=SIDE, **STAGES, num_attention_heads=[1, 1, 1, 2], mlp_ratios=[2, 2, 2, 2]),
        "PvtV2ForImageClassification",
    ),
    "hiera": (HieraConfig(image_size=[SIDE, SIDE], **HIERA), "HieraForImageClassification"),
    "pvt": (
        PvtConfig(image_size=SIDE, **STAGES, num_attention_heads=[1, 1, 1, 2], mlp_ratios=[2, 2, 2, 2]),
        "PvtForImageClassification",  # whose configuration holds num_labels beside the names
    ),
    # Their heads are "head" and "fc"; the other's "classifier" is a list of layers that pool.
    "swiftformer": (SwiftFormerConfig(image_size=SIDE, embed_dims=[8, 8, 8, 16], depths=[1, 1, 1, 1]), OURS),
    "textnet": (
        TextNetConfig(
            image_size=[SIDE, SIDE],
            stem_out_channels=4,
            hidden_sizes=[4, 4, 4, 8, 8],
            conv_layer_kernel_sizes=[[[3, 3]]] * 4,
            conv_layer_strides=[[1], [2], [2], [2]],
        ),
        OURS,
    ),
}
WITHOUT_POOLER = {
    "swiftformer": CLASSIFIERS["swiftformer"][0],
    "vitdet": VitDetConfig(
        image_size=SIDE,
        pretrain_image_size=SIDE,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
    ),
    "aimv2": Aimv2VisionConfig(**TINY_VIT | {"image_size": SIDE}, use_head=False),
}


@pytest.fixture
def published(tmp_path):
    """A function that publishes a model of a configuration, none of whose weights hides others: it and its folder."""

    def make(config: PreTrainedConfig, auto_class: type) -> tuple[PreTrainedModel, str]:
        torch.manual_seed(0)
        model = auto_class.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(tmp_path / "public")
        ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path / "public")
        return model, str(tmp_path / "public")

    return make


@pytest.mark.parametrize(("config", "result"), CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_a_classifier_gives_logits_and_gradients_and_comes_back(config, result, published, tmp_path):
    model, processor = load_encoder(published(config, AutoModelForImageClassification)[1], CLASSES)
    assert type(model).__name__ == result
    pixel_model, images = PixelModel(model, processor).eval(), torch.rand(2, 3, SIDE, SIDE, requires_grad=True)
    logits = pixel_model(images)
    logits[:, 0].sum().backward()
    assert logits.shape == (2, 3)
    assert images.grad.isfinite().all()
    assert images.grad.abs().max() > 0
    assert pixel_model.features(images).ndim == 2
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded, processor = load_classifier(str(tmp_path / "saved"))
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    with torch.no_grad():  # which lets some CPUs take convolutions that round otherwise
        again = PixelModel(loaded, processor)(images)
    torch.testing.assert_close(again, logits.detach(), rtol=0, atol=1e-6)


OLD_HEADS = {
    "mobilenet_v1": (MobileNetV1Config(image_size=SIDE, depth_multiplier=0.25), "classifier_dropout_prob", 0.999),
    "mobilenet_v2": (CLASSIFIERS["mobilenet_v2"][0], "classifier_dropout_prob", 0.8),
    "mobilevit": (
        MobileViTConfig(
            image_size=SIDE,
            hidden_sizes=[8, 8, 8],
            neck_hidden_sizes=[4, 4, 4, 8, 8, 8, 16],
            num_attention_heads=2,
            classifier_dropout_prob=0.9,
            hidden_dropout_prob=0.0,
        ),
        "classifier_dropout_prob",
        0.9,
    ),
    "efficientnet": (
        EfficientNetConfig(
            image_size=SIDE, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128, drop_connect_rate=0.0
        ),
        "dropout_rate",
        0.5,
    ),
}


@pytest.mark.parametrize(("config", "name", "old"), OLD_HEADS.values(), ids=OLD_HEADS)
def test_a_new_head_has_no_dropout_of_the_old_one_and_the_log_says_so(config, name, old, published, caplog, tmp_path):
    model, processor = load_encoder(published(config, AutoModelForImageClassification)[1], CLASSES)
    assert f"{name} is 0.0 instead of {old}" in caplog.text
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} <= {0.0}
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    assert getattr(load_classifier(str(tmp_path / "saved"))[0].config, name) == 0


@pytest.mark.parametrize("config", WITHOUT_POOLER.values(), ids=WITHOUT_POOLER)
def test_an_encoder_without_a_pooler_is_averaged_unless_a_pooler_was_asked_for(config, published):
    original, folder = published(config, AutoModel)
    model, processor = load_encoder(folder, CLASSES)
    assert (type(model).__name__, model.config.pooling) == (OURS, "mean")
    pixel_model, images = PixelModel(model, processor).eval(), torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        states = original(pixel_model.to_pixel_values(images)).last_hidden_state
        expected = states.mean(1 if states.ndim == 3 else (2, 3))
        torch.testing.assert_close(pixel_model.features(images), expected, rtol=0, atol=1e-5)
    with pytest.raises(
        ValueError, match='encoder has no features for pooling "pooler"; of 2 images it gives last_hidden_state'
    ):
        load_encoder(folder, CLASSES, pooling="pooler")


@pytest.mark.parametrize(
    ("config", "auto_class", "pooling", "given"),
    [
        (HGNetV2Config(embedding_size=8, **STAGES, **HGNET), AutoModelForImageClassification, "pooler", "no tensor"),
        (
            Sam2VisionConfig(
                backbone_config={
                    "model_type": "sam2_hiera_det_model",
                    "image_size": [SIDE, SIDE],
                    "hidden_size": 4,
                    "embed_dim_per_stage": [4, 8, 16, 32],
                    "num_attention_heads_per_stage": [1, 1, 1, 1],
                    "num_attention_heads": 1,
                    "blocks_per_stage": [1, 1, 1, 1],
                    "global_attention_blocks": [],
                    "window_size_per_stage": [2, 2, 2, 2],
                    "window_positional_embedding_background_size": [2, 2],
                },
                backbone_channel_list=[32, 16, 8, 4],
                fpn_hidden_size=8,
            ),
            AutoModel,
            "pooler",
            r"last_hidden_state \(2, 1, 1, 32\)",
        ),
        (
            PixtralVisionConfig(**TINY_VIT | {"image_size": SIDE}),
            AutoModel,
            "mean",
            r"last_hidden_state \(1, 128, 16\)",
        ),
    ],
    ids=["hgnet_v2", "sam2", "pixtral"],  # the last joins the patches of all images
)
def test_what_gives_no_single_tensor_of_features_is_refused_in_one_sentence(
    config, auto_class, pooling, given, published
):
    _, folder = published(config, auto_class)
    sentence = f'The "{config.model_type}" encoder has no features for pooling "{pooling}"; of 2 images it gives '
    with pytest.raises(ValueError, match=f"{sentence}{given}: choose") as refused:
        load_encoder(folder, CLASSES)
    assert "\n" not in str(refused.value)


def test_an_encoder_whose_position_embeddings_no_other_size_can_have_is_refused(published):
    _, folder = published(CLASSIFIERS["pvt"][0], AutoModelForImageClassification)
    with pytest.raises(ValueError, match="PvtForImageClassification cannot interpolate its position embeddings"):
        load_encoder(folder, CLASSES, image_size=2 * SIDE)


def test_a_size_that_is_a_pair_stays_one(published):
    sizes = TINY_VIT | {"image_size": [SIDE, SIDE], "num_detection_tokens": 2}
    _, folder = published(YolosConfig(**sizes, use_mid_position_embeddings=False), AutoModel)
    model, processor = load_encoder(folder, CLASSES, image_size=2 * SIDE)
    assert model.config.encoder_config.image_size in ([SIDE] * 2, [2 * SIDE] * 2)
    assert PixelModel(model, processor).eval()(torch.rand(2, 3, 2 * SIDE, 2 * SIDE)).shape == (2, 3)


def test_the_vision_tower_of_siglip_2_alone_is_taken(published):
    original, folder = published(Siglip2VisionConfig(**TINY_VIT | {"num_patches": 16}), AutoModel)
    model, processor = load_encoder(folder, CLASSES)
    assert type(model).__name__ == "SiglipForImageClassification"
    pixel_model, images = PixelModel(model, processor).eval(), torch.rand(2, 3, SIDE, SIDE)
    patch = TINY_VIT["patch_size"]
    patches = pixel_model.to_pixel_values(images).unfold(2, patch, patch).unfold(3, patch, patch)
    side = SIDE // patch
    with torch.no_grad():
        states = original(
            pixel_values=patches.permute(0, 2, 3, 4, 5, 1).reshape(2, side**2, -1),
            pixel_attention_mask=torch.ones(2, side**2, dtype=torch.int64),
            spatial_shapes=torch.tensor([[side, side]] * 2),
        ).last_hidden_state
        torch.testing.assert_close(pixel_model.features(images), states.mean(1), rtol=0, atol=1e-5)
