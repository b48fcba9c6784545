"""An encoder and what stands on its features while it is pre-trained."""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel, ResNetModel, ViTModel


def headless_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A fresh ViT without its pooling layer, which nothing would train, or a fresh ResNet."""
    return ViTModel(config, add_pooling_layer=False) if config.model_type == "vit" else ResNetModel(config)


def features(encoder: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """A ViT's class token or a ResNet's mean over places, (n, d), of images of any size that patches divide."""
    if encoder.config.model_type == "vit":
        return encoder(pixel_values, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    return encoder(pixel_values).pooler_output.flatten(1)


def feature_size(config: PreTrainedConfig) -> int:
    """d of `features`."""
    return config.hidden_size if config.model_type == "vit" else config.hidden_sizes[-1]


class AroundEncoder(nn.Module):
    """What stands around an `encoder` while that is trained; whose activations are computed anew where that is asked.

    Its methods have the names by which the Trainer calls them, the latter in transformers 5.20.
    """

    encoder: PreTrainedModel

    @property
    def supports_gradient_checkpointing(self) -> bool:
        return self.encoder.supports_gradient_checkpointing

    def activation_checkpointing_enable(self, **settings) -> None:
        self.encoder.activation_checkpointing_enable(**settings)

    def gradient_checkpointing_enable(self, **settings) -> None:
        self.encoder.gradient_checkpointing_enable(**settings)


class Projected(AroundEncoder):
    """An encoder and a head on its features; takes `pixel_values` (n, 3, h, w), gives what the head does."""

    def __init__(self, encoder: PreTrainedModel, head: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(features(self.encoder, pixel_values))


class PrototypeHead(nn.Module):
    """DINO's: three layers, normalized, and a last one whose weights have norm 1 (appendix C of the paper).

    Takes features (n, size), gives their cosines with the prototypes, (n, prototypes).
    """

    def __init__(self, size: int, hidden_size: int, bottleneck_size: int, prototypes: int, batch_norm: bool):
        super().__init__()
        norm = nn.BatchNorm1d if batch_norm else nn.Identity
        self.layers = nn.Sequential(
            *(nn.Linear(size, hidden_size), norm(hidden_size), nn.GELU()),
            *(nn.Linear(hidden_size, hidden_size), norm(hidden_size), nn.GELU()),
            nn.Linear(hidden_size, bottleneck_size),
        )
        self.prototypes = nn.Parameter(
            nn.init.trunc_normal_(self.layers[-1].weight.new_empty(prototypes, bottleneck_size))
        )
        for layer in self.layers[::3]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(self.layers(features), dim=1), F.normalize(self.prototypes, dim=1))


def projection_head(size: int, hidden_size: int, output_size: int) -> nn.Module:
    """SimCLR's: one hidden layer (section 2.1 of the paper), from (n, size) to (n, output_size)."""
    return nn.Sequential(nn.Linear(size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, output_size))
