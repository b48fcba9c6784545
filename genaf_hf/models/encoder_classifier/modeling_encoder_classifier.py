"""An image classifier made of any encoder, for what no class of `transformers` holds."""

from inspect import signature

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.resnet.modeling_resnet import ResNetConvLayer
from transformers.utils import can_return_tuple

from .configuration_encoder_classifier import EncoderClassifierConfig

HEAD_DROPOUT = 0.2


class EncoderForImageClassification(PreTrainedModel):
    """Encoder, pooling and head; takes `pixel_values` (n, 3, h, w) and gives logits (n, classes)."""

    config_class = EncoderClassifierConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EncoderClassifierConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = AutoModel.from_config(config.encoder_config, **pooling_layer(config))
        if config.cifar_stem:
            use_cifar_stem(self.encoder, config.stem_padding)
        self.classifier = classification_head(config)
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs) -> ImageClassifierOutput:
        outputs = self.encoder(pixel_values, **kwargs)
        logits = self.classifier(pooled(outputs, self.config.pooling, self.config.prefix_tokens))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear layers of the head; the encoder initializes itself."""
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            init.zeros_(module.bias)


def pooling_layer(config: EncoderClassifierConfig) -> dict[str, bool]:
    """Leaves out an encoder's pooling layer that the head does not read, where the encoder can do without."""
    known = signature(MODEL_MAPPING[type(config.encoder_config)].__init__).parameters
    return {"add_pooling_layer": config.pooling == "pooler"} if "add_pooling_layer" in known else {}


def use_cifar_stem(resnet: PreTrainedModel, padding: int) -> None:
    """Gives a ResNet the stem for small images: a 3 x 3 convolution of stride 1, and no max-pooling."""
    config = resnet.config
    stem = ResNetConvLayer(config.num_channels, config.embedding_size, activation=config.hidden_act)
    stem.convolution.padding = (padding, padding)
    resnet.embedder.embedder, resnet.embedder.pooler = stem, nn.Identity()


def classification_head(config: EncoderClassifierConfig) -> nn.Module:
    """The linear head, or Gen-AF's."""
    size = config.feature_size
    if config.head == "linear":
        return nn.Linear(size, config.num_labels)
    return nn.Sequential(
        *(nn.Linear(size, size), nn.ReLU(), nn.Dropout(HEAD_DROPOUT)),
        *(nn.Linear(size, size), nn.ReLU()),
        nn.Linear(size, config.num_labels),
    )


def pooled(outputs, pooling: str, prefix_tokens: int) -> Tensor:
    """What the head reads of an encoder's outputs, (n, d)."""
    if pooling == "pooler":
        return outputs.pooler_output.flatten(1)
    states = outputs.last_hidden_state
    if pooling == "cls":
        return states[:, 0]
    return states[:, prefix_tokens:].mean(1) if states.ndim == 3 else states.mean((2, 3))
