"""A tiny public encoder of each family, and its features by the original model."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from inspect import signature

import torch
from conftest import SIDE, TINY_VIT
from timm_models import of_timm
from torch import nn
from torch.nn import functional as F
from transformers import (
    Aimv2VisionConfig,
    AutoModel,
    BeitConfig,
    BeitForImageClassification,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    ConvNextConfig,
    ConvNextImageProcessor,
    ConvNextV2Config,
    Data2VecVisionConfig,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ConvNextConfig,
    DINOv3ViTConfig,
    IJepaConfig,
    PreTrainedModel,
    ResNetConfig,
    Siglip2Config,
    Siglip2ImageProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SwinConfig,
    Swinv2Config,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMSNConfig,
)

from genaf_hf.adapter_search import METHODS
from genaf_hf.adapter_search.genome import HEAD_ONLY
from genaf_hf.models.encoder_classifier import EncoderClassifierConfig, EncoderForImageClassification

OURS = EncoderForImageClassification.__name__
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 8}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SWIN = {"image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
CONVNEXT = {"image_size": SIDE, "patch_size": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
DECODER = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
SQUARE = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
CONVOLUTIONS_ALONE = METHODS.keys() - {"lora", "rslora", "dora", HEAD_ONLY}
CHANNELS_LAST = frozenset({"oft"})  # it takes whatever has four dimensions for channels first
CROPPED = {"size": {"shortest_edge": 9}, "crop_size": {"height": SIDE, "width": SIDE}}


def run(encoder: PreTrainedModel, x, **inputs):
    """The original's outputs; at another image size it interpolates its own position embeddings."""
    if "interpolate_pos_encoding" in signature(encoder.forward).parameters:
        inputs["interpolate_pos_encoding"] = True
    return encoder(x, **inputs)


def cls(model: PreTrainedModel, x):
    return run(model.base_model, x).last_hidden_state[:, 0]


def pooler(model: PreTrainedModel, x):
    return run(model.base_model, x).pooler_output.flatten(1)


def own_pooler(model: PreTrainedModel, x):
    return run(model, x).pooler_output


def mean_after(prefix: int, model: PreTrainedModel, x):
    return run(model.base_model, x).last_hidden_state[:, prefix:].mean(1)


def tower_mean_after(prefix: int, model: PreTrainedModel, x):
    return run(model.vision_model, x).last_hidden_state[:, prefix:].mean(1)


def normalised_mean(model: PreTrainedModel, x):
    return F.layer_norm(mean_after(1, model, x), [16], eps=model.config.layer_norm_eps)


def cls_and_mean_after(prefix: int, model: PreTrainedModel, x):
    return torch.cat([cls(model, x), mean_after(prefix, model, x)], dim=1)


def unmasked(prefix: int | None, model: ViTMAEForPreTraining, x):
    """The encoder of a masked autoencoder that sees every patch, in order."""
    model.config.mask_ratio = 0.0
    order = torch.arange((x.shape[-1] // 4) ** 2, dtype=torch.float32).expand(len(x), -1)
    states = run(model.vit, x, noise=order).last_hidden_state
    return states[:, 0] if prefix is None else states[:, prefix:].mean(1)


def on_patches(model: PreTrainedModel, x):
    """Outputs of SigLIP 2 of flexible resolution, on the patches that its own processor would cut."""
    side = x.shape[-1] // 4
    patches = F.unfold(x, 4, stride=4).transpose(1, 2).unflatten(2, (3, 16)).transpose(2, 3).flatten(2)
    mask, shapes = torch.ones(len(x), side**2), torch.full((len(x), 2), side)
    return model.vision_model(patches, pixel_attention_mask=mask, spatial_shapes=shapes)


def features_of_timm(model: nn.Module, x):
    if hasattr(model, "set_input_size"):
        model = copy.deepcopy(model)
        model.set_input_size(x.shape[-2:])
    return model.forward_head(model.forward_features(x), pre_logits=True)


@dataclass
class Family:
    """A tiny public checkpoint, what `load_encoder` makes of it, its features by the original, what PEFT cannot do."""

    make: Callable[[], PreTrainedModel]
    result: str
    features: Callable
    processor: object = SQUARE
    other_size: int | None = 12
    options: dict = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()


def of(config) -> Callable[[], PreTrainedModel]:
    return partial(AutoModel.from_config, config)


FAMILIES = {
    "vit": Family(lambda: ViTForImageClassification(ViTConfig(**TINY_VIT)), "ViTForImageClassification", cls),
    "deit": Family(
        lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY_VIT)), "DeiTForImageClassification", cls
    ),
    "beit": Family(
        lambda: BeitForImageClassification(BeitConfig(**TINY_VIT, use_relative_position_bias=True)),
        "BeitForImageClassification",
        pooler,
    ),
    "data2vec": Family(
        of(Data2VecVisionConfig(**TINY_VIT, use_shared_relative_position_bias=True)),
        "Data2VecVisionForImageClassification",
        normalised_mean,
    ),
    "ijepa": Family(of(IJepaConfig(**TINY_VIT)), "IJepaForImageClassification", partial(mean_after, 0)),
    "vit_msn": Family(of(ViTMSNConfig(**TINY_VIT)), "ViTMSNForImageClassification", cls),
    "dino": Family(of(ViTConfig(**TINY_VIT)), "ViTForImageClassification", cls),
    "dinov2": Family(
        of(Dinov2Config(**TINY_VIT)),
        "Dinov2ForImageClassification",
        partial(cls_and_mean_after, 1),
        BitImageProcessor(**CROPPED),
    ),
    "dinov2_with_registers": Family(
        of(Dinov2WithRegistersConfig(**TINY_VIT, num_register_tokens=2)),
        "Dinov2WithRegistersForImageClassification",
        partial(cls_and_mean_after, 3),
    ),
    "dinov3_vit": Family(of(DINOv3ViTConfig(**TINY_VIT, num_register_tokens=2)), OURS, own_pooler),
    "dinov3_convnext": Family(
        of(DINOv3ConvNextConfig(image_size=32, hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1])),
        OURS,
        own_pooler,
        ViTImageProcessor(size={"height": 32, "width": 32}),
        other_size=64,
        left_out=CHANNELS_LAST,
    ),
    "mae": Family(
        lambda: ViTMAEForPreTraining(ViTMAEConfig(**TINY_VIT, **DECODER, decoder_intermediate_size=16)),
        "ViTForImageClassification",
        partial(unmasked, None),
    ),
    "mae, mean pooling": Family(
        lambda: ViTMAEForPreTraining(ViTMAEConfig(**TINY_VIT, **DECODER, decoder_intermediate_size=16)),
        OURS,
        partial(unmasked, 1),
        options={"pooling": "mean"},
    ),
    "clip": Family(
        of(CLIPConfig(vision_config=TINY_VIT, text_config=TEXT, projection_dim=8)),
        "CLIPForImageClassification",
        partial(tower_mean_after, 1),
        CLIPImageProcessor(**CROPPED),
    ),
    "siglip": Family(
        of(SiglipConfig(vision_config=TINY_VIT, text_config=TEXT)),
        "SiglipForImageClassification",
        partial(tower_mean_after, 0),
        SiglipImageProcessor(size={"height": SIDE, "width": SIDE}),
    ),
    "siglip2": Family(
        of(Siglip2Config(vision_config={**TINY_VIT, "num_patches": 16}, text_config=TEXT)),
        "SiglipForImageClassification",
        lambda model, x: on_patches(model, x).last_hidden_state.mean(1),
        Siglip2ImageProcessor(patch_size=4, max_num_patches=4),
    ),
    "siglip2, pooler": Family(
        of(Siglip2Config(vision_config={**TINY_VIT, "num_patches": 16}, text_config=TEXT)),
        OURS,
        lambda model, x: on_patches(model, x).pooler_output,
        Siglip2ImageProcessor(patch_size=4, max_num_patches=4),
        options={"pooling": "pooler"},
    ),
    "swin": Family(of(SwinConfig(**SWIN)), "SwinForImageClassification", pooler),
    "swinv2": Family(of(Swinv2Config(**SWIN)), "Swinv2ForImageClassification", pooler),
    "convnext": Family(
        of(ConvNextConfig(**CONVNEXT)),
        "ConvNextForImageClassification",
        pooler,
        ConvNextImageProcessor(size={"shortest_edge": SIDE}),
        left_out=CHANNELS_LAST,
    ),
    "convnextv2": Family(
        of(ConvNextV2Config(**CONVNEXT)), "ConvNextV2ForImageClassification", pooler, left_out=CHANNELS_LAST
    ),
    "resnet": Family(of(ResNetConfig(**RESNET)), "ResNetForImageClassification", pooler, left_out=CONVOLUTIONS_ALONE),
    "resnet, cifar stem": Family(
        of(EncoderClassifierConfig(encoder_config=ResNetConfig(**RESNET), cifar_stem=True, feature_size=16)),
        OURS,
        pooler,
        left_out=CONVOLUTIONS_ALONE,
    ),
    "resnet, mlp head": Family(
        of(ResNetConfig(**RESNET)), OURS, pooler, options={"head": "mlp"}, left_out=CONVOLUTIONS_ALONE
    ),
    "aimv2": Family(
        of(Aimv2VisionConfig(**TINY_VIT, use_head=False)),
        OURS,
        partial(mean_after, 0),
        options={"pooling": "mean"},
        other_size=None,
    ),
}
TIMM = {  # as its models are published, which have no image processor
    "timm, vit": Family(
        partial(of_timm, "vit_tiny_patch16_224", SIDE, img_size=SIDE, patch_size=4, embed_dim=16, depth=2, num_heads=2),
        "TimmWrapperForImageClassification",
        features_of_timm,
        processor=None,
    ),
    "timm, resnet": Family(
        partial(of_timm, "resnet18", SIDE, layers=[1, 1, 1, 1], channels=[8, 8, 16, 16]),
        "TimmWrapperForImageClassification",
        features_of_timm,
        processor=None,
        left_out=CONVOLUTIONS_ALONE,
    ),
    "timm, convnext": Family(
        partial(of_timm, "convnext_atto", 32, depths=[1, 1, 1, 1], dims=[4, 4, 8, 8]),
        "TimmWrapperForImageClassification",
        features_of_timm,
        processor=None,
        other_size=64,
        left_out=CONVOLUTIONS_ALONE,
    ),
    "timm, mlp head": Family(
        partial(of_timm, "vit_tiny_patch16_224", SIDE, img_size=SIDE, patch_size=4, embed_dim=16, depth=2, num_heads=2),
        OURS,
        features_of_timm,
        processor=None,
        options={"head": "mlp"},
    ),
}
FAMILIES |= TIMM
